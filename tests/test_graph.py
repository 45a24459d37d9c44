"""What a recipe stands for: which models there are, what each reads, and what each costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from pico import DISCIPLINES, GENERAL
from pico_recipe import BASELINES, write_recipe

from innovator.document import read
from innovator.graph import OURS, SPLIT, WARM, Found, Graph
from innovator.models.cost import cost
from innovator.models.depth import DepthAttention
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.moe import MoEConfig
from innovator.models.thinking import PlainConfig
from innovator.pipeline import Step
from innovator.recipe import Recipe
from innovator.stages import SplitSpec
from innovator.train.spec import TrainSpec

ONE_STEP = 8 * 16
PHASES = "integrate.phases=[{from_tokens: 512, general_share: 0.2, weights: {botany: 0, dance: 2}}]"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def graph_of(path: Path, *overrides: str) -> Graph:
    recipe = read(path, overrides, Recipe)
    return Graph.of(recipe, Found.look(recipe))


def digests(graph: Graph) -> set[str]:
    return {f"{step.name}-{step.digest}" for step in graph.goal.upstream()}


def kinds_of_change(before: Graph, after: Graph) -> set[str]:
    """Names of the steps that have to be made anew."""
    return {name.rpartition("-")[0] for name in digests(after) - digests(before)}


def step_named(graph: Graph, name: str) -> Step:
    (found,) = [step for step in graph.goal.upstream() if step.name == name]
    return found


def lesson_of(step: Step) -> TrainSpec:
    assert isinstance(step.spec, TrainSpec)
    return step.spec


def tokens_taught(steps: Iterable[Step]) -> int:
    """Tokens of all trainings among some steps, but for the base's own."""
    lessons = [step.spec for step in steps if isinstance(step.spec, TrainSpec) and step.name != "base"]
    return sum(spec.n_steps * spec.batch.tokens for spec in lessons)


def test_every_stage_and_every_baseline_is_scored(path: Path) -> None:
    assert list(graph_of(path).models) == ["base", SPLIT, WARM, OURS, *BASELINES]


def test_a_recipe_without_baselines_scores_the_stages(path: Path) -> None:
    assert list(graph_of(path, "baselines=[]").models) == ["base", SPLIT, WARM, OURS]


def test_without_stage_three_the_split_goes_to_stage_four(path: Path) -> None:
    graph = graph_of(path, "warm_router=null")
    assert WARM not in graph.models
    assert dict(graph.models[OURS].step.inputs)["init"] is graph.models[SPLIT].step


def test_without_stage_one_the_base_itself_is_split(path: Path) -> None:
    graph = graph_of(path, "induce=null")
    upstream = {step.name for step in graph.models[SPLIT].step.upstream()}
    assert upstream.isdisjoint({f"induce-{name}" for name in DISCIPLINES})
    assert graph.models[SPLIT].tokens == 0


def test_aiming_stands_between_the_split_and_the_warm_up(path: Path) -> None:
    aim = dict(graph_of(path).models[WARM].step.inputs)["init"]
    assert aim.name == "aim-router" and dict(aim.inputs)["init"].name == "split"
    without = graph_of(path, "warm_router.means=null")
    assert dict(without.models[WARM].step.inputs)["init"].name == "split"


def test_a_mixture_that_thinks_is_one_field(path: Path) -> None:
    graph = graph_of(path, "integrate.thinking={kind: latent-cot, bias_start: -4}", "integrate.depth={stride: 1}")
    begun = dict(graph.models[OURS].step.inputs)["init"]
    assert begun.name == "think" and dict(begun.inputs)["init"] is graph.models[WARM].step
    ours = graph.models[OURS].config
    others = [model for name, model in graph.models.items() if name != OURS]
    assert ours.thinking == LatentCoTConfig(bias_start=-4.0) and ours.attention.depth == DepthAttention(stride=1)
    assert all(model.config.thinking == PlainConfig() for model in others)
    assert all(model.config.attention.depth is None for model in others)
    assert ours.ffn == graph_of(path).models[OURS].config.ffn


@pytest.mark.parametrize("kind", ["latent-cot", "ponderlm", "loop"])
def test_a_way_of_thinking_that_nobody_teaches_is_said(path: Path, kind: str) -> None:
    thinks = (f"integrate.thinking={{kind: {kind}}}", 'integrate.trainable={"layers.*": 1.0, "thinking.*": 0.0}')
    own = kind == "latent-cot"  # the others have no parameters
    problems = read(path, thinks, Recipe).problems()
    assert [said.partition(": ")[0] for said in problems] == ["integrate.trainable"] * own
    assert read(path, (*thinks, 'integrate.trainable={"thinking.*": 1.0}'), Recipe).problems() == []


