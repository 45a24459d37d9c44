"""One of documents that are alike stays, whoever does the work; what is near to held-out text goes."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
import zstandard

from innovator.curate import staying
from innovator.curate.account import Account
from innovator.curate.duplicates import Deduplicate, DeduplicateWork, digest
from innovator.curate.executors import Local
from innovator.curate.flow import documents_in
from innovator.curate.near import Near, Number
from innovator.curate.staying import Alike, Decision, Fate
from innovator.data.sources import FilesSource

STARTS, ENDS = ("ba", "ke", "li", "mo", "nu", "pre", "stra", "ty"), ("ron", "sel", "tik", "vum", "xan", "zo")
WORDS = [start + end for start in STARTS for end in ENDS]
QUICK = Deduplicate(near=Near(buckets=16, hashes=2))


def prose(seed: int, n_words: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=n_words)


def edited(words: Sequence[str], share: float, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) if draw.random() < share else word for word in words)


def step(folder: Path, texts: Mapping[str, str], n_files: int = 3) -> Path:
    """A finished step that holds these documents."""
    (folder / "documents").mkdir(parents=True)
    for number in range(n_files):
        lines = [json.dumps({"id": id, "text": texts[id]}) + "\n" for id in sorted(texts)[number::n_files]]
        (folder / "documents" / f"{number:05d}.jsonl.zst").write_bytes(zstandard.compress("".join(lines).encode()))
    Account().write(folder / "account.json")
    return folder


def held(folder: Path, what: str = "documents") -> dict[str, dict[str, object]]:
    files = sorted((folder / what).glob("*.jsonl.zst"))
    return {document.id: document.metadata for file in files for document in documents_in(file)}


def deduplicated(tmp_path: Path, texts: Mapping[str, str], spec: Deduplicate = QUICK, n_tasks: int = 2) -> Path:
    out = tmp_path / f"out-{n_tasks}"
    source = tmp_path / "in"
    inputs = {"documents": source if source.exists() else step(source, texts)}
    out.mkdir()
    DeduplicateWork(deduplicate=spec, fingerprints=(), n_tasks=n_tasks).run(out, inputs, Local(workers=1))
    return out


def test_of_equal_texts_the_longest_stays_and_the_others_name_it(tmp_path: Path) -> None:
    same = " ".join(prose(1))
    texts = {"b": same, "a": same.replace(" ", "\n"), "c": f"  {same}", "d": " ".join(prose(2)), "short": "One."}
    out = deduplicated(tmp_path, texts | {"short too": "One. "}, Deduplicate(near=None))
    assert set(held(out)) == {"c", "d", "short too"}  # of equal texts the longest; ids decide between equally long ones
    rejects = held(out, "rejects")
    assert {id: (facts["reason"], facts["duplicate_of"]) for id, facts in rejects.items()} == {
        "a": ("exact duplicate", "c"),
        "b": ("exact duplicate", "c"),
        "short": ("exact duplicate", "short too"),
    }


def test_texts_are_equal_but_for_spacing_and_unicode_form() -> None:
    assert digest("caf\u00e9  au\nlait") == digest(" cafe\u0301 au lait")
    assert digest("cafe au lait") != digest("Cafe au lait")


def test_the_same_documents_stay_however_the_work_is_dealt_out(tmp_path: Path) -> None:
    texts = {f"{n:02d}": " ".join(prose(n)) for n in range(12)}
    texts |= {f"{n:02d}-near": edited(prose(n), 0.06, n) for n in range(0, 12, 2)}
    texts |= {f"{n:02d}-equal": texts[f"{n:02d}"] for n in range(0, 12, 3)}
    kept = [set(held(deduplicated(tmp_path, texts, n_tasks=n))) for n in (1, 5)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 12


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_a_document_with_a_few_changed_words_is_found_and_an_unrelated_one_is_not(tmp_path: Path, share: float) -> None:
    texts = {f"{n:02d}": " ".join(prose(n, 400)) for n in range(20)}
    near = {f"{n:02d}-near": "A header here.\n" + edited(prose(n, 400)[:370], share, n) for n in range(20)}
    rejects = held(deduplicated(tmp_path, texts | near), "rejects")
    assert all(facts["duplicate_of"] in (id.removesuffix("-near"), f"{id}-near") for id, facts in rejects.items())
    assert len(rejects) >= 19  # at 0.1 they share half of their shingles, found with probability 0.99


def test_a_dropped_document_is_near_to_one_that_is_kept(tmp_path: Path) -> None:
    """A chain of edits: each text is near the one before, the first is not near the last."""
    chain = [prose(0, 400)]
    for n in range(1, 8):
        chain.append(edited(chain[-1], 0.08, n).split())
    texts = {f"{n}": " ".join(words) + " end" * (8 - n) for n, words in enumerate(chain)}
    out = deduplicated(tmp_path, texts)
    kept, rejects = held(out), held(out, "rejects")
    assert len(kept) > 1 and rejects and {facts["duplicate_of"] for facts in rejects.values()} <= set(kept)


def test_who_stays_does_not_depend_on_how_many_share_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of edits that cross, some of them near to held-out texts that are near to each other."""
    texts = {f"{n}-{m}": edited(prose(n), 0.04 * m, m) for n in range(4) for m in range(6)}
    texts |= {f"mixed-{n}": edited(prose(n), 0.1, n) + " " + " ".join(prose(n + 1)) for n in range(4)}
    held_out = [edited(prose(3), 0.05 * n, n) for n in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in held_out), "utf-8")
    spec = Deduplicate(near=QUICK.near, held_out=(FilesSource(path="test.jsonl"),)).at(tmp_path)
    outcomes = []
    for n_tasks, most in enumerate((1, 4, 1000), start=1):
        monkeypatch.setattr(staying, "MOST_PAIRED", most)
        out = deduplicated(tmp_path, texts, spec, n_tasks)
        rejects = held(out, "rejects")
        outcomes.append((set(held(out)), {id: (it["reason"], it["duplicate_of"]) for id, it in rejects.items()}))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    kept, dropped = outcomes[0]
    assert len(kept) > 4 and {reason for reason, _ in dropped.values()} == {"near duplicate", "near held-out"}


