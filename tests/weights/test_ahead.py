"""Reading ahead gives the same items, holds no more than two, and ends when its reader or its maker does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from innovator.weights.ahead import ahead


def test_the_same_items_in_the_same_order() -> None:
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead([])) == []
    assert list(ahead([None, 0, False])) == [None, 0, False]


def test_no_more_than_the_next_one_is_made() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    for number in ahead(source()):
        assert len(made) <= number + 2


def test_the_next_one_is_made_while_one_is_used() -> None:
    second_is_made = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        second_is_made.set()
        yield 2

    items = ahead(source())
    assert next(items) == 1
    assert second_is_made.wait(timeout=60)
    assert list(items) == [2]


def test_what_its_maker_raises_arrives_after_what_was_made() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("the weights lack a tensor")

    items = ahead(source())
    assert next(items) == 1
    with pytest.raises(ValueError, match="lack a tensor"):
        next(items)


def test_leaving_it_leaves_no_thread() -> None:
    items = ahead(range(1000))
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
