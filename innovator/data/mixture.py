"""The stream of rows that a training run reads: a pure function of a seed and a row number.

Shape suffixes: B rows, T slots of a row, U slots of the window that a row is cut from (T, and one more
for the last target), K documents touched.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from innovator.data.tokens import TokenFile
from innovator.data.turns import Integers, Phase, Turns, named
from innovator.models.decoder import IGNORE
from innovator.models.layers import GENERAL, Layout


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, the token that follows each (IGNORE where none is predicted), and their layout."""

    tokens_BT: Tensor
    target_BT: Tensor
    layout: Layout

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows, in order."""
        layout = self.layout
        part = _layout(layout.position_BT[start:stop], layout.document_BT[start:stop], layout.label_BT[start:stop])
        return Batch(self.tokens_BT[start:stop], self.target_BT[start:stop], part)

    def portions(self, size: int) -> Iterator[Batch]:
        """The rows in order, `size` at a time."""
        for start in range(0, len(self.tokens_BT), size):
            yield self.rows(start, start + size)


@dataclass(frozen=True)
class Rows:
    """Whole documents packed into rows, for an evaluation that must count every byte once."""

    batch: Batch
    n_bytes: int
    n_documents: int


class Mixture:
    """An endless stream of rows, each of one corpus; the corpora take turns by their weights, phase after phase.

    A corpus is read in epochs: all its documents end to end, in a fresh order each time, cut into rows that are drawn
    in a fresh order too, so that the rows of a batch are of different documents. The end of an epoch that does not
    fill a row is left out.
    """

    def __init__(
        self,
        corpora: Mapping[str, TokenFile],
        weights: Mapping[str, float],
        labels: Mapping[str, int],
        seq_len: int,
        seed: int,
        phases: Sequence[Phase] = (),
    ) -> None:
        names = named(weights, phases)
        _check(corpora, names, labels, seq_len, seed)
        self.seq_len, self.labels = seq_len, labels
        self.streams = {name: _Stream(corpora[name], name, seed) for name in names}
        self.turns = Turns((Phase(from_tokens=0, mixture=dict(weights)), *phases), seq_len, seed)

    def rows(self, start: int, count: int) -> Batch:
        """Rows `start` to `start + count` of the stream, the same whoever asks and in whatever portions."""
        chosen = [self.turns.at(number) for number in range(start, start + count)]
        windows = [self.streams[corpus].row(turn, self.seq_len) for corpus, turn in chosen]
        tokens_BU = np.stack([window.tokens for window in windows])
        document_BU = np.stack([window.documents for window in windows])
        return _batch(tokens_BU, document_BU, np.array([self.labels[corpus] for corpus, _ in chosen]))

    def documents(self, start: int, count: int) -> list[tuple[str, int]]:
        """What rows are made of: each document's corpus and its number in the corpus' file, in the order read."""
        chosen = [self.turns.at(number) for number in range(start, start + count)]
        read = [(name, number) for name, turn in chosen for number in self.streams[name].sources(turn, self.seq_len)]
        return list(dict.fromkeys(read))

    def epochs(self, n_rows: int) -> dict[str, float]:
        """How often the first rows read each corpus: tokens read per token held."""
        turns = self.turns.before(n_rows)
        return {name: turns.get(name, 0) * self.seq_len / stream.n_tokens for name, stream in self.streams.items()}


def rows_of(file: TokenFile, n_tokens: int, seq_len: int) -> Rows:
    """The file's first whole documents, up to `n_tokens` (at least one document), the last row filled up."""
    n_documents = max(1, int(np.searchsorted(file.offsets[1:], n_tokens, side="right")))
    end = int(file.offsets[n_documents])
    n_rows = math.ceil(end / seq_len)
    tokens = np.zeros(n_rows * seq_len + 1, dtype=np.int64)
    tokens[:end] = file.tokens[:end]
    documents = np.full(len(tokens), n_documents)  # the filling is a document of its own
    documents[:end] = np.repeat(np.arange(n_documents), np.diff(file.offsets[: n_documents + 1]))
    slots_BU = np.arange(n_rows)[:, None] * seq_len + np.arange(seq_len + 1)
    batch = _batch(tokens[slots_BU], documents[slots_BU], np.full(n_rows, GENERAL))
    target_BT = batch.target_BT.masked_fill(torch.from_numpy(slots_BU[:, :-1] >= end), IGNORE)
    n_bytes = int(file.n_bytes[:n_documents].sum())
    return Rows(Batch(batch.tokens_BT, target_BT, batch.layout), n_bytes, n_documents)


@dataclass(frozen=True)
class _Window:
    """A stretch of a stream: its tokens, and the running number of the document that each belongs to."""

    tokens: Integers
    documents: Integers


@dataclass(frozen=True)
class _Epoch:
    """One order of a corpus' documents: the edges between them, and how far off each lies in the file."""

    edges: Integers
    shifts: Integers


