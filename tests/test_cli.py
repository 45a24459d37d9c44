"""The command line makes a run whole, finds it again, and answers wrong input with one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pico import CORPORA, DISCIPLINES
from pico_recipe import BASELINES, write_recipe

from innovator import cli
from innovator.say import Advance
from innovator.train import loop

MODELS = ["base", "stage-2-split", "stage-3-warm-router", "innovator", *BASELINES]
SHORT = ("baselines=[]",)


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def innovator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process, on a terminal wide enough not to break lines."""

    def command(*words: str | Path) -> Answer:
        monkeypatch.setenv("COLUMNS", "500")
        monkeypatch.setattr(sys, "argv", ["innovator", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return command


@dataclass(frozen=True)
class Finished:
    """A recipe that was run to its end."""

    recipe: Path
    root: Path

    def step(self, name: str) -> Path:
        (found,) = [path for path in self.root.iterdir() if path.name.rpartition("-")[0] == name]
        return found

    def report(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = json.loads((self.step("report") / "report.json").read_text("utf8"))
        return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(home)
    with pytest.MonkeyPatch.context() as words:
        words.setattr(sys, "argv", ["innovator", "run", str(recipe), "--root", str(home / "runs")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return Finished(recipe, home / "runs")


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """The finished run once more, for a test that adds to it."""
    shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)
    return Finished(finished.recipe, tmp_path / "runs")


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} if root.is_dir() else set()


def sentence(answer: Answer) -> str:
    """What was said of wrong input: one line."""
    assert answer.code == 2, answer.err
    (line,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in answer.err
    return line.removeprefix("error: ")


def test_a_run_reports_every_stage_and_every_baseline(finished: Finished) -> None:
    report = finished.report()
    for figure in ("bits_per_byte", "retention", "gain", "tokens", "train_flops", "parameters"):
        assert list(report[figure]) == MODELS, figure
    assert (finished.step("report") / "report.html").stat().st_size > 10_000


def test_the_base_keeps_all_it_has(finished: Finished) -> None:
    report = finished.report()
    assert report["retention"]["base"] == 1.0 and report["gain"]["base"] == 0.0
    assert report["tokens"]["base"] == 0 and report["train_flops"]["base"] == 0.0


def test_every_model_is_scored_on_every_corpus(finished: Finished) -> None:
    for bits in finished.report()["bits_per_byte"].values():
        assert isinstance(bits, dict) and set(bits) == set(CORPORA)
        assert all(0.0 < value < 20.0 for value in bits.values())


def test_the_split_is_proven_and_the_induction_measured(finished: Finished) -> None:
    proof = json.loads((finished.step("split") / "proof.json").read_text("utf8"))
    assert proof["passed"] and proof["logits_error"] <= proof["tolerance"]
    induction = json.loads((finished.step("split") / "induction.json").read_text("utf8"))
    assert induction["disciplines"] == list(DISCIPLINES)


def test_equal_tokens_are_equal_and_equal_flops_nearly(finished: Finished) -> None:
    """A run cannot be cut within a step of 128 tokens."""
    tokens, flops = finished.report()["tokens"], finished.report()["train_flops"]
    for name in set(BASELINES) - {"dense-equal-flops"}:
        assert abs(tokens[name] - tokens["innovator"]) <= 128
    assert flops["dense-equal-flops"] == pytest.approx(flops["innovator"], rel=0.03)


def test_a_second_run_makes_nothing(finished: Finished, innovator: Command) -> None:
    before = folders(finished.root)
    answer = innovator("run", finished.recipe, "--root", finished.root)
    assert answer.code == 0 and folders(finished.root) == before
    assert "making" not in answer.err and answer.err.count("found ") == len(before)


def test_a_change_of_stage_four_makes_only_what_follows(copied: Finished, innovator: Command) -> None:
    before = folders(copied.root)
    answer = innovator("run", copied.recipe, *SHORT, "integrate.course.tokens=256", "--root", copied.root)
    made = {name.rpartition("-")[0] for name in folders(copied.root) - before}
    assert answer.code == 0 and made == {"integrate", "evaluate-innovator", "report"}


def test_an_interrupted_run_goes_on_where_it_stopped(
    copied: Finished, innovator: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", copied.recipe, *SHORT, "integrate.course.tokens=512", "--root", copied.root)
    with monkeypatch.context() as terminal:
        terminal.setattr(loop, "progress", ctrl_c)
        stopped = innovator(*command)
    assert stopped.code == 130 and "stopped; the same command goes on from the last checkpoint" in stopped.err
    answer = innovator(*command)
    assert answer.code == 0 and "goes on from step 1 of 4" in answer.err


@contextmanager
def ctrl_c(description: str, total: int, unit: str) -> Iterator[Advance]:
    """A terminal at which Ctrl-C is pressed after the first step."""

    def advance(n: int, **figures: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    yield advance


def test_the_report_is_shown_again(finished: Finished, innovator: Command) -> None:
    answer = innovator("report", finished.recipe, "--root", finished.root)
    assert answer.code == 0 and "retention" in answer.err and "report.html" in answer.err
    assert all(name in answer.err for name in ("base", "innovator", "btx"))


def test_a_report_that_is_not_made_is_not_shown(finished: Finished, innovator: Command, tmp_path: Path) -> None:
    said = sentence(innovator("report", finished.recipe, "--root", tmp_path / "runs"))
    assert "is not made yet" in said and not (tmp_path / "runs").exists()


def test_a_plan_shows_totals_and_makes_nothing(tmp_path: Path, innovator: Command) -> None:
    answer = innovator("plan", write_recipe(tmp_path), "--root", tmp_path / "runs")
    assert answer.code == 0 and not (tmp_path / "runs").exists()
    assert all(name in answer.err for name in MODELS)
    assert re.search(r"innovator +. +[\d.]+ k +. +[\d.]+ k +. +3\.58 k", answer.err)
    assert "to make" in answer.err and "found" not in answer.err and "not ready" not in answer.err


def test_a_plan_knows_what_is_made(finished: Finished, innovator: Command) -> None:
    answer = innovator("plan", finished.recipe, "--root", finished.root)
    assert "found" in answer.err and "to make" not in answer.err


def test_a_plan_says_what_is_missing(tmp_path: Path, innovator: Command) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "botany.jsonl").unlink()
    answer = innovator("plan", recipe, "--root", tmp_path / "runs")
    assert answer.code == 0 and "not ready: corpora.botany: no corpus at" in answer.err


@pytest.mark.parametrize("name", ["base", "integrate"])
def test_a_model_continues_a_prompt(finished: Finished, innovator: Command, name: str) -> None:
    answer = innovator("generate", finished.step(name) / "weights", "abc", "--tokens", "3")
    assert answer.code == 0 and answer.out.startswith("abc")
    assert answer.out == innovator("generate", finished.step(name) / "weights", "abc", "--tokens", "3").out


def test_the_schema_is_json_and_knows_the_fields(innovator: Command) -> None:
    answer = innovator("schema")
    assert answer.code == 0 and {"title", "corpora", "split"} <= json.loads(answer.out)["properties"].keys()


@dataclass(frozen=True)
class Mistake:
    """Overrides that a run must refuse, and what it has to say."""

    overrides: tuple[str, ...]
    sentence: str


MISTAKES = {
    "unknown field": Mistake(("integrate.curse=1",), r"integrate\.curse: unknown field; did you mean course\?"),
    "wrong type": Mistake(("batch.rows=many",), r"batch\.rows: should be a whole number.*not 'many'"),
    "unknown kind": Mistake(("split.router.kind=hash",), r"split\.router: kind 'hash' is none of softmax, sigmoid"),
    "missing corpus": Mistake(("corpora.botany.path=nowhere",), r"corpora\.botany: no corpus at .*nowhere"),
    "no general": Mistake(("general=news",), r"corpora: there is no 'news'"),
    "unknown tokenizer corpus": Mistake(("tokenizer.corpora=[x]",), r"tokenizer\.corpora: there is no corpus 'x'"),
    "small vocabulary": Mistake(("tokenizer.vocab_size=400",), r"base: decoder\.vocab_size is below"),
    "uneven parts": Mistake(("split.n_parts=5", "split.top_k=5"), r"hidden width 32 .* does not divide into n_parts=5"),
    "too few experts": Mistake(("split.top_k=16",), r"top_k=16 must lie in 1\.\.n_experts=8"),
    "no base folder": Mistake(("base={kind: folder, path: /nowhere}",), r"/nowhere: no config\.json"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_wrong_input_is_one_sentence_and_makes_nothing(tmp_path: Path, innovator: Command, mistake: Mistake) -> None:
    said = sentence(innovator("run", write_recipe(tmp_path), *mistake.overrides, "--root", tmp_path / "runs"))
    assert re.search(mistake.sentence, said), said
    assert folders(tmp_path / "runs") == set()


def base_folder(finished: Finished, step: str, to: Path) -> Path:
    """A model of the finished run as a folder somewhere else."""
    shutil.copytree(finished.step(step) / "weights", to)
    return to


def from_folder(path: Path, tokenizer: Path) -> tuple[str, ...]:
    return (f"base={{kind: folder, path: {path}}}", f"tokenizer={{kind: folder, path: {tokenizer}}}", *SHORT)


def test_a_base_from_a_folder_is_linked_and_left_alone(finished: Finished, tmp_path: Path, innovator: Command) -> None:
    folder = base_folder(finished, "base", tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run = ("run", finished.recipe, *from_folder(folder, folder), "--root", tmp_path / "runs")
    assert innovator(*run).code == 0
    assert Finished(finished.recipe, tmp_path / "runs").step("base").joinpath("weights").resolve() == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def refused(finished: Finished, innovator: Command, overrides: tuple[str, ...], root: Path) -> str:
    """The sentence with which a run on a base folder is refused before it makes anything."""
    said = sentence(innovator("run", finished.recipe, *overrides, "--root", root))
    assert folders(root) == set()
    return said


def test_a_base_with_another_tokenizer_is_refused(finished: Finished, tmp_path: Path, innovator: Command) -> None:
    path = base_folder(finished, "base", tmp_path / "model")
    other = base_folder(finished, "base", tmp_path / "other")
    backend = json.loads((other / "tokenizer.json").read_text("utf8"))
    backend["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(backend), "utf8")
    said = refused(finished, innovator, from_folder(path, other), tmp_path / "runs")
    assert f"the tokenizer in {other} is not the one that {path} came with" in said


def test_a_base_without_a_named_tokenizer_is_refused(finished: Finished, tmp_path: Path, innovator: Command) -> None:
    path = base_folder(finished, "base", tmp_path / "model")
    said = refused(finished, innovator, (from_folder(path, path)[0], *SHORT), tmp_path / "runs")
    assert "a base that exists needs its own tokenizer" in said


def test_a_base_with_damaged_weights_is_refused(finished: Finished, tmp_path: Path, innovator: Command) -> None:
    path = base_folder(finished, "base", tmp_path / "model")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    said = refused(finished, innovator, from_folder(path, path), tmp_path / "runs")
    assert f"base: {weights}: not a readable safetensors file" in said


def test_a_base_that_is_a_mixture_is_refused(finished: Finished, tmp_path: Path, innovator: Command) -> None:
    path = base_folder(finished, "integrate", tmp_path / "model")
    said = refused(finished, innovator, from_folder(path, path), tmp_path / "runs")
    assert "the base is already a mixture: only a dense model can be upcycled" in said


def test_a_discipline_without_documents_is_named(tmp_path: Path, innovator: Command) -> None:
    overrides = ("corpora.alchemy.where.science=magic", "tokenizer.corpora=[general]")
    said = sentence(innovator("run", write_recipe(tmp_path), *overrides, "--root", tmp_path / "runs"))
    assert said.startswith("tokens-alchemy: the corpus holds no documents")
    (unfinished,) = (tmp_path / "runs").glob("tokens-alchemy-*")
    assert not (unfinished / "DONE").exists()


def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path: Path, innovator: Command) -> None:
    recipe, corpus = write_recipe(tmp_path), tmp_path / "botany.jsonl"
    corpus.write_text("{broken\n" + corpus.read_text("utf8"), "utf8")
    said = sentence(innovator("run", recipe, "tokenizer.corpora=[general]", "--root", tmp_path / "runs"))
    assert said.startswith(f"tokens-botany: {corpus}, line 1: not JSON")


def test_malformed_lines_that_are_set_aside_are_counted(tmp_path: Path, innovator: Command) -> None:
    recipe, corpus = write_recipe(tmp_path), tmp_path / "dance.jsonl"
    corpus.write_text("{broken\n" + corpus.read_text("utf8") + "7\n", "utf8")
    run = Finished(recipe, tmp_path / "runs")
    for name in ("tokenizer", "tokens-dance"):
        assert innovator("run", recipe, "--only", name, "--root", run.root).code == 0
    assert json.loads((run.step("tokens-dance") / "manifest.json").read_text("utf8"))["rejected"] == 2
    rejects = (run.step("tokens-dance") / "rejects.jsonl").read_text("utf8").splitlines()
    assert [json.loads(line)["line"] for line in rejects] == [1, 122]


def test_a_step_that_does_not_exist_is_refused(finished: Finished, innovator: Command) -> None:
    said = sentence(innovator("run", finished.recipe, "--only", "integration", "--root", finished.root))
    assert "there is no step 'integration'; the steps are tokenizer, " in said
