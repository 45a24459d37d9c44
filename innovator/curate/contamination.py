"""Keeps the items of benchmarks out of corpora: documents that hold one are dropped, or the passage is cut out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from innovator.curate.account import Account
from innovator.curate.executors import HERE, Executor
from innovator.curate.flow import TASKS, Incoming, rule_all
from innovator.curate.leak_index import SHORTEST, Builder
from innovator.curate.leaks import Index
from innovator.curate.rule import Dropped, Facts, Kept, Outcome
from innovator.data.benchmarks import Benchmark
from innovator.files import write_json
from innovator.models.spec import Spec

LEAST_KEPT = 200
FURTHEST_BOUND = 1000
INDEX, CHECKED, LEAKS = "benchmarks.npz", "checked.json", "leaks.jsonl"
CONTAMINATED = "contaminated"
BOUND = re.compile(r"[.!?]\s|[\u3002\uff01\uff1f]|\n")
Action = Literal["drop", "cut"]


@dataclass(frozen=True, kw_only=True)
class Decontaminate(Spec):
    """No document holds `n_gram` words in a row of a benchmark's item, nor (`near`) its question with a few changes.

    action: drop such a document, or cut the sentences that hold the item and keep the rest.
    """

    benchmarks: dict[str, Benchmark]
    n_gram: int = 13
    near: bool = True
    action: Action = "cut"

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise ValueError("benchmarks is empty: name what the models will be judged by")
        if self.n_gram < SHORTEST:
            raise ValueError(f"n_gram is {self.n_gram}: fewer than {SHORTEST} words in a row are nobody's own")

    def at(self, root: Path | None) -> Decontaminate:
        """The same with relative paths of benchmarks taken from `root`."""
        benchmarks = {name: benchmark.at(root) for name, benchmark in self.benchmarks.items()}
        return Decontaminate(benchmarks=benchmarks, n_gram=self.n_gram, near=self.near, action=self.action)


@dataclass(frozen=True, kw_only=True)
class DecontaminateWork(Spec):
    """Checks documents against benchmarks. fingerprints: of each benchmark's items, by name.

    Beside documents, rejects and account it writes `leaks.jsonl`, a line for each item that was found in a document,
    and `checked.json`, which says what the documents are proved to be free of.
    """

    decontaminate: Decontaminate
    fingerprints: dict[str, str]
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write all that; ValueError if a benchmark is not there, or not the one that was planned for."""
        builder = self._index(out)
        folders = list(inputs.values())
        rule = Purge(index=str(out / INDEX), action=self.decontaminate.action)
        total = sum(Account.open(folder / "account.json").documents for folder in folders)
        rule_all(FindLeaks(Incoming(folders), rule, out), (rule,), self.n_tasks, out, executor, total)
        leaked = _gather(out)
        items = Counter(benchmark for benchmark, _ in builder.names)
        account = {
            name: {"items": items[name], "skipped": builder.skipped[name], "leaked": leaked[name]}
            for name in self.fingerprints
        }
        checked = {"benchmarks": self.fingerprints, "n_gram": self.decontaminate.n_gram, "benchmark_items": account}
        write_json(out / CHECKED, checked)

    def _index(self, out: Path) -> Builder:
        builder = Builder(self.decontaminate.n_gram, self.decontaminate.near)
        for name, benchmark in self.decontaminate.benchmarks.items():
            if benchmark.fingerprint() != self.fingerprints[name]:
                raise ValueError(f"the benchmark {name} changed while this was running: start again")
            builder.add(name, benchmark.items())
        builder.index().save(out / INDEX)
        return builder


@dataclass(frozen=True, kw_only=True)
class Purge(Spec):
    """The rule: what is to become of a document in which `FindLeaks` found items. index: the file that it reads."""

    index: str
    action: Action

    @property
    def name(self) -> str:
        """What the account calls it."""
        return "decontaminate"

    @cached_property
    def items(self) -> Index:
        """The index, read once in a process."""
        return Index.open(Path(self.index))

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Keep what holds no item; cutting may bring words together, so that what is left is searched again."""
        count = 0
        leaks = self.items.leaks(text) if "leaks" in facts else []
        while leaks:
            if self.action == "drop":
                return Dropped(CONTAMINATED)
            count += len(leaks)
            text = without(text, [(leak.start, leak.end) for leak in leaks])
            if len(text) < LEAST_KEPT:
                return Dropped(CONTAMINATED)
            leaks = self.items.leaks(text)
        return Kept(text, count)


class FindLeaks(PipelineStep):
    """Passes documents on; lists the items that each holds in a file of the task, and notes how many as a fact."""

    type, name = "leaks", "find"

    def __init__(self, documents: PipelineStep, rule: Purge, out: Path) -> None:
        super().__init__()
        self.documents, self.rule, self.out = documents, rule, out

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield this task's documents."""
        file = self.out / TASKS / "leaks" / f"{rank:05d}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as lines:
            for document in self.documents.run(data, rank, world_size):
                for leak in (leaks := self.rule.items.leaks(document.text)):
                    lines.write(json.dumps({"document": document.id, **asdict(leak)}, ensure_ascii=False) + "\n")
                if leaks:
                    document.metadata["leaks"] = len(leaks)
                yield document


def without(text: str, passages: Iterable[tuple[int, int]]) -> str:
    """A text without the sentences that these passages stand in; what was around them is two paragraphs."""
    kept, done = [], 0
    for start, end in sorted(passages):
        kept.append(text[done : max(done, _sentence_start(text, start))].rstrip())
        done = max(done, _sentence_end(text, end))
    kept.append(text[done:].lstrip())
    return "\n\n".join(part for part in kept if part)


def _sentence_start(text: str, place: int) -> int:
    """Where the sentence or line of a place begins; the place itself if that is far."""
    first = max(0, place - FURTHEST_BOUND)
    bounds = [match.end() for match in BOUND.finditer(text, first, place)]
    return bounds[-1] if bounds else 0 if first == 0 else place


def _sentence_end(text: str, place: int) -> int:
    """Where the sentence or line of a place ends; the place itself if that is far."""
    match = BOUND.search(text, max(0, place - 1), place + FURTHEST_BOUND)
    if match:
        return match.end()
    return len(text) if len(text) <= place + FURTHEST_BOUND else place


def _gather(out: Path) -> Counter[str]:
    """Join the tasks' lists into one; how many items of each benchmark were found."""
    found: set[tuple[str, str]] = set()
    draft = out / f"{LEAKS}.draft"
    with draft.open("w", encoding="utf-8") as whole:
        for file in sorted((out / TASKS / "leaks").glob("*.jsonl")):
            with file.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    leak = json.loads(line)
                    found.add((leak["benchmark"], leak["item"]))
                    whole.write(line)
    draft.replace(out / LEAKS)
    return Counter(benchmark for benchmark, _ in found)
