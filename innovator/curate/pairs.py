"""Pairs of texts of which one is better, in two parts that share no document: to learn from, and to be tested on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """The names of two texts, the better one first.

    weight: what the pair counts, such as the share of annotators who agree with it. about: the criterion or the kind of
    damage by which they differ. gap: by how much they differ, where that is known, else 0.
    """

    better: str
    worse: str
    weight: float = 1.0
    about: str = ""
    gap: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """Texts by name, the pairs to learn from, and the pairs that are held out. n_mixed: pairs that were left out
    because one of their documents is held out and the other is not.
    """

    texts: Mapping[str, str]
    train: Sequence[Pair]
    held_out: Sequence[Pair]
    n_mixed: int = 0


def apart(
    texts: Mapping[str, str],
    pairs: Iterable[Pair],
    share: float,
    seed: int,
    document_of: Callable[[str], str] = lambda name: name,
) -> Pairs:
    """Hold out a share of the documents with all pairs between them.

    document_of: the document that a text comes from. ValueError if either part would be empty.
    """
    pairs = list(pairs)
    documents = sorted({document_of(name) for pair in pairs for name in (pair.better, pair.worse)})
    kept_back = set(random.Random(seed).sample(documents, round(share * len(documents))))
    parts: tuple[list[Pair], ...] = ([], [], [])
    for pair in pairs:
        parts[(document_of(pair.better) in kept_back) + (document_of(pair.worse) in kept_back)].append(pair)
    train, mixed, held_out = parts
    if not train or not held_out:
        raise ValueError(
            f"{len(documents)} documents in {len(pairs)} pairs are too few to learn from some and be tested on others: "
            f"with {share:.0%} held out, {len(train)} pairs are left to learn from and {len(held_out)} to be tested on"
        )
    return Pairs(texts, train, held_out, len(mixed))
