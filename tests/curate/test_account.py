"""Accounts add up, whoever kept them; samples do not depend on how documents were dealt out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from innovator.curate.account import N_SAMPLES, SHOWN, Account, Flow
from innovator.curate.rule import Dropped, Kept, Outcome, count_tokens

Case = tuple[str, str, str, Outcome]


def cases(n: int) -> list[Case]:
    draw = random.Random(0)
    made: list[Case] = []
    for number in range(n):
        text = " ".join(draw.choices(("ions", "waves", "é", "of", "7.5"), k=draw.randint(1, 60)))
        outcomes = (Kept(text), Kept(text.replace("of", "in"), text.count("of")), Dropped("too plain"))
        made.append((draw.choice("xy"), f"doc-{number}", text, draw.choice(outcomes)))
    return made


def noted(some: list[Case]) -> Account:
    account = Account()
    for source, id, text, outcome in some:
        after = count_tokens(outcome.text) if isinstance(outcome, Kept) else 0
        account.note("rule", id, {"source": source}, text, outcome, (count_tokens(text), after))
    return account


@pytest.mark.parametrize("n_parts", [1, 3, 50])
def test_parts_sum_to_the_whole(n_parts: int, tmp_path: Path) -> None:
    every = cases(50)
    paths = []
    for part in range(n_parts):
        paths.append(tmp_path / f"{part}.json")
        noted(every[part::n_parts]).write(paths[-1])
    assert Account.sum(paths).plain().keys() == noted(every).plain().keys()
    whole, summed = noted(every).rules["rule"], Account.sum(paths).rules["rule"]
    assert {name: dict(by) for name, by in summed.flows.items()} == whole.flows
    assert summed.reasons == whole.reasons and summed.samples == whole.samples


def test_what_goes_in_comes_out_or_has_a_reason() -> None:
    every = cases(80)
    rule = noted(every).rules["rule"]
    assert rule.whole.documents_in == 80 == rule.whole.documents_out + sum(rule.reasons.values())
    assert rule.whole.bytes_in == sum(len(text.encode()) for _, _, text, _ in every)
    assert rule.whole.bytes_out == sum(len(it.text.encode()) for *_, it in every if isinstance(it, Kept))
    assert noted(every).documents == rule.whole.documents_out


def test_an_account_survives_the_disk(tmp_path: Path) -> None:
    account = noted(cases(40))
    account.write(tmp_path / "account.json")
    assert Account.open(tmp_path / "account.json").plain() == account.plain()


def test_there_are_samples_of_both_sides_but_few() -> None:
    samples = noted(cases(80)).rules["rule"].samples
    assert set(samples) == {"kept", "changed", "dropped"}
    assert all(len(some) == N_SAMPLES for some in samples.values())


def test_a_sample_shows_where_a_long_text_was_changed() -> None:
    text = "a" * 5000 + " wrong " + "b" * 5000
    account = Account()
    account.note("rule", "x", {}, text, Kept(text.replace("wrong", "right"), 1), (3, 3))
    (sample,) = account.rules["rule"].samples["changed"]
    assert "wrong" in sample.before and "right" in sample.after and len(sample.before) <= SHOWN + 2


def test_flows_of_nothing_are_nothing() -> None:
    assert Flow.sum([]) == Flow() and Account().documents == 0