def test_many_near_copies_are_held_against_those_that_stay_alone(tmp_path: Path) -> None:
    """Else, with 600 copies, 180,000 pairs would be."""
    asked: list[int] = []

    class Counting(Alike):
        def proposed(self, but: Collection[Number]) -> list[list[Number]]:
            return [[(0, place) for place in range(600)], [(0, place) for place in range(0, 600, 2)]]

        def like(self, one: Number, others: Sequence[Number]) -> Sequence[Number]:
            asked.append(len(others))
            return others

    (tmp_path / "00000.jsonl").write_text("".join(f'[-1, "{place:03d}"]\n' for place in range(600)), "utf-8")
    (tmp_path / "00001.jsonl").touch()
    fates = Decision(tmp_path, 2).fates(exact=False, alike=Counting())
    assert fates == {(0, place): Fate("near duplicate", "000") for place in range(1, 600)}
    assert asked == [599]


def test_what_is_near_to_held_out_text_goes_and_says_to_which(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": " ".join(prose(3))}), encoding="utf-8")
    texts = {"near": edited(prose(3), 0.05, 1), "equal": " ".join(prose(3)), "other": " ".join(prose(4))}
    spec = Deduplicate(near=QUICK.near, held_out=(FilesSource(path="test.jsonl"),)).at(tmp_path)
    out = deduplicated(tmp_path, texts, spec)
    assert set(held(out)) == {"other"}
    assert {(facts["reason"], facts["duplicate_of"]) for facts in held(out, "rejects").values()} == {
        ("near held-out", "test.jsonl:1")
    }


def test_a_step_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    texts = {f"{n}": " ".join(prose(n // 2)) for n in range(6)}
    out = deduplicated(tmp_path, texts)
    whole = (out / "account.json").read_text("utf-8"), held(out)
    (out / "account.json").unlink()
    DeduplicateWork(deduplicate=QUICK, fingerprints=(), n_tasks=2).run(
        out, {"documents": tmp_path / "in"}, Local(workers=1)
    )
    assert ((out / "account.json").read_text("utf-8"), held(out)) == whole


@pytest.mark.parametrize(("n", "expected"), [(0.0, "similarity is 0.0"), (1.5, "similarity is 1.5")])
def test_a_similarity_is_a_share(n: float, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Near(similarity=n)
