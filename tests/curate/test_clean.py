"""Blocks make up their text; a rule mends what it is for, once, and touches no number, formula or letter else."""

from __future__ import annotations

import re
import sysconfig
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import pytest

from innovator.curate.clean.blocks import parse, render
from innovator.curate.clean.captions import Captions
from innovator.curate.clean.formulas import Formulas
from innovator.curate.clean.irrelevant import Irrelevant
from innovator.curate.clean.ocr import Ocr
from innovator.curate.clean.references import References
from innovator.curate.clean.scripts import Scripts
from innovator.curate.clean.spec import SEVEN, Clean, CleanRule
from innovator.curate.clean.structure import Structure
from innovator.curate.damage import CLEANED, DAMAGES
from innovator.curate.rule import Kept, Rule

N_REAL, LONGEST = 40, 20_000
NUMBER, FORMULA, SPACE = re.compile(r"\d+"), re.compile(r"\$[^$]+\$"), re.compile(r"\s+")
NAMES = [rule.name for rule in SEVEN]
PAPER = """# On nothing

We study the energy $E = mc^2$ of a particle [1] and the function $f(x) = \\frac{1}{x}$, see [2, 3].
It costs $5 and the other one $7.

$$\\int_0^1 x\\,dx = \\frac{1}{2}$$

Figure 3: A curve with 12 points.

- one item with 0.5 mg
- another item

| x | y |
| --- | --- |
| 1 | 2 |

```
for i in range(10):
    print(i)
```

References

[1] A. Writer, On much, 1999.
[2] B. Writer, On little, 2001.
[3] C. Writer, On something, 2010.
"""
SCRIPTS = "Это 3 слова. これは文です。 الجملة العربية هنا. यह एक वाक्य है। Αυτό είναι. می‌خواهم 👩‍🔬 ไทย"


@cache
def real_texts() -> list[str]:
    """Documentation of installed packages, without the licences in it."""
    packages = Path(sysconfig.get_paths()["purelib"])
    files = sorted(packages.glob("*.dist-info/METADATA"))
    texts = (file.read_text(encoding="utf-8", errors="replace")[:LONGEST] for file in files)
    return [text for text in texts if "opyright" not in text][:N_REAL]


def mended(rule: Rule, text: str) -> Kept:
    outcome = rule.apply(text, {})
    assert isinstance(outcome, Kept)
    return outcome


def cleaned(text: str) -> str:
    for rule in SEVEN:
        text = mended(rule, text).text
    return text


def garbled(rng: Random) -> str:
    """Signs that mean something to some rule, in no order."""
    signs = [
        "$",
        "$$",
        "\\",
        "{",
        "}",
        "\n",
        "\n\n",
        "\f",
        "```",
        "|",
        "- ",
        "[1] ",
        "#",
        "Figure 1.",
        "a b c d",
        "x-\n",
        "\t",
        "  ",
    ]
    return "".join(rng.choice([*signs, "word", "7", "References", "\\begin{a}"]) for _ in range(rng.randrange(60)))


@pytest.mark.parametrize("seed", range(50))
def test_blocks_make_up_any_text(seed: int) -> None:
    text = garbled(Random(seed))
    assert render(parse(text)) == text


def test_blocks_make_up_real_texts() -> None:
    assert all(render(parse(text)) == text for text in [PAPER, *real_texts()])


def test_every_part_of_a_paper_is_a_block_of_its_kind() -> None:
    kinds = [block.kind for block in parse(PAPER + "\n\fnext page")]
    expected = "heading paragraph formula caption list table code heading reference break"
    assert kinds[:-1] == [*expected.split()] and kinds[-1] in ("paragraph", "reference")


@pytest.mark.parametrize("rule", SEVEN, ids=NAMES)
def test_a_sound_paper_stays_as_it_is(rule: CleanRule) -> None:
    outcome = mended(rule, PAPER)
    assert (outcome.text, outcome.count) == (PAPER, 0)


@pytest.mark.parametrize("rule", SEVEN, ids=NAMES)
def test_real_texts_keep_their_numbers_and_formulas(rule: CleanRule) -> None:
    for text in real_texts():
        after = mended(rule, text).text
        assert Counter(NUMBER.findall(after)) == Counter(NUMBER.findall(text))
        assert Counter(FORMULA.findall(SPACE.sub(" ", after))) == Counter(FORMULA.findall(SPACE.sub(" ", text)))


@pytest.mark.parametrize("rule", SEVEN, ids=NAMES)
def test_letters_of_every_script_stay(rule: CleanRule) -> None:
    assert mended(rule, SCRIPTS).text == SCRIPTS


@pytest.mark.parametrize("kind", CLEANED)
def test_cleaning_twice_is_cleaning_once(kind: str) -> None:
    for seed, text in enumerate([PAPER, *real_texts()]):
        once = cleaned(DAMAGES[kind].plant(text, 0.7, Random(seed))[0])
        assert cleaned(once) == once


