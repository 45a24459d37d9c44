"""What stages are made of, learning, splitting and beginning to think, as functions from models to a model.

A `Model` is a step whose folder will hold weights, together with what is known of them before any work is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from innovator.data.tokenizer import Tokenizer
from innovator.files import write_json
from innovator.models.cost import cost
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.initial import GPT2Init, Init
from innovator.models.spec import Spec
from innovator.models.ways import ThinkingConfig
from innovator.pipeline import Step
from innovator.train.spec import Course, TrainSpec
from innovator.weights.ahead import ahead
from innovator.weights.fields import Json
from innovator.weights.folder import Folder, save_folder
from innovator.weights.proof import induction, prove
from innovator.weights.upcycle import UpcycleSpec, average, upcycle

Corpora = Mapping[str, Step]


@dataclass(frozen=True)
class Model:
    """Weights that a step makes; tokens and training FLOPs are counted from the base on."""

    step: Step
    config: DecoderConfig
    tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FreshSpec(Spec):
    """Random weights of a shape, with the tokenizer beside them."""

    decoder: DecoderConfig
    seed: int
    init: Init = field(default_factory=GPT2Init)

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        tokenizer = Tokenizer.open(inputs["tokenizer"])
        check_vocabulary(tokenizer, self.decoder)
        model = Decoder(self.decoder)
        model.initialize(self.seed, self.init)
        tied = {"unembed.weight"} if self.decoder.tied else set()
        tensors = ((name, tensor) for name, tensor in model.state_dict().items() if name not in tied)
        facts: Json = {"bos_token_id": tokenizer.prefix_id, "eos_token_id": tokenizer.eos_id}
        save_folder(out / "weights", self.decoder, tensors, inputs["tokenizer"], facts)


@dataclass(frozen=True, kw_only=True)
class ImportSpec(Spec):
    """A model folder that exists already; it is linked, not copied, and never written to.

    fingerprint: what the folder held when the step was named.
    """

    path: str
    fingerprint: str

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        folder = Folder.open(Path(self.path))
        check_vocabulary(Tokenizer.open(folder.path), folder.config)
        beside = out / "weights.partial"
        beside.unlink(missing_ok=True)
        beside.symlink_to(folder.path.resolve(), target_is_directory=True)
        os.replace(beside, out / "weights")


@dataclass(frozen=True, kw_only=True)
class SplitSpec(Spec):
    """Cuts taught feed-forwards into experts and proves that nothing was lost; no training.

    sources: the inputs whose feed-forwards become experts, in this order. averaged: whether everything else is the
    mean of base and sources (Branch-Train-MiX) or the base's own.
    """

    upcycle: UpcycleSpec
    sources: tuple[str, ...]
    averaged: bool = False
    seed: int = 0

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        base = Folder.open(inputs["base"] / "weights")
        sources = [Folder.open(inputs[name] / "weights") for name in self.sources]
        for source in sources:
            if source.config != base.config:
                raise ValueError(f"{source.path} has not the shape of the base: only copies of it can be its experts")
        self._prove(base, sources, out)
        taught = {name: folder for name, folder in zip(self.sources, sources, strict=True) if name != "base"}
        if taught:
            layers = [asdict(induction(base, taught, layer)) for layer in range(base.config.n_layers)]
            write_json(out / "induction.json", {"disciplines": list(taught), "layers": layers})
        tensors = upcycle(base, sources, self.upcycle, self.seed)
        if self.averaged:
            everyone = list({folder.path: folder for folder in (base, *sources)}.values())
            tensors = ((n, t if ".ffn." in n else average(everyone, n)) for n, t in tensors)
        config = self.upcycle.config(base.config, len(sources))
        save_folder(out / "weights", config, ahead(tensors), base.path, base.facts)

    def _prove(self, base: Folder, sources: Sequence[Folder], out: Path) -> None:
        self.upcycle.config(base.config, len(sources))
        proof = prove(base, sources, self.upcycle, self.seed)
        write_json(out / "proof.json", {**asdict(proof), "passed": proof.passed})
        if self.upcycle.start.keeps_function and not proof.passed:
            raise ValueError(
                f"the mixture is not the model it came from: parts differ from the whole by {proof.parts_error:.1e}, "
                f"logits by {proof.logits_error:.1e}, allowed are {proof.tolerance:.0e}; see {out / 'proof.json'}"
            )


@dataclass(frozen=True, kw_only=True)
class ThinkSpec(Spec):
    """Gives a model another way of thinking, whose own parameters are fresh, and leaves all else as it is.

    thinking, depth: the way it thinks and how its values are mixed over layers; as before where None.
    """

    thinking: ThinkingConfig | None = None
    depth: DepthAttention | None = None
    seed: int = 0

    def config(self, before: DecoderConfig) -> DecoderConfig:
        """The shape of a model that thinks like this."""
        attention = replace(before.attention, depth=self.depth or before.attention.depth)
        return replace(before, attention=attention, thinking=self.thinking or before.thinking)

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        source = Folder.open(inputs["init"] / "weights")
        config = self.config(source.config)
        if self.thinking is None:
            tensors = source.pieces()
        else:
            kept = ((name, tensor) for name, tensor in source.pieces() if not name.startswith("thinking."))
            tensors = chain(kept, fresh_thinking(self.thinking, config.dim, self.seed))
        save_folder(out / "weights", config, ahead(tensors), source.path, source.facts)


def fresh_thinking(thinking: ThinkingConfig, dim: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters that a way of thinking begins with, by their names in a decoder."""
    module = thinking.build(dim)
    module.reset(torch.Generator().manual_seed(seed))
    for name, tensor in module.state_dict().items():
        yield f"thinking.{name}", tensor


