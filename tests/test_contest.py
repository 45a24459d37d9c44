"""A contest teaches every contestant alike, counts what each costs, and shows where it thinks longer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pico import CORPORA, VOCAB, write_corpus
from rich.console import Console

from innovator.contest import Contest
from innovator.contest_report import ContestReport, contest_table
from innovator.document import read
from innovator.graph import Found, Graph
from innovator.heats import heats, tokens_of
from innovator.kinds import goal_of, read_recipe, summary
from innovator.models.cost import cost
from innovator.models.depth import DepthAttention
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.loops import PauseConfig
from innovator.pipeline import run
from innovator.plan import print_plan
from innovator.recipe import Recipe
from innovator.stages import FreshSpec
from innovator.train.mesh import Machines
from innovator.train.spec import TrainSpec

RECIPE = f"""
kind: contest
title: Pico <contest>
corpora_root: CORPORA
corpora:
  general: {{kind: files, path: general.jsonl}}
  botany: {{kind: files, path: botany.jsonl}}
tokenizer: {{kind: train, vocab_size: {VOCAB}, corpora: [general, botany]}}
base:
  kind: fresh
  decoder:
    vocab_size: {VOCAB}
    dim: 16
    n_layers: 2
    attention: {{n_heads: 2, n_kv_heads: 1, head_dim: 8}}
    ffn: {{kind: swiglu, hidden: 16}}
    tied: true
  course: {{tokens: 512, optim: {{lr: 1e-2}}}}
batch: {{seq_len: 16, rows: 8}}
trainable: {{"thinking.*": 0.5, "*": 1.0}}
evaluation: {{tokens: 300, test_share: 0.2}}
contestants:
  plain: {{}}
  longer: {{flops_of: latent}}
  deeper: {{n_layers: 4, depth: {{stride: 2}}}}
  latent: {{thinking: {{kind: latent-cot, n_steps: 2, tau: 0.53, bias_start: 0.13}}, seeds: [5, 6]}}
  mixed:
    ffn:
      kind: moe
      n_experts: 4
      n_disciplines: 1
      top_k: 2
      expert: {{kind: swiglu, hidden: 8}}
      shared: null
      dense: {{kind: swiglu, hidden: 16}}
      router: {{kind: softmax}}
    thinking: {{kind: loop, n_loops: 2}}
    losses: {{balance: 1e-3}}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    for name in CORPORA:
        write_corpus(folder / f"{name}.jsonl", name)
    recipe = folder / "contest.yaml"
    recipe.write_text(RECIPE.replace("CORPORA", str(folder)), encoding="utf8")
    return recipe


@pytest.fixture(scope="module")
def contest(path: Path) -> Contest:
    return read(path, [], Contest)


