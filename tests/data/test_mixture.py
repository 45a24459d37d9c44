"""A row is a function of the seed and its number, and every token of an epoch is read once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from innovator.data.mixture import PERIOD, Batch, Mixture, rows_of
from innovator.data.tokens import TokenFile
from innovator.models.decoder import IGNORE
from innovator.models.layers import GENERAL

SEQ_LEN = 8


def token_file(lengths: list[int], first: int = 0) -> TokenFile:
    """Documents whose tokens are all different, so that each can be followed through the stream."""
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(first, first + offsets[-1], dtype=np.uint32)
    return TokenFile(tokens=tokens, offsets=offsets, n_bytes=3 * np.array(lengths))


PHYSICS = token_file([3, 21, 2, 5, 9, 8])  # 48 tokens: six rows of eight
BIOLOGY = token_file([4, 7, 2], first=100)  # 13 tokens: no whole number of rows
LAST_TOKENS = {2, 23, 25, 30, 39, 47, 103, 110, 112}


def mixture(seed: int = 1, physics: float = 2.0, biology: float = 1.0) -> Mixture:
    corpora = {"physics": PHYSICS, "biology": BIOLOGY, "unused": PHYSICS}
    weights = {"physics": physics, "biology": biology}
    return Mixture(corpora, weights, {"physics": 0, "biology": GENERAL}, SEQ_LEN, seed)


def fields(batch: Batch) -> list[torch.Tensor]:
    layout = batch.layout
    return [batch.tokens_BT, batch.target_BT, layout.position_BT, layout.document_BT, layout.label_BT]


def assert_same(one: Batch, two: Batch) -> None:
    for a, b in zip(fields(one), fields(two), strict=True):
        assert torch.equal(a, b) and a.dtype == torch.int64


def only(corpus: TokenFile, seed: int = 1) -> Mixture:
    return Mixture({"c": corpus}, {"c": 1.0}, {"c": 0}, SEQ_LEN, seed)


def test_a_row_depends_on_the_seed_and_its_number_alone() -> None:
    whole = mixture().rows(0, 40)
    for start, count in (
        (39, 1),
        (3, 5),
        (0, 3),
        (17, 20),
    ):  # backwards too, and by a reader that starts afresh
        assert_same(mixture().rows(start, count), whole.rows(start, start + count))
    reader = mixture()
    portions = [fields(reader.rows(start, 8)) for start in (0, 8, 16, 24, 32)]
    for together, apart in zip(fields(whole), zip(*portions, strict=True), strict=True):
        assert torch.equal(together, torch.cat(apart))


def test_another_seed_is_another_stream() -> None:
    assert not torch.equal(mixture(1).rows(0, 20).tokens_BT, mixture(2).rows(0, 20).tokens_BT)


def test_every_token_of_an_epoch_is_an_input_once() -> None:
    tokens = only(PHYSICS).rows(0, 12).tokens_BT
    for epoch in (tokens[:6], tokens[6:]):
        assert sorted(epoch.flatten().tolist()) == list(range(48))
    assert not torch.equal(tokens[:6], tokens[6:])  # in another order of documents


def test_a_corpus_smaller_than_a_row_is_read_again_and_again() -> None:
    tokens = Mixture({"c": BIOLOGY}, {"c": 1.0}, {"c": 0}, seq_len=39, seed=1).rows(4, 1).tokens_BT
    assert sorted(tokens.flatten().tolist()) == sorted(3 * list(range(100, 113)))


def test_the_target_is_the_next_token_of_the_same_document() -> None:
    batch = mixture().rows(0, 40)
    for token, target in zip(batch.tokens_BT.flatten().tolist(), batch.target_BT.flatten().tolist(), strict=True):
        assert target == (IGNORE if token in LAST_TOKENS else token + 1)


def test_positions_count_within_a_document_and_begin_again_with_each_row() -> None:
    batch = mixture().rows(0, 40)
    for tokens, positions, documents in zip(
        batch.tokens_BT.tolist(),
        batch.layout.position_BT.tolist(),
        batch.layout.document_BT.tolist(),
        strict=True,
    ):
        assert positions[0] == documents[0] == 0
        for t in range(1, SEQ_LEN):
            begins = tokens[t - 1] in LAST_TOKENS
            assert positions[t] == (0 if begins else positions[t - 1] + 1)
            assert documents[t] == documents[t - 1] + begins


def test_a_row_belongs_to_one_corpus_and_carries_its_label() -> None:
    batch = mixture().rows(0, 60)
    is_biology = batch.tokens_BT >= 100
    assert torch.equal(is_biology.all(1), is_biology.any(1))
    assert torch.equal(batch.layout.label_BT, torch.where(is_biology, GENERAL, 0))


def test_the_corpora_keep_their_proportions_from_the_first_rows_on() -> None:
    stream = mixture(physics=3.0, biology=1.0)
    is_physics = (stream.rows(0, PERIOD + 400).tokens_BT < 100).all(1)
    assert int(is_physics[:PERIOD].sum()) == PERIOD * 3 // 4
    so_far = is_physics.cumsum(0)
    wanted = 0.75 * torch.arange(1, PERIOD + 401)
    assert (so_far - wanted).abs().max() < 2  # never further from its share than the number of corpora


def test_rows_for_an_evaluation_hold_the_first_whole_documents_once() -> None:
    rows = rows_of(PHYSICS, n_tokens=30, seq_len=SEQ_LEN)
    assert rows.n_documents == 3 and rows.n_bytes == 3 * (3 + 21 + 2)
    tokens, targets = rows.batch.tokens_BT.flatten(), rows.batch.target_BT.flatten()
    assert tokens[:26].tolist() == list(range(26)) and len(tokens) == 32
    predicted = targets[targets != IGNORE].tolist()
    assert predicted == sorted(set(range(26)) - {0, 3, 24})  # all but the first of each document
    assert (targets[26:] == IGNORE).all()
    filling = rows.batch.layout.document_BT[-1, 2:]
    assert set(filling.tolist()).isdisjoint(rows.batch.layout.document_BT[-1, :2].tolist())
    assert sum(len(batch.tokens_BT) for batch in rows.batch.portions(3)) == 4


def test_an_evaluation_reads_at_least_one_document_and_at_most_all() -> None:
    assert rows_of(PHYSICS, n_tokens=1, seq_len=SEQ_LEN).n_documents == 1
    assert rows_of(PHYSICS, n_tokens=10**9, seq_len=SEQ_LEN).n_documents == 6


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"physics": 1.0, "chemistry": 1.0}, "names a corpus 'chemistry'; there are: biology, physics"),
        ({"physics": 0.0}, "the weight of 'physics' is 0.0: it must be positive"),
        ({"physics": 1.0, "biology": 1e-6}, "the weight of 'biology' is below 1/4096 of the whole"),
        ({}, "weights is empty"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(weights: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Mixture({"physics": PHYSICS, "biology": BIOLOGY}, weights, {"physics": 0, "biology": 1}, SEQ_LEN, 1)