def test_a_stride_beyond_the_layers_is_refused_at_its_stage(path: Path) -> None:
    read(path, ["integrate.depth={stride: 2}"], Recipe)
    with pytest.raises(ValueError, match=r"integrate\.depth: stride=9 is larger than the number of layers, 2"):
        read(path, ["integrate.depth={stride: 9}"], Recipe)


def test_to_think_makes_only_what_follows_stage_three(path: Path) -> None:
    thinks = graph_of(path, "baselines=[]", "integrate.thinking={kind: loop}")
    assert kinds_of_change(graph_of(path, "baselines=[]"), thinks) == {
        "think", "integrate", "evaluate-innovator", "report",
    }  # fmt: skip


def test_to_think_costs_and_the_baseline_of_equal_flops_is_given_as_much(path: Path) -> None:
    plain, thinks = graph_of(path).models, graph_of(path, "integrate.thinking={kind: loop}").models
    assert thinks[OURS].tokens == plain[OURS].tokens
    assert thinks[OURS].flops > 1.5 * plain[OURS].flops
    assert thinks["dense-equal-flops"].flops > 1.5 * plain["dense-equal-flops"].flops


@pytest.mark.parametrize("name", [SPLIT, WARM, OURS, "dense-equal-tokens", "sparse-upcycling", "btx"])
def test_tokens_are_those_of_all_trainings_since_the_base(path: Path, name: str) -> None:
    model = graph_of(path).models[name]
    assert model.tokens == tokens_taught(model.step.upstream())


@pytest.mark.parametrize("name", ["dense-equal-tokens", "dense-science-only", "sparse-upcycling", "btx"])
def test_baselines_of_equal_tokens_see_as_many(path: Path, name: str) -> None:
    models = graph_of(path).models
    assert abs(models[name].tokens - models[OURS].tokens) <= ONE_STEP


def test_the_baseline_of_equal_flops_spends_as_many(path: Path) -> None:
    """Up to half an optimizer step, which cannot be cut."""
    models = graph_of(path).models
    one_step = cost(models["base"].config, 16).training * ONE_STEP
    assert abs(models["dense-equal-flops"].flops - models[OURS].flops) <= 0.5 * one_step


def test_science_only_reads_no_general_text(path: Path) -> None:
    step = graph_of(path).models["dense-science-only"].step
    assert dict(step.inputs).keys() == {"init", *DISCIPLINES}
    assert lesson_of(step).mixture.keys() == set(DISCIPLINES)


def test_sparse_upcycling_copies_the_base_as_often_as_there_are_disciplines(path: Path) -> None:
    model = graph_of(path).models["sparse-upcycling"]
    ffn = model.config.ffn
    assert isinstance(ffn, MoEConfig)
    assert (ffn.n_experts, ffn.top_k, ffn.shared) == (len(DISCIPLINES), 2, None)
    assert tokens_taught(dict(model.step.inputs)["init"].upstream()) == 0


def test_btx_branches_learn_everything_and_the_base_is_an_expert(path: Path) -> None:
    mixed = dict(graph_of(path).models["btx"].step.inputs)["init"]
    assert isinstance(mixed.spec, SplitSpec)
    assert mixed.spec.averaged and mixed.spec.sources == (*DISCIPLINES, "base")
    for name in DISCIPLINES:
        assert lesson_of(dict(mixed.inputs)[name]).trainable == {"*": 1.0}


def test_stage_one_teaches_feed_forwards_and_stage_three_routers(path: Path) -> None:
    graph = graph_of(path)
    assert lesson_of(step_named(graph, "induce-botany")).trainable == {"layers.*.ffn.*": 1.0}
    assert lesson_of(step_named(graph, "induce-botany")).mixture == {"botany": 0.75, GENERAL: 0.25}
    assert lesson_of(graph.models[WARM].step).trainable == {"layers.*.ffn.router.*": 1.0}
    assert lesson_of(graph.models[WARM].step).lm == 0.0


def test_the_base_learns_general_text_alone(path: Path) -> None:
    assert lesson_of(graph_of(path).models["base"].step).mixture == {GENERAL: 1.0}


def test_a_change_of_stage_four_makes_only_what_follows_it(path: Path) -> None:
    changed = kinds_of_change(
        graph_of(path, "baselines=[]"), graph_of(path, "baselines=[]", "integrate.general_share=0.4")
    )
    assert changed == {"integrate", "evaluate-innovator", "report"}


def test_phases_change_shares_and_weights_from_a_token_on(path: Path) -> None:
    spec = lesson_of(graph_of(path, PHASES).models[OURS].step)
    (phase,) = spec.phases
    assert spec.mixture == lesson_of(graph_of(path).models[OURS].step).mixture
    assert phase.from_tokens == 512
    assert phase.mixture == pytest.approx({"alchemy": 0.2, "cookery": 0.2, "dance": 0.4, GENERAL: 0.2})


