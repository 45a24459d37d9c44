"""Streams in which what comes next is made while what is there is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; another thread reads one while the one before is written, and no more stand in memory."""
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as reader:
        coming = reader.submit(list, islice(source, 1))
        while item := coming.result():
            coming = reader.submit(list, islice(source, 1))
            yield item.pop()