@pytest.mark.parametrize("rule", SEVEN, ids=NAMES)
def test_a_rule_has_nothing_left_to_do_after_itself(rule: CleanRule) -> None:
    for seed in range(100):
        once = mended(rule, garbled(Random(seed))).text
        assert mended(rule, once).text == once


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (Scripts(), "a\u200bb \x07c\ufeff \u202ed\u202c", "ab c d"),
        (Scripts(), "Bohr\x92s \x961.0", "Bohr\u2019s \u20131.0"),
        (Scripts(), "\uf0b7 \uf061", "• \u03b1"),
        (Ocr(), "The eﬃcient ﬁrst one", "The efficient first one"),
        (Ocr(), "a soft\u00adware", "a software"),
        (Ocr(), "a long hyphen-\nated word", "a long hyphenated word"),
        (Ocr(), "a well-\nknown fact, well-known", "a well-known fact, well-known"),
        (Ocr(), "the model and the m0del", "the model and the model"),
        (Ocr(), "the arg1 is not argl", "the arg1 is not argl"),
        (Ocr(), "an electron, the elec tron, no electron", "an electron, the electron, no electron"),
        (Ocr(), "freshwater fish in fresh water, freshwater", "freshwater fish in fresh water, freshwater"),
        (Ocr(), "Then and then, where the n is given", "Then and then, where the n is given"),
        (Ocr(), "with more than with, wi th an end", "with more than with, with an end"),
        (Ocr(), "on the 10th, loth to go, loth", "on the 10th, loth to go, loth"),
        (Ocr(), "the energy is an e n e r g y of", "the energy is an energy of"),
        (Formulas(), "where $x_0 is the start of $\\alpha$", "where $x_0$ is the start of $\\alpha$"),
        (Formulas(), "the sum $\\frac{a}{b$ is", "the sum $\\frac{a}{b}$ is"),
        (Formulas(), "so $\\ frac{a}{b} + \\fr ac{c}{d}$ is", "so $\\frac{a}{b} + \\frac{c}{d}$ is"),
        (Formulas(), "$$x = \\frac{1}{2}", "$$x = \\frac{1}{2}$$"),
        (Formulas(), "it costs $5 and $\\alpha$ more", "it costs $5 and $\\alpha$ more"),
        (Formulas(), "the variable `${a_b}` of $PATH", "the variable `${a_b}` of $PATH"),
        (Formulas(), "as $GIT_DIR is, $\\alpha$", "as $GIT_DIR is, $\\alpha$"),
        (Captions(), "Fig. 3. A curve", "Figure 3: A curve"),
        (Captions(), "F i g u r e 3:\nA curve", "Figure 3: A curve"),
        (Captions(), "TABLE 2 . Values", "Table 2: Values"),
        (Structure(), "##Results", "## Results"),
        (Structure(), "-\nan item\n-\nanother", "- an item\n- another"),
        (Structure(), "| a | b |\n| --- | --- |\n| 1\n| 2 |", "| a | b |\n| --- | --- |\n| 1 | 2 |"),
        (
            References(),
            "as [ 12 ] and [3] and [4] and [5] and [l2] say",
            "as [12] and [3] and [4] and [5] and [12] say",
        ),
        (References(), "R e f e r e n c e s\n\n[1] A. B., 1999.", "References\n\n[1] A. B., 1999."),
        (
            References(),
            "Text.\n\n[1] A, x.\n[2] B, y.\n[3] C, z.",
            "Text.\n\nReferences\n\n[1] A, x.\n[2] B, y.\n[3] C, z.",
        ),
        (Irrelevant(), "Text.\n\n© 2019 The Authors. All rights reserved.\n\nMore.", "Text.\n\nMore."),
        (Irrelevant(), "Text.\n\nHome | About us | Contact", "Text."),
        (Irrelevant(), "Text.\n\n- \n- []()\n- \n\nMore.", "Text.\n\nMore."),
    ],
)
def test_damage_is_mended(rule: Rule, before: str, after: str) -> None:
    assert mended(rule, before).text == after


def test_running_heads_go_and_repeated_titles_stay() -> None:
    body = [f"Problem\n\n{'some words of a long page ' * 20}{number}." for number in range(6)]
    pages = [f"{text}\n\n{number}\n\nA Running Head" for number, text in enumerate(body, start=14)]
    assert mended(Irrelevant(), "\n\n".join([*pages, "The end."])).text == "\n\n".join([*body, "The end."])


def test_wrapped_paragraphs_are_joined_and_verse_is_not() -> None:
    rng = Random(0)
    prose = " ".join("".join(rng.choices("abcdefg", k=rng.randint(2, 9))) for _ in range(120))
    lines = textwrap.wrap(prose, 60)
    verse = "\n".join(f"The {'la ' * rng.randint(8, 14)}end" for _ in range(8))
    assert mended(Structure(), "\n".join(lines)).text == " ".join(lines)
    assert mended(Structure(), verse).text == verse


def test_code_is_not_reflowed_or_mended() -> None:
    code = "```\nmodel = m0del($x_0 +\n    elec tron, \\ frac)\n```"
    assert cleaned(f"The model and the electron.\n\n{code}") == f"The model and the electron.\n\n{code}"


def test_facts_tell_scripts_captions_and_references() -> None:
    assert mended(Scripts(), SCRIPTS).facts["scripts"] == [
        "arabic", "cjk", "cyrillic", "devanagari", "greek", "hiragana", "thai",
    ]  # fmt: skip
    assert mended(Captions(), PAPER).facts["captions"] == ["Figure 3: A curve with 12 points."]
    assert mended(References(), PAPER).facts["references"] == 3


def test_the_rules_come_in_the_order_of_the_recipe() -> None:
    assert Clean(rules=(Ocr(), Scripts())).build() == (Ocr(), Scripts())