def test_weights_are_those_of_disciplines_among_each_other(path: Path) -> None:
    spec = lesson_of(graph_of(path, "integrate.weights={botany: 5, dance: 0}").models[OURS].step)
    assert spec.mixture == pytest.approx({"alchemy": 1 / 14, "botany": 5 / 14, "cookery": 1 / 14, GENERAL: 0.5})


def test_a_corpus_that_a_later_phase_brings_in_is_read(path: Path) -> None:
    later = "integrate.phases=[{from_tokens: 512, general_share: 0.2}]"
    step = graph_of(path, "integrate.weights={dance: 0}", later).models[OURS].step
    assert "dance" not in lesson_of(step).mixture and "dance" in dict(step.inputs)


def test_other_phases_make_only_what_follows_stage_four(path: Path) -> None:
    changed = kinds_of_change(graph_of(path, "baselines=[]"), graph_of(path, "baselines=[]", PHASES))
    assert changed == {"integrate", "evaluate-innovator", "report"}


@pytest.mark.parametrize("name", BASELINES)
def test_the_phases_of_a_baseline_are_the_same_shares_of_its_run(path: Path, name: str) -> None:
    """Up to a row of the course, which is one of its 64."""
    models = graph_of(path, PHASES).models
    ours, rival = lesson_of(models[OURS].step), lesson_of(models[name].step)
    first, rivals = (spec.phases[0].first_row(16) / spec.n_rows for spec in (ours, rival))
    assert abs(rivals - first) <= 1 / ours.n_rows
    assert rival.phases[0].mixture.keys() - {GENERAL} == ours.phases[0].mixture.keys() - {GENERAL}
    assert (GENERAL in rival.phases[0].mixture) == (name != "dense-science-only")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("phases=[{from_tokens: 0, general_share: 0.2}]", "integrate: phases.0.from_tokens is 0: the phase before it"),
        (
            "phases=[{from_tokens: 33, general_share: 0.2}, {from_tokens: 48, general_share: 0.1}]",
            "integrate: phases.1.from_tokens is 48: the phase before it begins with token 48",
        ),
        (
            "phases=[{from_tokens: 1009, general_share: 0.2}]",
            "integrate: phases.0.from_tokens is 1009: the course is over after 1024 tokens",
        ),
        (
            "phases=[{from_tokens: 16, general_share: 0.2, weights: {biology: 1}}]",
            "integrate.phases.0: weights: there is no discipline 'biology'; there are alchemy, botany",
        ),
        (
            "phases=[{from_tokens: 16, general_share: 1.2}]",
            "integrate.phases.0: general_share is 1.2: it must be between",
        ),
        ("phases=[{from_tokens: 16}]", "integrate.phases.0.general_share: is missing"),
        ("weights={dance: -1}", "integrate: weights: none may be below 0"),
        ("weights={alchemy: 0, botany: 0, cookery: 0, dance: 0}", "integrate: weights: .* one at least must be above"),
        ("weights={dance: 1e-5}", "integrate: the weight of 'dance' is below 1/4096 of the whole"),
    ],
)
def test_phases_that_cannot_be_are_refused_by_their_field(path: Path, override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(path, [f"integrate.{override}"], Recipe)


def test_a_baseline_more_makes_only_itself(path: Path) -> None:
    before, after = graph_of(path, "baselines=[]"), graph_of(path, "baselines=[dense-science-only]")
    assert kinds_of_change(before, after) == {"dense-science-only", "evaluate-dense-science-only", "report"}


def test_another_text_of_a_discipline_leaves_base_and_other_disciplines(path: Path) -> None:
    recipe = read(path, ["baselines=[]", "tokenizer.corpora=[general]"], Recipe)
    found = Found.look(recipe)
    edited = replace(found, corpora={**found.corpora, "botany": "other"})
    changed = kinds_of_change(Graph.of(recipe, found), Graph.of(recipe, edited))
    assert {"tokens-botany", "induce-botany", "split", "integrate", "evaluate-base"} <= changed
    assert changed.isdisjoint({"tokenizer", "tokens-general", "base", "induce-alchemy"})


def test_a_new_title_makes_only_the_report(path: Path) -> None:
    assert kinds_of_change(graph_of(path), graph_of(path, "title=Other")) == {"report"}


def test_the_report_reads_every_score_every_training_and_the_split(path: Path) -> None:
    graph = graph_of(path)
    roles = set(dict(graph.goal.inputs))
    lessons = {step.name for step in graph.goal.upstream() if isinstance(step.spec, TrainSpec)}
    assert roles == {f"score/{name}" for name in graph.models} | {f"train/{name}" for name in lessons} | {"split"}
