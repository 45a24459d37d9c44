"""Unicode repair mends what decoding broke and leaves what science writes."""

# Letters that look alike are what is tested here.
# ruff: noqa: RUF001

from __future__ import annotations

import random
import unicodedata

import ftfy.bad_codecs  # noqa: F401  (it registers an encoding)
import pytest

from innovator.curate.rule import Kept
from innovator.curate.unicode import RepairUnicode


def repaired(text: str) -> Kept:
    outcome = RepairUnicode().apply(text, {})
    assert isinstance(outcome, Kept)
    return outcome


SENTENCES = ("Die Wärme fließt ab.", "Le café à côté était fermé.", "x ≤ 3 – or “more”…", "La señal llegó mañana.")


@pytest.mark.parametrize("sentence", SENTENCES)
def test_utf8_read_as_windows_1252_is_restored(sentence: str) -> None:
    broken = sentence.encode().decode("sloppy-windows-1252")  # as browsers do, which leave no byte out
    assert repaired(broken).text == sentence
    assert repaired(broken).count >= 1


@pytest.mark.parametrize(
    "text",
    [
        "10² J = 10⁻³ kJ, H₂O, ½, Å and µ",
        "eﬃcient ﬂow",
        "full-width ＡＢ and ㎏",
        "“quoted” and ‘so’",
        r"$a & b \\ c$ \begin{align} x &= y \end{align}",
        "α ∈ ℝ, 𝑥 ≠ ∞",
        "日本語の文章です。",
        "page one\fpage two",
    ],
)
def test_what_science_writes_stays(text: str) -> None:
    assert repaired(unicodedata.normalize("NFC", text)) == Kept(unicodedata.normalize("NFC", text))


def test_control_characters_go_and_line_ends_are_one_kind() -> None:
    assert repaired("a\x00b\x1b[31mc\r\nd\re") == Kept("abc\nd\ne", 1)


def test_composed_characters_are_one() -> None:
    assert repaired("Poincare\u0301 map") == Kept("Poincaré map", 1)


def test_every_place_is_counted() -> None:
    assert repaired("cafÃ© olÃ©\nplain\nnaÃ¯ve").count == 3


def test_repair_is_done_once_and_for_all() -> None:
    generator = random.Random(0)
    characters = [*"abc \n\t&;<", *"é²ﬁÃ©â€™\x92\x00\u0301\ufeff\ud7a3漢"]
    for _ in range(300):
        text = repaired("".join(generator.choices(characters, k=40))).text
        assert repaired(text).text == text
