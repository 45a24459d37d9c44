"""A curation leads every document into a corpus or to a reason, once, and proves what it was checked against."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pico_recipe import Answer, Command

from innovator import cli
from innovator.curate.flow import documents_in
from innovator.curate.judgements import Journal, PairJudgement
from innovator.curation import Curation
from innovator.data.curated import CuratedSource
from innovator.data.records import Rejects
from innovator.document import kind, read, resolved

HERE = Path(__file__).parents[1]
RECIPES = HERE.parent / "recipes"
SYLLABLES = {
    "physics": ("wa", "fie", "mas", "ner", "quan", "or", "tum"),
    "general": ("hou", "ri", "let", "mar", "vil", "ga", "den"),
}
ITEM = "which of these nine rather peculiar lanterns would a careful keeper of the tower light first after a storm"
QUESTION = {"question": ITEM, "answer": "the green one by the western stair"}


def sentence(draw: random.Random, about: str) -> str:
    words = ["".join(draw.choices(SYLLABLES[about], k=draw.randint(2, 3))) for _ in range(12)]
    return " ".join(words).capitalize() + "."


def text(draw: random.Random, about: str, n: int = 30) -> str:
    return "\n\n".join(" ".join(sentence(draw, about) for _ in range(3)) for _ in range(n // 3))


@dataclass(frozen=True)
class Made:
    """A curation that was carried out, and what it said."""

    recipe: Path
    root: Path
    answer: Answer

    def step(self, name: str) -> Path:
        """The one that was made first: a test that makes another leaves it."""
        return min(self.root.glob(f"{name}-{'[0-9a-f]' * 8}"), key=lambda path: (path / "DONE").stat().st_mtime_ns)


def lines(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")


def write(home: Path) -> Path:
    draw = random.Random(0)
    physics = [text(draw, "physics") for _ in range(24)]
    general = [text(draw, "general") for _ in range(24)]
    leak = f"{text(draw, 'general')}\n\n{ITEM}\n\n{text(draw, 'general')}"
    lines(home / "physics/a.jsonl", [*physics[:12], physics[0]])
    lines(home / "physics/b.jsonl", [*physics[12:], physics[3] + " One more word."])
    lines(home / "web/a.jsonl", [*general, leak])
    with (home / "web/a.jsonl").open("a") as file:
        file.write("{ broken\n")
    lines(home / "bench.jsonl", [])
    (home / "bench.jsonl").write_text(json.dumps(QUESTION) + "\n")
    recipe = home / "curation.yaml"
    recipe.write_text(
        f"""kind: curation
title: pico
sources_root: {home}
sources:
  papers: {{documents: {{kind: raw, path: physics}}, licence: CC0-1.0, discipline: physics}}
  web: {{documents: {{kind: raw, path: web}}, licence: various}}
decontaminate: {{benchmarks: {{lanterns: {{kind: files, path: bench.jsonl, answer: [answer]}}}}, action: drop}}
quality:
  judgements: {{kind: constructed, seeds: {{n_documents: 30, longest: 800}}}}
  assessor: {{kind: linear, bar: 0.5}}
  distil: {{n_documents: 40, tiers: {{kind: quantiles, high: 0.5, low: 0.1}}}}
  keep: {{high: 1.0, medium: 1.0, low: 1.0}}
