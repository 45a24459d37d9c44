"""Does quality control pay? Quickstarts on text with planted bad documents, as it is and curated.

python benchmarks/pays.py [--share 0.5] [--seeds 0 1 2] [--out FOLDER] [--recipe recipes/quickstart.yaml]

A part of the documents of every corpus is held out, clean, before anything else happens: its bits per byte are what
counts. Another part are the exemplars from which the assessor of quality learns. Of the rest, as many documents as
`--share` says are replaced by damaged ones. Three models of each seed: `raw` learns from that text, `curated` from what
`innovator curate` makes of it, `clean` from the undamaged text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from innovator.curate.damage import DAMAGES
from innovator.curation_steps import curated
from innovator.data.records import Rejects
from innovator.data.sources import Document, FilesSource, Source
from innovator.data.tokens import TokensSpec
from innovator.document import read
from innovator.graph import OURS, Found, Graph, Library
from innovator.pipeline import Step, run
from innovator.recipe import Recipe
from innovator.say import say, show

HELD_OUT, EXEMPLARS = 0.15, 0.25  # the former is never seen; what is between the two shows the assessor sound text
MILDEST = 0.3
VARIANTS = ("raw", "curated", "clean")


def main() -> None:
    """Make the texts, curate them, learn from them, and compare."""
    asked = arguments()
    recipe = read(asked.recipe, [], Recipe)
    plant(recipe, asked.share, asked.out)
    corpora = {
        "raw": files(recipe, asked.out / "raw"),
        "clean": files(recipe, asked.out / "clean"),
        "curated": curated(asked.curation, [f"sources_root={asked.out}"], asked.out / "curations"),
    }
    bits = {
        (variant, seed): scores(replace(recipe, corpora=corpora[variant], seed=seed, baselines=()), variant, asked.out)
        for seed in asked.seeds
        for variant in VARIANTS
    }
    show(table(recipe, bits, asked.seeds))
    written = {f"{variant}, seed {seed}": by for (variant, seed), by in bits.items()}
    (asked.out / "pays.json").write_text(json.dumps(written, indent=2))


def plant(recipe: Recipe, share: float, out: Path) -> None:
    """Write the documents of each corpus: held out, clean, and with planted damage in their place."""
    for name in recipe.corpora:
        kept = list(documents(recipe.source(name), out))
        draw = random.Random(f"damage {name}")
        held = [it for it in kept if hashed(it.id) < HELD_OUT]
        exemplars = [it for it in kept if HELD_OUT <= hashed(it.id) < EXEMPLARS]
        rest = [it for it in kept if hashed(it.id) >= EXEMPLARS]
        write(out / "exemplars" / f"{name}.jsonl", exemplars)
        write(out / "held-out" / name / "documents.jsonl", held)
        write(out / "clean" / name / "documents.jsonl", rest)
        raw = [replace(it, text=damaged(it.text, draw)) if draw.random() < share else it for it in rest]
        write(out / "raw" / name / "documents.jsonl", raw)


def damaged(text: str, draw: random.Random) -> str:
    """A text that one kind of damage, or two, spoilt."""
    for kind in draw.sample(sorted(DAMAGES), draw.choice((1, 2))):
        text, _ = DAMAGES[kind].plant(text, draw.uniform(MILDEST, 1.0), draw)
    return text


def scores(recipe: Recipe, variant: str, out: Path) -> dict[str, float]:
    """Bits per byte of the finished mixture on the clean text that was held out."""
    graph = Graph.of(recipe, Found.look(recipe))
    library = Library(recipe, Found.look(recipe))
    held_out = {
        name: Step(f"held-out-{name}", whole(out / "held-out" / name), (("tokenizer", library.tokenizer),))
        for name in recipe.corpora
    }
    library.corpora = held_out
    goal = library.score(f"{variant}-{recipe.seed}", graph.models[OURS])
    say(f"{variant}, seed {recipe.seed}")
    found: dict[str, float] = json.loads((run(goal, out / "runs") / "scores.json").read_text())["bits_per_byte"]
    return found


def whole(folder: Path) -> TokensSpec:
    """A corpus of which nearly all is for testing."""
    source = FilesSource(path=str(folder))
    return TokensSpec(source=source, source_fingerprint=source.fingerprint(), validation=0.0, test=0.98)


def files(recipe: Recipe, root: Path) -> dict[str, Source]:
    """The corpora of a recipe in files of their own."""
    return {name: FilesSource(path=str(root / name)) for name in recipe.corpora}


def documents(source: Source, out: Path) -> Iterator[Document]:
    """All documents of a corpus."""
    out.mkdir(parents=True, exist_ok=True)
    return source.documents(Rejects(out / "rejects.jsonl"))


def write(file: Path, some: list[Document]) -> None:
    """JSON Lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"id": it.id, "text": it.text}) + "\n" for it in some), encoding="utf-8")


def hashed(text: str) -> float:
    """A number between 0 and 1 that is always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def table(recipe: Recipe, bits: dict[tuple[str, int], dict[str, float]], seeds: list[int]) -> Table:
    """Mean and spread over seeds, of each corpus and of the mean of all."""
    shown = Table(title="bits per byte of clean text held out, mean ± standard deviation over seeds")
    for column in ("corpus", *VARIANTS, "curated against raw", "clean against raw"):
        shown.add_column(column, justify="left" if column == "corpus" else "right")
    for name in (*recipe.corpora, "mean"):
        of = {
            variant: [
                statistics.fmean(by.values()) if name == "mean" else by[name]
                for by in (bits[variant, seed] for seed in seeds)
            ]
            for variant in VARIANTS
        }
        against = (
            spread([one / raw - 1 for one, raw in zip(of[variant], of["raw"], strict=True)], 100, "{:+.2f} ± {:.2f} %")
            for variant in ("curated", "clean")
        )
        shown.add_row(name, *(spread(of[variant], 1, "{:.3f} ± {:.3f}") for variant in VARIANTS), *against)
    return shown


def spread(values: list[float], scale: float, form: str) -> str:
    """A mean and a standard deviation, of one value none."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return form.format(scale * statistics.fmean(values), scale * deviation)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.5, help="of documents that are damaged")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/pays"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--curation", type=Path, default=Path("benchmarks/pays.yaml"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
