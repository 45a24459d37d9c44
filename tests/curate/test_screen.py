"""A screen is the library's filter: the same verdicts, and settings that it knows."""

from __future__ import annotations

import pickle

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import get_filter_result

from innovator.curate.rule import Dropped, Kept
from innovator.curate.screen import FILTERS, Screen

SENTENCE = "The rate of the reaction was measured with care, and it is given for that temperature in the table. "
TEXTS = (
    SENTENCE * 40,
    "word " * 200,
    "{ x } " * 90,
    SENTENCE,
    "# # # ... " * 50,
    "\n".join([SENTENCE] * 9 + ["Short"]),
)


@pytest.mark.parametrize("kind", FILTERS)
def test_a_screen_says_what_the_filter_says(kind: str) -> None:
    screen, theirs = pickle.loads(pickle.dumps(Screen(kind=kind))), FILTERS[kind]()
    for text in TEXTS:
        document = Document(text=text, id="")
        kept, reason = get_filter_result(theirs.filter(document))
        ours = screen.apply(text, {})
        expected = Kept(document.text, ours.count) if kept else Dropped(reason.replace("_", " "))
        assert ours == expected


def test_settings_reach_the_filter() -> None:
    lenient = Screen(kind="gopher-quality", settings={"min_doc_words": 5, "min_stop_words": 0})
    assert isinstance(lenient.apply(SENTENCE, {}), Kept)
    assert isinstance(Screen(kind="gopher-quality").apply(SENTENCE, {}), Dropped)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="settings: c4-quality has no 'min_words'; there are split_paragraph"):
        Screen(kind="c4-quality", settings={"min_words": 3})
