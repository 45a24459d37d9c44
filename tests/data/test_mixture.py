"""A row is a function of the seed and its number, and every token of an epoch is read once."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from innovator.data.mixture import Batch, Mixture, rows_of
from innovator.data.tokens import TokenFile
from innovator.data.turns import PERIOD, Phase, Turns, remark
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


def test_rows_of_one_document_each_are_known_as_plain() -> None:
    rows = [mixture().rows(row, 1) for row in range(60)]
    alone = [int(row.layout.document_BT.max()) == 0 for row in rows]
    assert [row.layout.plain for row in rows] == alone and len(set(alone)) == 2
    both = mixture().rows(alone.index(True), 40)
    assert not both.layout.plain and both.rows(0, 1).layout.plain


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


def test_the_rows_of_a_mixture_are_those_that_finished_runs_have_read() -> None:
    """Another order would be another result of the same recipe."""
    rows = fields(mixture(seed=7, physics=3.0).rows(0, PERIOD + 100))
    digest = hashlib.sha256(b"".join(field.numpy().tobytes() for field in rows)).hexdigest()
    assert digest == "0643acb40d3572c38c67d2bab5b84be8eeb1550a198123affd2f53fa02364bdd"


# Seventy rows that are mostly of general text, forty without alchemy, then alchemy above all.
STARTS = (0, 70, 110, 130)
PHASES = (
    Phase(from_tokens=0, mixture={"general": 0.75, "alchemy": 0.25}),
    Phase(from_tokens=70 * SEQ_LEN, mixture={"general": 0.5, "botany": 0.5}),
    Phase(from_tokens=110 * SEQ_LEN, mixture={"alchemy": 0.875, "general": 0.125}),
)
HELD = {"general": PHYSICS, "alchemy": BIOLOGY, "botany": token_file([40], first=200)}


def in_phases(*phases: Phase) -> Mixture:
    first, *later = phases
    return Mixture(HELD, first.mixture, dict.fromkeys(HELD, 0), SEQ_LEN, seed=1, phases=later)


def test_rows_of_a_mixture_in_phases_depend_on_their_numbers_alone() -> None:
    whole = in_phases(*PHASES).rows(0, STARTS[-1])
    for start, count in ((129, 1), (105, 10), (60, 60), (0, 71)):
        assert_same(in_phases(*PHASES).rows(start, count), whole.rows(start, start + count))


def test_what_follows_does_not_change_what_was_read() -> None:
    assert_same(in_phases(*PHASES).rows(0, 70), in_phases(PHASES[0]).rows(0, 70))
    assert_same(in_phases(*PHASES).rows(0, 110), in_phases(*PHASES[:2]).rows(0, 110))


def test_a_corpus_goes_on_where_it_stood_when_a_phase_begins() -> None:
    turns = Turns(PHASES, SEQ_LEN, seed=1)
    had: dict[str, int] = {}
    for row in range(STARTS[-1]):
        assert turns.before(row).items() >= had.items()
        corpus, turn = turns.at(row)
        assert turn == had.get(corpus, 0)
        had[corpus] = turn + 1
    assert turns.before(STARTS[-1]) == had


def test_no_token_is_read_twice_before_all_are_read_whatever_the_phases() -> None:
    tokens = in_phases(*PHASES).rows(0, STARTS[-1]).tokens_BT
    general = tokens[(tokens < 100).all(1)].flatten()
    assert len(general) > 10 * 48
    for epoch in general[: len(general) // 48 * 48].unflatten(0, (-1, 48)):
        assert sorted(epoch.tolist()) == list(range(48))


def test_every_phase_keeps_its_own_proportions_to_a_row() -> None:
    turns = Turns(PHASES, SEQ_LEN, seed=1)
    for phase, (start, end) in zip(PHASES, pairwise(STARTS), strict=True):
        before = turns.before(start)
        for row in range(start, end + 1):
            read = {name: count - before.get(name, 0) for name, count in turns.before(row).items()}
            assert sum(read.values()) == row - start
            assert all(abs(n - phase.mixture.get(name, 0.0) * (row - start)) <= 1 for name, n in read.items())
            assert all(n == 0 for name, n in read.items() if name not in phase.mixture)


def test_many_corpora_keep_their_proportions_to_a_few_rows() -> None:
    mixture = {"general": 0.75} | dict.fromkeys("abcdefgh", 0.25 / 8)
    turns = Turns((PHASES[0], Phase(from_tokens=70 * SEQ_LEN, mixture=mixture)), SEQ_LEN, seed=1)
    had = turns.before(70)
    for row in range(70, 70 + PERIOD, 7):
        for name, count in turns.before(row).items():
            share = mixture.get(name, 0.0)
            assert abs(count - had.get(name, 0) - share * (row - 70)) <= 1 + share * 7


def test_a_phase_begins_with_the_first_row_that_begins_at_its_token_or_later() -> None:
    start, later = PHASES[:2]
    rows = [
        in_phases(start, Phase(from_tokens=from_tokens, mixture=later.mixture)).rows(0, 90)
        for from_tokens in (69 * SEQ_LEN, 69 * SEQ_LEN + 1, 70 * SEQ_LEN)
    ]
    assert_same(rows[1], rows[2])
    assert not torch.equal(rows[0].tokens_BT, rows[1].tokens_BT)


def test_epochs_are_tokens_read_per_token_held() -> None:
    stream = in_phases(*PHASES)
    tokens = stream.rows(0, 100).tokens_BT
    read = {"general": tokens < 100, "alchemy": (tokens >= 100) & (tokens < 200), "botany": tokens >= 200}
    held = {"general": 48, "alchemy": 13, "botany": 40}
    assert stream.epochs(100) == {name: int(mask.sum()) / held[name] for name, mask in read.items()}
    assert stream.epochs(70)["botany"] == 0


def test_it_is_remarked_which_corpora_are_read_repeatedly_and_which_never() -> None:
    assert remark({"a": 1.0, "b": 2.26, "c": 0.0, "d": 0.3}) == "reads b 2.3 times; never reads c"
    assert remark({"a": 0.0, "b": 0.5}) == "never reads a"
    assert remark({"a": 0.5}) == ""


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
        ({"physics": float("nan")}, "the weight of 'physics' is nan: it must be positive"),
        ({"physics": 1.0, "chemistry": 1.0}, "names a corpus 'chemistry'; there are: biology, physics"),
        ({"physics": 0.0}, "the weight of 'physics' is 0.0: it must be positive"),
        ({"physics": 1.0, "biology": 1e-6}, "the weight of 'biology' is below 1/4096 of the whole"),
        ({}, "weights is empty"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(weights: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Mixture({"physics": PHYSICS, "biology": BIOLOGY}, weights, {"physics": 0, "biology": 1}, SEQ_LEN, 1)