@pytest.fixture(scope="module")
def out(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(goal_of(path, []), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(out: Path) -> ContestReport:
    return ContestReport.open(out)


def graph_of(path: Path, overrides: Sequence[str] = ()) -> Graph:
    contest = read(path, overrides, Contest)
    return heats(contest, Found.look(contest))


def lesson(graph: Graph, name: str) -> TrainSpec:
    spec = graph.models[name].step.spec
    assert isinstance(spec, TrainSpec)
    return spec


def test_a_document_says_which_kind_of_recipe_it_is(path: Path, tmp_path: Path) -> None:
    assert isinstance(read_recipe(path, []), Contest)
    with pytest.raises(ValueError, match="split: is missing"):
        (tmp_path / "silent.yaml").write_text(path.read_text("utf8").replace("kind: contest\n", ""), "utf8")
        assert isinstance(read_recipe(tmp_path / "silent.yaml", []), Recipe)
    (tmp_path / "other.yaml").write_text("kind: contests\n", "utf8")
    with pytest.raises(ValueError, match=r"other\.yaml: kind: 'contests' is unknown; say contest, or leave it out$"):
        read_recipe(tmp_path / "other.yaml", [])


def test_every_contestant_is_taught_and_scored_with_each_of_its_seeds(path: Path) -> None:
    graph = graph_of(path, ["seeds=[0, 1]"])
    pairs = [f"{name}-seed-{seed}" for name in ("plain", "longer", "deeper") for seed in (0, 1)]
    assert list(graph.models)[:8] == [*pairs, "latent-seed-5", "latent-seed-6"]
    assert {role for role, _ in graph.goal.inputs} >= {"score/plain/0", "score/plain/1", "score/latent/6"}


def test_a_seed_changes_first_weights_and_the_order_of_the_text(path: Path) -> None:
    graph = graph_of(path)
    starts = [dict(graph.models[f"latent-seed-{seed}"].step.inputs)["init"].spec for seed in (5, 6)]
    assert [start.seed for start in starts if isinstance(start, FreshSpec)] == [5, 6]
    assert [lesson(graph, f"latent-seed-{seed}").seed for seed in (5, 6)] == [5, 6]


def test_contestants_differ_in_what_they_say_alone(path: Path, contest: Contest) -> None:
    graph = graph_of(path)
    plain, latent = (lesson(graph, name) for name in ("plain-seed-0", "latent-seed-5"))
    assert (plain.course, plain.mixture, plain.batch) == (latent.course, latent.mixture, latent.batch)
    assert latent.trainable == {"thinking.*": 0.5, "*": 1.0}
    assert graph.models["plain-seed-0"].config == contest.base.decoder
    deeper = graph.models["deeper-seed-0"].config
    assert (deeper.n_layers, deeper.attention.depth) == (4, DepthAttention(stride=2))
    assert isinstance(graph.models["latent-seed-5"].config.thinking, LatentCoTConfig)


def test_the_flops_of_another_are_spent_on_tokens(path: Path, contest: Contest) -> None:
    """Up to half a step."""
    models = graph_of(path).models
    one_step = cost(contest.base.decoder, contest.batch.seq_len).training * contest.batch.tokens
    assert abs(models["longer-seed-0"].flops - models["latent-seed-5"].flops) <= 0.5 * one_step
    assert tokens_of(contest, "longer") > 2 * tokens_of(contest, "plain") == 2 * contest.base.course.tokens


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("contestants.longer.flops_of=nobody", "contestants.longer.flops_of: there is no contestant 'nobody'"),
        ("contestants.latent.flops_of=longer", "contestants.*flops_of: l.* has itself the FLOPs of another"),
        ("contestants.latent.seeds=[]", "contestants.latent.seeds: give one at least"),
        ("mixture={alchemy: 1}", "mixture: there is no corpus 'alchemy'"),
        ("contestants={}", "contestants and seeds: give one of each"),
        ("seeds=[1, 1]", "yaml: seeds: each may be given once"),
        ("contestants.latent.seeds=[5, 5]", "contestants.latent.seeds: each may be given once"),
        ("contestants.plain.losses={z: 1e-3}", "contestants.plain.losses: its feed-forward is dense"),
        ("contestants.deeper.depth.stride=5", "contestants.deeper.depth: stride=5 is larger than .* layers, 4"),
        ("base.decoder.attention.depth={stride: 3}", "base.decoder.attention.depth: stride=3 is larger"),
        ("contestants.latent.thinking.n_steps=-1", "contestants.latent.thinking: n_steps=-1"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(path: Path, override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(path, [override], Contest)


def test_labels_are_those_of_as_many_disciplines_as_experts_have(path: Path) -> None:
    two = ["contestants.mixed.ffn.n_disciplines=2"]
    read(path, ["contestants.mixed.losses={label: 1}"], Contest)
    read(path, two, Contest)
    with pytest.raises(ValueError, match=r"mixed\.ffn\.n_disciplines is 2, but losses\.label tells 1 corpora"):
        read(path, [*two, "contestants.mixed.losses={label: 1}"], Contest)


def test_a_contestant_thinks_as_the_base_does_unless_it_says_otherwise(path: Path) -> None:
    base = ["base.decoder.thinking={kind: pause, n_pauses: 1}", "base.decoder.attention.depth={stride: 1}"]
    models = graph_of(path, base).models
    plain, deeper, latent = (models[name].config for name in ("plain-seed-0", "deeper-seed-0", "latent-seed-5"))
    assert plain.thinking == deeper.thinking == PauseConfig(n_pauses=1)
    assert isinstance(latent.thinking, LatentCoTConfig)
    assert plain.attention.depth == latent.attention.depth == DepthAttention(stride=1)
    assert deeper.attention.depth == DepthAttention(stride=2)


def with_bits(report: ContestReport, bits: Mapping[str, dict[int, float]]) -> ContestReport:
    plain = report.standings["plain"]
    return replace(report, standings={name: replace(plain, bits=each) for name, each in bits.items()})


def test_a_change_compares_the_seeds_that_both_have(report: ContestReport) -> None:
    """Seed 1 is a hard one: whoever lacks it, or is alone with it, must not look better or worse for that."""
    compared = with_bits(
        report, {"first": {0: 2.0, 1: 4.0}, "once": {0: 2.2}, "both": {1: 3.2, 0: 1.8}, "other": {7: 1.0}}
    )
    once, both = compared.change("once"), compared.change("both")
    assert once is not None and once.mean == pytest.approx(0.1) and once.spread is None
    assert both is not None and both.mean == pytest.approx(-0.15)
    assert both.spread == pytest.approx(0.1 / 2**0.5)
    assert compared.change("other") is None and compared.best == "both"


def test_who_shares_no_seed_is_shown_without_a_change(report: ContestReport, out: Path) -> None:
    change, own = report.change("latent"), report.change("plain")
    assert change is None and own is not None and own.mean == 0
    assert (out / "report.html").read_text(encoding="utf8").count("<td>-</td>") == 1


def test_a_standing_is_the_mean_over_corpora_and_seeds(report: ContestReport) -> None:
    latent = report.standings["latent"]
    assert len(latent.bits) == 2 and latent.spread is not None and latent.spread > 0
    assert latent.mean == pytest.approx(sum(latent.bits_by_corpus.values()) / 2)
    assert set(latent.bits) == {5, 6} and report.standings["plain"].spread is None


def test_passes_are_counted_and_speaking_costs_what_they_say(report: ContestReport, contest: Contest) -> None:
    plain, latent, mixed = (report.standings[name] for name in ("plain", "latent", "mixed"))
    assert (plain.passes, mixed.passes) == (1.0, 2.0) and 1.0 < latent.passes < 3.0
    assert plain.flops_per_token < latent.flops_per_token
    decoder = contest.contestants["latent"].decoder(contest.base.decoder)
    assert latent.flops_per_token == pytest.approx(cost(decoder, 16).speaking(latent.passes))
    assert mixed.bytes_per_token == 2 * plain.bytes_per_token == 2 * 2 * 2 * 2 * 8


def test_a_passage_is_shown_where_some_tokens_take_longer(report: ContestReport) -> None:
    assert {name for name, it in report.standings.items() if it.passages} == {"latent"}
    passage = report.standings["latent"].passages["general"]
    assert len(passage.pieces) == len(passage.passes) and set(passage.passes) <= {1, 2, 3}
    assert "".join(passage.pieces).startswith("<|endoftext|>")


def test_the_page_stands_alone_and_shows_every_contestant(out: Path, report: ContestReport) -> None:
    page = (out / "report.html").read_text(encoding="utf8")
    assert "Pico &lt;contest&gt;" in page and page.count("<svg") == 2
    assert all(f'<th scope="row">{name}</th>' in page for name in report.standings)
    assert page.count('<div class="passage">') == 2
    assert {path.name for path in (out / "plots").iterdir()} == {"training.png", "speaking.png"}


def test_the_terminal_shows_bits_and_costs(report: ContestReport, path: Path, out: Path) -> None:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(contest_table(report))
    (line,) = [line for line in capture.get().splitlines() if line.strip().startswith("latent")]
    assert f"{report.standings['latent'].mean:.3f}" in line and f"{report.standings['latent'].passes:.2f}" in line
    assert summary(goal_of(path, []), out.parent).row_count == len(report.standings)


def test_a_plan_shows_passes(path: Path, contest: Contest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(contest, tmp_path, 1.0, Machines(n_gpus=1, memory=80))
    shown = capsys.readouterr().err
    line = next(line for line in shown.splitlines() if "latent-seed-5" in line)
    cells = [cell.strip() for cell in line.strip("\u2502").split("\u2502")]
    model = graph_of(path).models["latent-seed-5"]
    assert cells[4:] == [f"{model.flops:.2e}", "3", f"{cost(model.config, 16).forward:.2e}"]


def test_a_second_run_makes_nothing(path: Path, out: Path) -> None:
    before = {step: (step / "DONE").read_text(encoding="utf8") for step in out.parent.iterdir()}
    run(goal_of(path, []), out.parent)
    assert before == {step: (step / "DONE").read_text(encoding="utf8") for step in out.parent.iterdir()}
    assert json.loads((out / "report.json").read_text(encoding="utf8"))["title"] == "Pico <contest>"
