"""The stream of packed rows, beside the training step that it feeds: it should go unnoticed.

python benchmarks/stream.py [--device cuda] [--shape fine] [--seconds 12] [--out FOLDER] [--quick]
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

import numpy as np
from lessons import own_lesson
from machine import Scale, Setting, asked
from measure import Contestant, Goal, Race, Ratio, race, times_as_long
from shapes import MODELS, ModelShape, build, random_text
from tables import publish

from innovator.data.mixture import Batch, Mixture
from innovator.data.tokens import TokenFile

STREAM, STEP = "stream", "step of the mixture"
CORPORA = ("general", "mathematics", "physics", "chemistry", "biology")
TOKENS_OF_A_CORPUS: dict[Scale, int] = {"quick": 20_000, "cpu": 20_000_000, "cuda": 20_000_000}
MEDIAN_DOCUMENT, SPREAD_OF_DOCUMENTS = 400, 1.2
UNNOTICED = Goal("<=", 0.02)


def measured(shape: ModelShape, name: str, setting: Setting) -> Race:
    """One shape of rows."""
    with tempfile.TemporaryDirectory() as folder:
        stream = mixture(Path(folder), shape, TOKENS_OF_A_CORPUS[setting.scale])
        starts = count(step=shape.rows)

        def rows() -> Batch:
            return stream.rows(next(starts), shape.rows)

        lesson = own_lesson(build(shape.config, setting), random_text(shape, setting))
        goes = {STREAM: rows, STEP: lesson.step}
        timings = race([Contestant(who, go, n_tokens=shape.n_tokens) for who, go in goes.items()], setting)
    ratio = Ratio("stream: share of a step's time", times_as_long(timings, STREAM, STEP), UNNOTICED)
    n_tokens = TOKENS_OF_A_CORPUS[setting.scale]
    title = f"{name}: {shape.rows} rows of {shape.seq_len} tokens, {len(CORPORA)} corpora of {n_tokens:,} tokens"
    return Race(title, timings, (ratio,))


def mixture(folder: Path, shape: ModelShape, n_tokens: int) -> Mixture:
    """A stream of corpora on disk whose documents are as uneven as real ones."""
    corpora = {name: corpus(folder / name, number, shape, n_tokens) for number, name in enumerate(CORPORA)}
    labels = {name: number - 1 for number, name in enumerate(CORPORA)}
    return Mixture(corpora, dict.fromkeys(CORPORA, 1.0), labels, shape.seq_len, seed=0)


def corpus(file: Path, seed: int, shape: ModelShape, n_tokens: int) -> TokenFile:
    """Random tokens mapped from a file, in documents of log-normal lengths."""
    draw = np.random.default_rng(seed)
    n_documents = n_tokens // MEDIAN_DOCUMENT
    lengths = 2 + draw.lognormal(np.log(MEDIAN_DOCUMENT), SPREAD_OF_DOCUMENTS, n_documents).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = offsets[offsets <= n_tokens]
    dtype = np.dtype("uint16" if shape.config.vocab_size <= 1 << 16 else "uint32")
    draw.integers(shape.config.vocab_size, size=int(offsets[-1]), dtype=dtype).tofile(file)
    return TokenFile(np.memmap(file, dtype, mode="r"), offsets, 4 * np.diff(offsets))


def main() -> None:
    """All shapes that were asked for."""
    setting, names = asked(__doc__, {scale: tuple(shapes) for scale, shapes in MODELS.items()})
    publish("stream", (measured(MODELS[setting.scale][name], name, setting) for name in names), setting)


if __name__ == "__main__":
    main()