n_tasks: 2
executor: {{kind: local, workers: 1}}
""",
        encoding="utf-8",
    )
    return recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("curation")
    recipe, root = write(home), home / "curations"
    with pytest.MonkeyPatch.context() as words:
        words.setattr(sys, "argv", ["innovator", "curate", str(recipe), "--root", str(root)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Made(recipe, root, Answer(int(ended.value.code or 0), "", ""))


def ids(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.jsonl.zst")):
        yield from (document.id for document in documents_in(file))


def test_every_document_is_published_or_rejected_for_a_reason(made: Made) -> None:
    read_in = [it for name in ("papers", "web") for it in ids(made.step(f"read-{name}") / "documents")]
    corpora = [it for name in ("physics", "general") for it in ids(made.step("corpora") / name)]
    steps = ("clean-papers", "clean-web", "deduplicate", "label", "grade", "decontaminate", "corpora")
    rejected = [it for name in steps for it in ids(made.step(name) / "rejects")]
    assert made.answer.code == 0 and len(read_in) == 51
    assert sorted(read_in) == sorted([*corpora, *rejected])
    for name in steps:
        for file in (made.step(name) / "rejects").glob("*.jsonl.zst"):
            assert all(it.metadata["reason"] and it.metadata["rule"] for it in documents_in(file))


def test_what_was_planted_is_found(made: Made) -> None:
    account = json.loads((made.step("account") / "account.json").read_text())
    assert account["deduplicate"]["deduplicate"]["reasons"] == {"exact duplicate": 1, "near duplicate": 1}
    assert account["decontaminate"]["decontaminate"]["reasons"] == {"contaminated": 1}
    (leak,) = [json.loads(line) for line in (made.step("decontaminate") / "leaks.jsonl").read_text().splitlines()]
    assert leak["benchmark"] == "lanterns" and leak["document"].startswith("web/")
    (broken,) = (made.step("read-web") / "malformed").iterdir()
    assert json.loads(broken.read_text())["line"] == 26


def test_the_account_of_each_step_begins_where_the_one_before_ended(made: Made) -> None:
    account = json.loads((made.step("account") / "account.json").read_text())
    before = None
    for stage in account.values():
        for rule in stage.values():
            flows = [flow for by in rule["flows"].values() for flow in by.values()]
            into, out = (sum(flow[f"documents_{way}"] for flow in flows) for way in ("in", "out"))
            assert before in (None, into)
            before = out


def test_the_corpora_are_sources_with_their_proof(made: Made, tmp_path: Path) -> None:
    curation = json.loads((made.step("corpora") / "curation.json").read_text())
    for name, held in curation["corpora"].items():
        source = CuratedSource(path=str(made.step("corpora")), corpus=name)
        source.check()
        assert len(list(source.documents(Rejects(tmp_path / "rejects")))) == held["documents"] > 0
        assert set(source.proof()) == {"lanterns"}
    assert curation["corpora"]["physics"]["licences"] == ["CC0-1.0"]


def test_the_page_shows_both_sides_and_fetches_nothing(made: Made) -> None:
    page = (made.step("account") / "account.html").read_text(encoding="utf-8")
    for said in ("exact duplicate", "near duplicate", "contaminated", "lanterns", "not JSON", "CC0-1.0"):
        assert said in page
    assert "src=" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_second_run_makes_nothing_and_tells_what_to_write(made: Made, innovator: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.root.rglob("*") if path.name != ".lock"}
    answer = innovator("curate", made.recipe, "--root", made.root)
    assert {path: path.stat().st_mtime_ns for path in made.root.rglob("*") if path.name != ".lock"} == before
    assert f"physics: {{kind: curated, path: {made.step('corpora')}, corpus: physics}}" in answer.err


def test_a_changed_field_makes_only_what_follows(made: Made, innovator: Command) -> None:
    answer = innovator("curate", made.recipe, "decontaminate.action=cut", "--root", made.root, "--plan")
    states = {
        name: state == "to make"
        for name, state in re.findall(r"([\w-]+)-[0-9a-f]{8}\s+.\s+(to make|found)", answer.err)
    }
    assert states["decontaminate"] and states["corpora"] and states["account"]
    assert not any(states[name] for name in ("read-web", "clean-web", "deduplicate", "grade"))


def test_experts_decide_what_is_kept(made: Made, innovator: Command, tmp_path: Path) -> None:
    """Two annotators who always prefer physics; the assessor learns it from them, the student from the assessor."""
    texts = {it: it.startswith("papers/") for it in ids(made.step("label") / "documents")}
    better, worse = ([name for name, physics in texts.items() if physics is wanted] for wanted in (True, False))
    for annotator in ("ada", "ben"):
        journal = Journal(tmp_path, annotator)
        for one, other in zip(better * 2, [*worse, *worse[1:], worse[0]], strict=False):
            said = PairJudgement(criterion="coherence", a=other, b=one, prefers="b", annotator=annotator, seconds=1.0)
            journal.append(said)
    before = set(made.root.glob("grade-*"))
    overrides = (
        f"quality.judgements={{kind: experts, judgements: {tmp_path}, held_out: 0.3}}",
        "quality.assessor.bar=0.9",
        "quality.keep={high: 1.0, medium: 1.0, low: 0.0}",
        "quality.distil.tiers={kind: quantiles, high: 0.5, low: 0.4}",
        "decontaminate.action=drop",
    )
    answer = innovator("curate", made.recipe, *overrides, "--root", made.root, "--only", "assessor")
    assert answer.code == 0, answer.err
    assert innovator("curate", made.recipe, *overrides, "--root", made.root, "--only", "student").code == 0
    answer = innovator("curate", made.recipe, *overrides, "--root", made.root, "--only", "grade")
    assert answer.code == 0, answer.err
    (grade,) = [path for path in made.root.glob("grade-*") if path not in before]
    dropped = list(ids(grade / "rejects"))
    assert len(dropped) > 5 and sum(name.startswith("web/") for name in dropped) > 0.8 * len(dropped)
    (assessor,) = [path for path in made.root.glob("assessor-*") if "experts" in (path / "spec.json").read_text()]
    found = json.loads((assessor / "found.json").read_text())
    assert found["coherence, pairs"].startswith("2 annotators") and found["agreement"]["whole"]["value"] >= 0.9


def test_labels_leave_what_a_source_states(made: Made, innovator: Command) -> None:
    words = "labels={kind: by-words, words: {chemistry: [hou*], physics: [zzz]}, least: 52}"
    answer = innovator("curate", made.recipe, words, "quality=null", "--root", made.root)
    assert answer.code == 0, answer.err
    (corpora,) = [path for path in made.root.glob("corpora-*") if (path / "chemistry").is_dir()]
    of = {name: list(ids(corpora / name)) for name in ("physics", "chemistry")}
    assert all(it.startswith("papers/") for it in of["physics"]) and all(
        it.startswith("web/") for it in of["chemistry"]
    )
    assert len(of["physics"]) == 24 and of["chemistry"]


def test_executors_are_no_part_of_a_result(made: Made, innovator: Command) -> None:
    answer = innovator("curate", made.recipe, "executor={kind: local, workers: 2}", "--root", made.root, "--plan")
    assert "to make" not in answer.err


@pytest.mark.parametrize(
    "override, said",
    [
        ("sources.papers.documents.path=nowhere", "sources.papers: no documents at"),
        ("decontaminate.benchmarks.lanterns.path=nowhere.jsonl", "decontaminate.benchmarks.lanterns: no corpus at"),
        ("decontaminate.benchmarks.lanterns.fields=[query]", "line 1: there is no field 'query'"),
        ("quality.judgements={kind: experts, judgements: nowhere}", "`innovator label` asks experts"),
        ("labels={kind: guess}", "labels: kind 'guess' is none of by-source, by-words, classifier"),
        ("n_tasks=0", "n_tasks is 0"),
        ("sources.papers.discipline=../x", "'../x' cannot name a folder"),
        ("sources.a b={documents: {kind: raw, path: web}, licence: none}", "'a b' cannot name a folder"),
        ("sources.papers.discipline=tasks", "'tasks' cannot name a folder"),
        (
            "labels={kind: by-words, words: {physics: [wa]}, general: web}",
            "labels.general is 'web', general is 'general'",
        ),
        ("quality.assessor={kind: lm, model: nowhere}", "quality.assessor: "),
        ("screens=[{kind: c4-quality}, {kind: c4-quality}]", "screens: name each kind once"),
        ("quality.assessor.bar=1.5", "bar is 1.5"),
        ("sources={}", "sources: name at least one"),
        ("executor={kind: local, workers: -1}", "workers is -1"),
    ],
)
def test_mistakes_are_told_before_any_work(made: Made, innovator: Command, override: str, said: str) -> None:
    before = sorted(made.root.iterdir())
    answer = innovator("curate", made.recipe, override, "--root", made.root)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err
    assert sorted(made.root.iterdir()) == before


def test_a_curation_is_not_run_and_a_training_is_not_curated(made: Made, innovator: Command) -> None:
    assert "innovator curate" in innovator("run", made.recipe).err
    assert innovator("curate", RECIPES / "quickstart.yaml").code == 2


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.yaml") if kind(path) == "curation"])
def test_a_shipped_curation_resolves_to_its_golden_document(name: str) -> None:
    golden = HERE / "golden" / f"{name}.json"
    found = resolved(read(RECIPES / f"{name}.yaml", [], Curation))
    if os.environ.get("INNOVATOR_WRITE_GOLDEN") == "1":
        golden.write_text(found, encoding="utf8")
    assert found == golden.read_text(encoding="utf8")


def test_a_schema_is_there_for_editors(innovator: Command) -> None:
    schema = json.loads(innovator("schema", "--kind", "curation").out)
    assert schema["properties"]["kind"]["const"] == "curation"
