"""Plants benchmark items and near-duplicates in documents, and counts which are found and what else is taken for one.

python benchmarks/planted.py [--corpus PATTERN] [--items PATTERN:QUESTION[:ANSWER]]... [--out planted.json]

PATTERN: JSON Lines or Parquet; without them, manuals of installed packages, and sentences of others as items. What is
found in documents in which nothing was planted is written to `--false FILE`: it is for a person to say if it is false.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import datatrove.data

from innovator.curate.account import Account
from innovator.curate.duplicates import Deduplicate, DeduplicateWork
from innovator.curate.executors import Local
from innovator.curate.flow import documents_in, writer
from innovator.curate.leak_index import Builder
from innovator.curate.leaks import Index
from innovator.curate.near import Near
from innovator.data.benchmarks import FilesBenchmark, Item
from innovator.data.records import Rejects
from innovator.data.sources import Document, FilesSource, InstalledDocsSource, Source
from innovator.files import write_json

FEWEST_WORDS = 13
CHANGED = 0.12
N_NEAR = 1000
LONG = 100
COPY = "copy of "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="pattern of document files")
    parser.add_argument("--items", action="append", default=[], help="PATTERN:QUESTION[:ANSWER]")
    parser.add_argument("--plants", type=int, default=2000, help="items to plant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("planted.json"))
    parser.add_argument("--false", type=Path, help="where to write what was found in documents without plants")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    documents = list(documents_of(given.corpus))
    benchmarks = dict(benchmarks_of(given.items))
    found = {"leaks": leaks(documents, benchmarks, given.plants, draw, given.false), "near": near(documents, draw)}
    write_json(given.out, found)
    print(json.dumps(found, indent=1))


def documents_of(pattern: str | None) -> Iterator[Document]:
    """The documents to plant in."""
    manuals = InstalledDocsSource(distributions=("python", "sympy"))
    source: Source = FilesSource(path=pattern) if pattern else manuals
    with tempfile.TemporaryDirectory() as folder:
        yield from source.documents(Rejects(Path(folder) / "rejects"))


def benchmarks_of(patterns: Sequence[str]) -> Iterator[tuple[str, list[Item]]]:
    """The items to plant, by benchmark."""
    for pattern in patterns:
        path, question, *answer = pattern.split(":")
        yield pattern, list(FilesBenchmark(path=path, fields=(question,), answer=tuple(answer)).items())
    if not patterns:
        with tempfile.TemporaryDirectory() as folder:
            source = InstalledDocsSource(distributions=("networkx",))
            texts = [document.text for document in source.documents(Rejects(Path(folder) / "rejects"))]
        sentences = sorted({" ".join(line.split()) for text in texts for line in text.split("\n\n")})
        yield "sentences", [Item(str(n), text, "") for n, text in enumerate(sentences) if 13 <= len(text.split()) < 80]


def leaks(
    documents: Sequence[Document],
    benchmarks: dict[str, list[Item]],
    n_plants: int,
    draw: random.Random,
    false: Path | None,
) -> dict[str, object]:
    """Recall for each way of planting, alarms in untouched documents, and the speed of a core."""
    builder = Builder(13, True)
    start = time.process_time()
    for name, items in benchmarks.items():
        builder.add(name, items)
    index = builder.index()
    built = time.process_time() - start
    start = time.process_time()
    alarms = {document.id: index.leaks(document.text) for document in documents}
    seconds = time.process_time() - start
    n_bytes = sum(len(document.text.encode()) for document in documents)
    n_false = sum(bool(those) for those in alarms.values())
    if false:
        texts = {document.id: document.text for document in documents}
        found = [(texts[id], id, leak) for id, those in alarms.items() for leak in those]
        write_json(false, [[id, *asdict(leak).values(), text[leak.start : leak.end]] for text, id, leak in found])
    return {
        "items": len(builder.names),
        "skipped": builder.skipped,
        "index_seconds": built,
        "documents": len(documents),
        "alarms": n_false,
        "alarm_share": n_false / len(documents),
        "mb_per_cpu_second": n_bytes / 1e6 / seconds,
        "recall": recalls(index, documents, benchmarks, n_plants, draw),
    }


def recalls(
    index: Index, documents: Sequence[Document], benchmarks: dict[str, list[Item]], n_plants: int, draw: random.Random
) -> dict[str, float]:
    """The share of planted items that are found, for each way of planting them."""
    pool = [(name, item) for name, items in benchmarks.items() for item in items]
    pool = [(name, item) for name, item in pool if len(item.text.split()) >= FEWEST_WORDS]
    found: dict[str, list[bool]] = {way: [] for way in WAYS}
    for number in range(n_plants):
        name, item = draw.choice(pool)
        way = list(WAYS)[number % len(WAYS)]
        text = planted(draw.choice(documents).text, WAYS[way](item.text, draw), draw)
        found[way].append(any((leak.benchmark, leak.item) == (name, item.id) for leak in index.leaks(text)))
    return {way: sum(those) / len(those) for way, those in found.items()} | {
        "all": sum(map(sum, found.values())) / n_plants
    }


def planted(text: str, plant: str, draw: random.Random) -> str:
    """A text with a plant between two of its words."""
    place = text.find(" ", draw.randrange(max(1, len(text))))
    place = max(place, 0)
    return f"{text[:place]} {plant} {text[place:]}"


def rewrapped(text: str, draw: random.Random) -> str:
    """The words of a text on lines of random length."""
    return "".join(word + draw.choice((" ", " ", " ", "\n", "  ")) for word in text.split())


def spaced(text: str, draw: random.Random) -> str:
    """A text with other spacing around its marks, as formulas are set differently."""
    return "".join(f" {mark} " if mark in "=+-{}()^_$," and draw.random() < 0.5 else mark for mark in text)


def changed(text: str, draw: random.Random, share: float = CHANGED) -> str:
    """A text some of whose words are others of its own words, are gone, or have a neighbour more."""
    words = text.split()
    kept = (
        word if draw.random() >= share else draw.choice((draw.choice(words), "", f"{word} indeed")) for word in words
    )
    return " ".join(kept)


WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": lambda text, draw: text,
    "own paragraph": lambda text, draw: f"\n\n{text}\n\n",
    "re-wrapped": rewrapped,
    "case": lambda text, draw: text.upper() if draw.random() < 0.5 else text.title(),
    "formula spacing": spaced,
    "words changed": changed,
}


def near(documents: Sequence[Document], draw: random.Random) -> dict[str, object]:
    """Recall of near-duplicates, and which of the untouched documents are dropped beside them."""
    long = [document for document in documents if len(document.text.split()) >= LONG]
    chosen = draw.sample(long, min(N_NEAR, len(long) // 2))
    copies = {f"{COPY}{document.id}": damaged(document.text, draw) for document in chosen}
    texts = {document.id: document.text for document in documents} | copies
    start = time.process_time()
    of = dropped(texts)
    seconds = time.process_time() - start
    found = [id for id in copies if id in of or of.get(id.removeprefix(COPY)) == id]
    others = [[id, kept] for id, kept in of.items() if not (id + kept).count(COPY)]
    return {
        "near": vars(Near()),
        "planted": len(copies),
        "recall": len(found) / len(copies),
        "others_share": len(others) / len(documents),
        "others": others,
        "mb_per_cpu_second": sum(len(text.encode()) for text in texts.values()) / 1e6 / seconds,
    }


def dropped(texts: dict[str, str]) -> dict[str, str]:
    """The ids of what de-duplication drops, each with the id of what it is like."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        out.mkdir()
        with writer(source / "documents") as file:
            for id, text in texts.items():
                file.write(datatrove.data.Document(text=text, id=id))
        Account().write(source / "account.json")
        work = DeduplicateWork(deduplicate=Deduplicate(), fingerprints=(), n_tasks=1)
        work.run(out, {"documents": source}, Local(workers=1))
        rejects = [one for file in sorted((out / "rejects").glob("*.zst")) for one in documents_in(file)]
    return {one.id: str(one.metadata["duplicate_of"]) for one in rejects}


def damaged(text: str, draw: random.Random) -> str:
    """A text with 5 to 15 % of its words changed, a tenth of its paragraphs gone, and a header."""
    paragraphs = [part for part in text.split("\n\n") if draw.random() >= 0.1] or [text]
    share = draw.uniform(0.05, 0.15)
    return "Retrieved from an archive\n\n" + "\n\n".join(changed(part, draw, share) for part in paragraphs)


if __name__ == "__main__":
    main()