def learn(name: str, model: Model, spec: TrainSpec, corpora: Corpora) -> Model:
    """Any training run: the model after it."""
    read = tuple((corpus, corpora[corpus]) for corpus in spec.corpora)
    tokens = spec.n_steps * spec.batch.tokens
    flops = tokens * cost(model.config, spec.batch.seq_len, spec.trainable).training
    step = Step(name, spec, (("init", model.step), *read))
    return Model(step, model.config, model.tokens + tokens, model.flops + flops)


def split(name: str, base: Model, sources: Mapping[str, Model], spec: UpcycleSpec, averaged: bool, seed: int) -> Model:
    """Stage 2: the taught feed-forwards become experts beside the base's own."""
    work = SplitSpec(upcycle=spec, sources=tuple(sources), averaged=averaged, seed=seed)
    others = tuple((role, source.step) for role, source in sources.items() if role != "base")
    step = Step(name, work, (("base", base.step), *others))
    config = spec.config(base.config, len(sources))
    tokens = sum(source.tokens for source in sources.values())
    return Model(step, config, tokens, sum(source.flops for source in sources.values()))


def think(name: str, model: Model, spec: ThinkSpec) -> Model:
    """The model as it begins to think."""
    return replace(model, step=Step(name, spec, (("init", model.step),)), config=spec.config(model.config))


def with_tokens(spec: TrainSpec, tokens: int) -> TrainSpec:
    """The same training for another number of tokens; the phases of its mixture keep their shares of the run."""
    course: Course = replace(spec.course, tokens=tokens)
    longer = replace(spec, course=course, phases=())
    rows = (phase.first_row(spec.batch.seq_len) * longer.n_rows // spec.n_rows for phase in spec.phases)
    starts = (row * spec.batch.seq_len for row in rows)
    phases = (replace(phase, from_tokens=start) for phase, start in zip(spec.phases, starts, strict=True))
    return replace(longer, phases=tuple(phases))


def check_vocabulary(tokenizer: Tokenizer, config: DecoderConfig) -> None:
    """ValueError if the tokenizer can say more than the model can hear."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}: "
            "they do not belong together"
        )
