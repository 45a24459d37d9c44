"""The steps that a recipe stands for: corpora, the base, four stages, baselines, scores and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from innovator.bases import FreshBase
from innovator.data.tokenizer import FolderTokenizer, TokenizerSpec, TrainTokenizer
from innovator.data.tokens import TokensSpec
from innovator.evaluate.bits import EvaluateSpec
from innovator.models.cost import cost
from innovator.models.moe import RouterLosses, SoftmaxRouter
from innovator.pipeline import Step
from innovator.recipe import Baseline, Recipe
from innovator.report import ReportSpec
from innovator.stages import FreshSpec, ImportSpec, Model, ThinkSpec, learn, split, think, with_tokens
from innovator.study import Study
from innovator.train.aim import AimSpec
from innovator.train.spec import TrainSpec
from innovator.weights.folder import Folder
from innovator.weights.upcycle import UntiedStart, UpcycleSpec

ALL = {"*": 1.0}
OURS, SPLIT, WARM = "innovator", "stage-2-split", "stage-3-warm-router"


@dataclass(frozen=True)
class Found:
    """What steps depend on beside the recipe: what its corpora, tokenizer and base hold at this moment."""

    corpora: Mapping[str, str]
    tokenizer: TrainTokenizer | FolderTokenizer
    tokenizer_fingerprint: str
    base_folder: str
    base_fingerprint: str

    @classmethod
    def look(cls, recipe: Study) -> Found:
        """ValueError if something that the recipe names is not there."""
        corpora = {name: recipe.source(name).fingerprint() for name in recipe.corpora}
        tokenizer = recipe.base.tokenizer(recipe.tokenizer)
        if isinstance(recipe.base, FreshBase):
            return cls(corpora, tokenizer, tokenizer.fingerprint(), "", "")
        folder = Folder.open(recipe.base.folder())
        return cls(corpora, tokenizer, tokenizer.fingerprint(), str(folder.path), folder.fingerprint)

    @classmethod
    def nothing(cls, recipe: Study) -> Found:
        """For a plan that is made where the corpora or the base are not."""
        return cls(dict.fromkeys(recipe.corpora, ""), FolderTokenizer(path=""), "", "", "")


class Library:
    """The steps that every kind of recipe begins and ends with: texts cut into tokens, and models scored on them."""

    def __init__(self, study: Study, found: Found) -> None:
        self.study, self.found = study, found
        self.tokenizer = Step("tokenizer", self._tokenizer())
        self.corpora = {name: self._tokens(name) for name in study.corpora}

    def score(self, name: str, model: Model) -> Step:
        """The step that scores one model."""
        study = self.study
        work = EvaluateSpec(
            model=name,
            corpora=tuple(study.corpora),
            disciplines=study.disciplines,
            tokens=study.evaluation.tokens,
            seq_len=study.batch.seq_len,
            rows=study.batch.micro_rows or study.batch.rows,
            train_tokens=model.tokens,
            train_flops=model.flops,
        )
        return Step(f"evaluate-{name}", work, (("model", model.step), *self.corpora.items()))

    def _tokenizer(self) -> TokenizerSpec:
        names = self.study.tokenizer_corpora
        return TokenizerSpec(
            tokenizer=self.found.tokenizer,
            sources=tuple(self.study.source(name) for name in names),
            fingerprints=(self.found.tokenizer_fingerprint, *(self.found.corpora[name] for name in names)),
        )

    def _tokens(self, name: str) -> Step:
        held_out = self.study.evaluation
        work = TokensSpec(
            source=self.study.source(name),
            source_fingerprint=self.found.corpora[name],
            validation=held_out.validation_share,
            test=held_out.test_share,
        )
        return Step(f"tokens-{name}", work, (("tokenizer", self.tokenizer),))


@dataclass(frozen=True)
class Graph:
    """Every model that is scored, by its name in the report, and the report that everything leads to."""

    models: Mapping[str, Model]
    goal: Step

    @classmethod
    def of(cls, recipe: Recipe, found: Found) -> Graph:
        """The steps of a recipe where these things are found."""
        builder = _Builder(recipe, found)
        models = builder.models()
        scores = [(f"score/{name}", builder.library.score(name, model)) for name, model in models.items()]
        trainings = [(f"train/{step.name}", step) for step in _trainings(models)]
        work = ReportSpec(
            title=recipe.title, disciplines=recipe.disciplines, general=recipe.general, licences=recipe.licences
        )
        inputs = (*scores, *trainings, ("split", models[SPLIT].step))
        return cls(models, Step("report", work, inputs))


def _trainings(models: Mapping[str, Model]) -> list[Step]:
    steps = (step for model in models.values() for step in model.step.upstream() if isinstance(step.spec, TrainSpec))
    return list({step.digest: step for step in steps}.values())


class _Builder:
    def __init__(self, recipe: Recipe, found: Found) -> None:
        self.recipe, self.found = recipe, found
        self.library = Library(recipe, found)
        self.corpora = self.library.corpora

    def models(self) -> dict[str, Model]:
        """Every model of the recipe, in the order of the report."""
        base = self._base()
        stage_1 = ALL if self.recipe.induce is None else self.recipe.induce.trainable
        mixed = self._split(base, self.taught("induce", base, stage_1))
        warm = self._warmed(mixed)
        recipe = self.recipe
        spec = recipe.integration(recipe.integrate, ALL)
        ours = replace(spec, trainable=recipe.integrate.trainable, losses=recipe.integrate.losses)
        found = {"base": base, SPLIT: mixed}
        if warm is not mixed:
            found[WARM] = warm
        found[OURS] = learn("integrate", self._thinking(warm), ours, self.corpora)
        rivals = _Rivals(self, base, found[OURS], spec)
        return found | {name: rivals.build(name) for name in recipe.baselines}

    def taught(self, verb: str, base: Model, trainable: dict[str, float]) -> dict[str, Model]:
        """A copy of the base taught by each discipline; the base itself where the recipe has no stage 1."""
        stage, general = self.recipe.induce, self.recipe.general
        if stage is None:
            return dict.fromkeys(self.recipe.disciplines, base)
        share = {general: stage.general_share} if stage.general_share > 0 else {}
        return {
            name: learn(
                f"{verb}-{name}",
                base,
                self.recipe.training(stage.course, {name: 1.0 - stage.general_share} | share, trainable),
                self.corpora,
            )
            for name in self.recipe.disciplines
        }

    def _base(self) -> Model:
        recipe, base = self.recipe, self.recipe.base
        if not isinstance(base, FreshBase):
            work = ImportSpec(path=self.found.base_folder, fingerprint=self.found.base_fingerprint)
            return Model(Step("base", work), base.config())
        fresh = FreshSpec(decoder=base.decoder, seed=recipe.seed, init=base.init)
        start = Model(Step("fresh", fresh, (("tokenizer", self.library.tokenizer),)), base.decoder)
        taught = learn("base", start, recipe.training(base.course, {recipe.general: 1.0}, ALL), self.corpora)
        return Model(taught.step, base.decoder)

    def _split(self, base: Model, taught: Mapping[str, Model]) -> Model:
        return split("split", base, taught, self.recipe.split, False, self.recipe.seed)

    def _warmed(self, mixed: Model) -> Model:
        stage, recipe = self.recipe.warm_router, self.recipe
        if stage is None:
            return mixed
        if stage.means is not None:
            mixed = self._aimed(mixed, stage.means.tokens, stage.means.sharpness)
        spec = recipe.training(stage.course, recipe.blend(stage.general_share, {}), stage.trainable)
        asked = replace(spec, losses=stage.losses, lm=stage.lm, tied_rows=stage.tied_rows)
        return learn("warm-router", mixed, asked, self.corpora)

    def _thinking(self, mixed: Model) -> Model:
        stage = self.recipe.integrate
        if stage.thinking is None and stage.depth is None:
            return mixed
        return think("think", mixed, ThinkSpec(thinking=stage.thinking, depth=stage.depth, seed=self.recipe.seed))

    def _aimed(self, mixed: Model, tokens: int, sharpness: float) -> Model:
        recipe = self.recipe
        work = AimSpec(
            disciplines=recipe.disciplines,
            tokens=tokens,
            seq_len=recipe.batch.seq_len,
            rows=recipe.batch.micro_rows or recipe.batch.rows,
            sharpness=sharpness,
            seed=recipe.seed,
        )
        texts = tuple((name, self.corpora[name]) for name in recipe.disciplines)
        return replace(mixed, step=Step("aim-router", work, (("init", mixed.step), *texts)))


@dataclass(frozen=True)
class _Rivals:
    """What the mixture is compared with: the same base, corpora, optimizer and schedule, another way to learn."""

    builder: _Builder
    base: Model
    ours: Model
    spec: TrainSpec

    def build(self, name: Baseline) -> Model:
        """The baseline of that name."""
        makers = {
            "dense-equal-tokens": self.equal_tokens,
            "dense-equal-flops": self.equal_flops,
            "dense-science-only": self.science_only,
            "sparse-upcycling": self.sparse_upcycling,
            "btx": self.branch_train_mix,
        }
        return makers[name](name)

    def equal_tokens(self, name: str) -> Model:
        """The dense base on stage 4's mixture, for all the tokens that all stages saw."""
        return learn(name, self.base, with_tokens(self.spec, self.ours.tokens), self.builder.corpora)

    def equal_flops(self, name: str) -> Model:
        """The dense base on stage 4's mixture, for all the arithmetic that all stages did."""
        per_token = cost(self.base.config, self.spec.batch.seq_len).training
        spec = with_tokens(self.spec, round(self.ours.flops / per_token))
        return learn(name, self.base, spec, self.builder.corpora)

    def science_only(self, name: str) -> Model:
        """The dense base without any general text: what forgetting looks like."""
        recipe = self.builder.recipe
        spec = recipe.integration(recipe.integrate.science_only(), ALL)
        return learn(name, self.base, with_tokens(spec, self.ours.tokens), self.builder.corpora)

    def sparse_upcycling(self, name: str) -> Model:
        """Full copies of every feed-forward, top-2 (arXiv 2212.05055), for all the tokens that all stages saw."""
        n_copies = len(self.builder.recipe.disciplines)
        copies = {"base": self.base} | {f"copy-{index}": self.base for index in range(1, n_copies)}
        return self._mixed(name, copies, averaged=False)

    def branch_train_mix(self, name: str) -> Model:
        """Whole models branched per discipline, everything but the feed-forwards averaged, top-2 (arXiv 2403.07816).

        The base is the generalist among the experts; what the branches learnt counts towards the equal tokens.
        """
        branches = self.builder.taught("branch", self.base, ALL)
        return self._mixed(name, {**branches, "base": self.base}, averaged=True)

    def _mixed(self, name: str, sources: Mapping[str, Model], averaged: bool) -> Model:
        upcycling = UpcycleSpec(n_parts=1, top_k=2, router=SoftmaxRouter(), shared=False, start=UntiedStart())
        mixed = split(f"{name}-split", self.base, sources, upcycling, averaged, self.builder.recipe.seed)
        left = max(self.ours.tokens - mixed.tokens, self.spec.batch.tokens)
        losses = RouterLosses(balance=self.builder.recipe.integrate.losses.balance)
        spec = replace(with_tokens(self.spec, left), losses=losses)
        return learn(name, mixed, spec, self.builder.corpora)
