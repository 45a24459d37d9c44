"""How much planted damage each rule of cleaning undoes, what it changes in undamaged text, and how fast it is.

python benchmarks/damage.py [FOLDER ...] [--documents 100] [--severity 0.5] [--examples 3] [--out FILE]

FOLDER holds `*.jsonl.gz` of documents with a `text`, and is a source of its own. Without one, the documentation of the
installed packages is the text, one source for each of three kinds of file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from random import Random

from rich.table import Table

from innovator.curate.clean.spec import SEVEN, CleanRule
from innovator.curate.damage import DAMAGES
from innovator.curate.rule import Kept, count_tokens
from innovator.files import write_json
from innovator.say import show

Sources = dict[str, list[str]]
FURNISHED = ("captions", "references", "structure")
NAMES = ("Fig. {}. A drawing", "Figure {}: A curve", "Table {}: Some values", "Scheme {}. A reaction")
CITING = "As others have found [{}], it is so."
PROSE = re.compile(r"[A-Z][^\n$|{}]{100,}[.]")
SHORTEST, LONGEST = 1000, 200_000
SHOWN = 80


@dataclass
class Score:
    """What one rule did to the texts of one source. left: planted places that are not as they were."""

    planted: int = 0
    left: int = 0
    documents: int = 0
    tokens: int = 0
    changed: int = 0
    places: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, float]:
        """Recall, false alarms (share of documents; places per 1000 tokens), and megabytes per second and core."""
        return {
            "recall": 1 - self.left / max(1, self.planted),
            "documents changed": self.changed / max(1, self.documents),
            "places per 1000 tokens": 1000 * self.places / max(1, self.tokens),
            "MB/s": self.megabytes / max(1e-9, self.seconds),
        }


def measured(rule: CleanRule, texts: list[str], severity: float) -> Score:
    """One rule on one source: undamaged texts first, then the same with its kind of damage."""
    score = Score()
    for number, text in enumerate(texts):
        start = time.process_time()
        mended = outcome(rule, text)
        score.seconds += time.process_time() - start
        score.megabytes += len(text.encode()) / 1e6
        score.documents += 1
        score.tokens += count_tokens(text)
        score.changed += mended.text != text
        score.places += mended.count
        if mended.text != text:
            score.examples.append(first_change(text, mended.text))
        rng = Random(number)
        ground = furnished(text, rng) if rule.name in FURNISHED else text
        damaged, n = DAMAGES[rule.name].plant(ground, severity, rng)
        score.planted += n
        score.left += min(n, places(outcome(rule, ground).text, outcome(rule, damaged).text))
    return score


def outcome(rule: CleanRule, text: str) -> Kept:
    """What a rule makes of a text; no rule of cleaning drops one."""
    made = rule.apply(text, {})
    assert isinstance(made, Kept)
    return made


def furnished(text: str, rng: Random) -> str:
    """A real text with what few texts have: captions, citations, a list, a table, and references."""
    parts = text.split("\n\n")
    for number in range(1, 7):
        at = rng.randrange(len(parts) + 1)
        parts.insert(at, f"{rng.choice(NAMES).format(number)} of what the text has just described.")
    cited = [f"{part} {CITING.format(rng.randint(1, 30))}" if PROSE.fullmatch(part) else part for part in parts]
    items = "\n".join(f"- the item with number {number} of this list" for number in range(5))
    rows = "\n".join(f"| {number} | {number**2} | {number**3} |" for number in range(2, 8))
    table = f"| x | square | cube |\n| --- | --- | --- |\n{rows}"
    entries = "\n".join(
        f"[{n}] A. Writer and B. Writer, A paper on {n} things, J. {n} ({1980 + n})." for n in range(1, 31)
    )
    return "\n\n".join([*cited, "## A list and a table", items, table, "References", entries])


def places(wanted: str, found: str) -> int:
    """In how many places two texts differ: words in lines that differ, or their lines alone."""
    before, after = wanted.split("\n"), found.split("\n")
    n = 0
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "insert":
            n += max(1, sum(1 for line in after[k:m] if line.strip()))
        elif kind != "equal":
            words = SequenceMatcher(None, " ".join(before[i:j]).split(), " ".join(after[k:m]).split(), autojunk=False)
            n += max(1, sum(1 for opcode in words.get_opcodes() if opcode[0] != "equal"))
    return n


def first_change(before: str, after: str) -> str:
    """Where two texts begin to differ, for a person to look at."""
    at = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(after))
    start = max(0, at - SHOWN // 2)
    return f"{before[start : at + SHOWN]!r} -> {after[start : at + SHOWN]!r}"


def sources(folders: list[Path], n: int) -> Sources:
    """Texts by the name of their source, n of each at most."""
    found = {folder.name: of_folder(folder) for folder in folders} if folders else of_packages()
    return {
        name: list(islice((text for text in texts if SHORTEST <= len(text) <= LONGEST), n))
        for name, texts in found.items()
    }


def of_folder(folder: Path) -> Iterator[str]:
    """The texts of a folder's files."""
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def of_packages() -> dict[str, Iterator[str]]:
    """The documentation that came with the installed packages, by the kind of file."""
    packages = Path(sysconfig.get_paths()["purelib"])
    patterns = {"descriptions": "*.dist-info/METADATA", "markdown": "**/*.md", "restructured": "**/*.rst"}
    return {
        name: (file.read_text(encoding="utf-8", errors="replace") for file in sorted(packages.glob(pattern)))
        for name, pattern in patterns.items()
    }


def tabulated(scores: dict[str, dict[str, Score]]) -> Table:
    """Rules by sources."""
    table = Table("rule", "source", "planted", "recall", "documents changed", "places / 1000 tokens", "MB/s")
    for rule, by_source in scores.items():
        for source, score in by_source.items():
            recall, changed, alarms, speed = score.figures.values()
            table.add_row(
                rule, source, f"{score.planted:,}", f"{recall:.3f}", f"{changed:.2%}", f"{alarms:.3f}", f"{speed:.1f}"
            )
    return table


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--severity", type=float, default=0.5)
    parser.add_argument("--examples", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    texts = sources(asked.folders, asked.documents)
    scores = {rule.name: {name: measured(rule, own, asked.severity) for name, own in texts.items()} for rule in SEVEN}
    show(tabulated(scores))
    for rule, by_source in scores.items():
        for source, score in by_source.items():
            for example in score.examples[: asked.examples]:
                print(f"{rule}, {source}: {example}")
    if asked.out:
        figures = {
            rule: {name: asdict(score) | score.figures for name, score in own.items()} for rule, own in scores.items()
        }
        write_json(asked.out, figures)


if __name__ == "__main__":
    main()
