"""Documents that are nearly the same: MinHash signatures, pairs that share a bucket, and groups of what is truly alike.

Signatures are written and pairs found by datatrove's blocks; which words a shingle is made of is ours (any script, no
language model), and so is the last word on a pair: buckets propose, whole signatures decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WhitespaceTokenizer

from innovator.curate.words import Hashes, mixed, shingles, words_of
from innovator.models.spec import Spec

SHINGLES_AT_A_TIME = 128
COMPARED_AT_A_TIME = 4096
Signatures = npt.NDArray[np.uint32]
Number = tuple[int, int]
"""A document by its task, and its place among the task's documents."""


@dataclass(frozen=True, kw_only=True)
class Near(Spec):
    """Near-duplicates: documents that share at least `similarity` of their shingles of `n_grams` words (Jaccard).

    Two documents of similarity s share one of the b `buckets` of r `hashes` with probability 1 - (1 - s^r)^b, which
    rises most steeply near s = (1/b)^(1/r): 0.35 for the 64 buckets of 4 here (FineWeb, arXiv 2406.17557: 5-grams, 14
    of 8, 0.72). The similarity of those that do is then estimated from all b * r hashes, to within about 0.03.
    """

    n_grams: int = 3
    buckets: int = 64
    hashes: int = 4
    similarity: float = 0.35

    def __post_init__(self) -> None:
        if min(self.n_grams, self.buckets, self.hashes) < 1:
            raise ValueError("n_grams, buckets and hashes must be at least 1")
        if not 0 < self.similarity <= 1:
            raise ValueError(f"similarity is {self.similarity}: it is a share of shingles, above 0 and at most 1")

    @property
    def config(self) -> MinhashConfig:
        """The same in datatrove's words."""
        hashing = HashConfig(precision=32)
        return MinhashConfig(self.n_grams, self.buckets, self.hashes, hash_config=hashing)


class Sign(MinhashDedupSignature):
    """Writes datatrove's sorted signatures, and all signatures of a task in the order of its documents beside them."""

    def __init__(self, folder: Path, near: Near) -> None:
        super().__init__(str(folder), near.config, language=WhitespaceTokenizer())
        self.folder = folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Sign this task's documents."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _signature_file(self.folder, rank).open("wb") as self.whole:
            super().run(data, rank, world_size)

    def get_shingles(self, text: str) -> Hashes:
        """The hashes of all runs of words; a shorter text has none, and is near to nothing."""
        (hashes,) = shingles(words_of(text).hashes, self.config.n_grams)
        if not len(hashes):
            self.whole.write(np.zeros(self.num_hashes, np.uint32).tobytes())
        return hashes

    def get_signature(self, shingles: Hashes) -> list[list[int]]:
        """The least value of each hash function over the shingles, by bucket."""
        factor, offset = self.parameters
        least = np.full(self.num_hashes, np.iinfo(np.uint64).max, np.uint64)
        for first in range(0, len(shingles), SHINGLES_AT_A_TIME):
            values = shingles[first : first + SHINGLES_AT_A_TIME, None] * factor + offset
            np.minimum(least, values.min(axis=0), out=least)
        signature = (mixed(least) >> np.uint64(32)).astype(np.uint32)
        self.whole.write(signature.tobytes())
        buckets: list[list[int]] = signature.reshape(self.config.num_buckets, -1).tolist()
        return buckets


class Likeness:
    """Which documents are alike: buckets propose, whole signatures decide."""

    def __init__(self, pairs: Path, signatures: Path, n_tasks: int, near: Near) -> None:
        self.files, self.similarity = sorted(pairs.glob("*.dups")), near.similarity
        size = near.buckets * near.hashes
        self.tasks = [_open_signatures(_signature_file(signatures, rank), size) for rank in range(n_tasks)]

    def proposed(self, but: Collection[Number]) -> Iterator[list[Number]]:
        """Documents that share a bucket, each such list once. but: documents to leave out."""
        seen: set[int] = set()
        for file in self.files:
            for whole in _runs(file):
                run = [number for number in whole if number not in but]
                if len(run) > 1 and (key := hash(tuple(run))) not in seen:
                    seen.add(key)
                    yield run

    def like(self, one: Number, others: Sequence[Number]) -> Iterator[Number]:
        """Those of the others that are as similar to the one as `near` says."""
        signature = self._signature(one)
        for first in range(0, len(others), COMPARED_AT_A_TIME):
            some = others[first : first + COMPARED_AT_A_TIME]
            shared = (np.stack([self._signature(other) for other in some]) == signature).mean(axis=1)
            for place in np.flatnonzero(shared >= self.similarity).tolist():
                yield some[place]

    def _signature(self, number: Number) -> Signatures:
        rank, place = number
        return self.tasks[rank][place]


def _runs(file: Path) -> Iterator[list[Number]]:
    """The documents that share a bucket; the file has the first with the second, the second with the third, ..."""
    run: list[Number] = []
    for rank, place, next_rank, next_place in np.fromfile(file, "<u4").reshape(-1, 4).tolist():
        if not run or run[-1] != (rank, place):
            if run:
                yield run
            run = [(rank, place)]
        run.append((next_rank, next_place))
    if run:
        yield run


def _signature_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank:05d}.signatures"


def _open_signatures(file: Path, size: int) -> Signatures:
    if not file.stat().st_size:
        return np.empty((0, size), np.uint32)
    return np.memmap(file, np.uint32, mode="r").reshape(-1, size)