class _Stream:
    """One corpus without end, its documents in another order in each epoch."""

    def __init__(self, file: TokenFile, name: str, seed: int) -> None:
        self.file, self.entropy = file, (seed, _number(name))
        self.n_tokens = int(file.offsets[-1])
        self.epochs: dict[int, _Epoch] = {}
        self.drawn: tuple[int, Integers] = (-1, np.empty(0, dtype=np.int64))

    def row(self, turn: int, seq_len: int) -> _Window:
        """The row of a turn, and one token more; a corpus shorter than a row gives several epochs in one."""
        number, place = divmod(turn, max(1, self.n_tokens // seq_len))
        first = int(self._draw(number, seq_len)[place]) * seq_len
        return self.window(number * self.n_tokens + first, seq_len + 1)

    def sources(self, turn: int, seq_len: int) -> list[int]:
        """The numbers in the file of the documents in the row of a turn."""
        read = np.unique(self.row(turn, seq_len).documents[:-1]).tolist()
        places = [divmod(document, self.file.n_documents) for document in read]
        begins = [self._epoch(number).edges[rank] + self._epoch(number).shifts[rank] for number, rank in places]
        found: list[int] = (np.searchsorted(self.file.offsets, begins, side="right") - 1).tolist()
        return found

    def window(self, start: int, length: int) -> _Window:
        """`length` tokens from slot `start` on, over as many epochs as that takes."""
        pieces = []
        while length > 0:
            number, first = divmod(start, self.n_tokens)
            n = min(length, self.n_tokens - first)
            pieces.append(self._within(number, first, n))
            start, length = start + n, length - n
        tokens = np.concatenate([piece.tokens for piece in pieces])
        return _Window(tokens, np.concatenate([piece.documents for piece in pieces]))

    def _within(self, number: int, first: int, n: int) -> _Window:
        epoch = self._epoch(number)
        low, high = np.searchsorted(epoch.edges, (first, first + n - 1), side="right")
        edges_K = np.clip(epoch.edges[low - 1 : high + 1], first, first + n)
        rank_U = np.repeat(np.arange(low - 1, high), edges_K[1:] - edges_K[:-1])
        source_U = np.arange(first, first + n) + epoch.shifts[rank_U]
        return _Window(self.file.tokens[source_U].astype(np.int64), rank_U + number * self.file.n_documents)

    def _draw(self, number: int, seq_len: int) -> Integers:
        """The order in which the rows of an epoch are drawn; the latest one is kept."""
        if self.drawn[0] != number:
            generator = np.random.default_rng([*self.entropy, number, seq_len])
            self.drawn = number, generator.permutation(max(1, self.n_tokens // seq_len))
        return self.drawn[1]

    def _epoch(self, number: int) -> _Epoch:
        """The order of one epoch; the latest two are kept, for rows straddle them."""
        if number not in self.epochs:
            order = np.random.default_rng([*self.entropy, number]).permutation(self.file.n_documents)
            lengths = np.diff(self.file.offsets)[order]
            edges = np.concatenate([[0], np.cumsum(lengths)])
            if len(self.epochs) == 2:
                del self.epochs[min(self.epochs)]
            self.epochs[number] = _Epoch(edges, self.file.offsets[:-1][order] - edges[:-1])
        return self.epochs[number]


def _batch(tokens_BU: Integers, document_BU: Integers, label_B: Integers) -> Batch:
    same_BT = document_BU[:, 1:] == document_BU[:, :-1]
    target_BT = np.where(same_BT, tokens_BU[:, 1:], IGNORE)
    slot_T = np.arange(same_BT.shape[1])
    begins_BT = np.pad(~same_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    position_BT = slot_T - np.maximum.accumulate(np.where(begins_BT, slot_T, 0), axis=1)
    document_BT = document_BU[:, :-1] - document_BU[:, :1]
    label_BT = np.broadcast_to(label_B[:, None], same_BT.shape).copy()
    layout = _layout(torch.from_numpy(position_BT), torch.from_numpy(document_BT), torch.from_numpy(label_BT))
    return Batch(torch.from_numpy(tokens_BU[:, :-1].copy()), torch.from_numpy(target_BT), layout)


def _layout(position_BT: Tensor, document_BT: Tensor, label_BT: Tensor) -> Layout:
    """Positions begin anew with every document: only a row of one document comes to the last."""
    plain = bool((position_BT[:, -1] == position_BT.shape[1] - 1).all())
    return Layout(position_BT, document_BT, label_BT, plain=plain)


def _check(
    corpora: Mapping[str, TokenFile], names: Sequence[str], labels: Mapping[str, int], seq_len: int, seed: int
) -> None:
    for name in names:
        if name not in corpora or name not in labels:
            raise ValueError(f"the mixture names a corpus {name!r}; there are: {', '.join(sorted(corpora))}")
    if seq_len < 1 or seed < 0:
        raise ValueError(f"seq_len {seq_len} must be at least 1, and seed {seed} at least 0")


def _number(name: str) -> int:
    """A corpus keeps its order of documents when another corpus is added to the mixture."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
