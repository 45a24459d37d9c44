"""Wrong input is answered with one sentence and exit code 2, and makes nothing that could pass for a result."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from pico_recipe import Command, Finished, folders, sentence, write_recipe

SHORT = ("baselines=[]",)


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
    "no tokenizer": Mistake(("tokenizer={kind: base}",), r"base: a fresh base comes with no tokenizer"),
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
    again = innovator(*run, "tokenizer={kind: base}")
    assert again.code == 0 and "making" not in again.err
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
