"""Languages are told from prose alone."""

# Letters that look alike are what is tested here.
# ruff: noqa: RUF001

from __future__ import annotations

import pytest

from innovator.curate.language import IdentifyLanguage, identified
from innovator.curate.rule import Dropped, Kept

SAID = {
    "en": "The temperature of the gas rises when it is compressed, because work is done on its molecules.",
    "de": "Die Temperatur des Gases steigt, wenn es verdichtet wird, weil an den Molekülen Arbeit verrichtet wird.",
    "fr": "La température du gaz augmente quand on le comprime, car on fournit un travail à ses molécules.",
    "es": "La temperatura del gas aumenta cuando se comprime, porque se realiza trabajo sobre sus moléculas.",
    "it": "La temperatura del gas aumenta quando viene compresso, perché si compie lavoro sulle sue molecole.",
    "ru": "Температура газа повышается при сжатии, потому что над его молекулами совершается работа.",
    "zh": "气体被压缩时温度升高,因为外界对气体分子做了功,所以分子的平均动能增大。",
    "ja": "気体を圧縮すると温度が上がります。それは分子に対して仕事がなされるからです。",
}
FORMULAS = r" $\frac{\partial \rho}{\partial t} + \nabla \cdot (\rho \mathbf{v}) = 0$ \begin{align} a &= b \end{align} "
PROGRAM = "\n```\nfor index in range(10):\n    print(index, value[index])\n```\n"


@pytest.mark.parametrize("language", SAID)
def test_the_language_is_stated_with_its_probability(language: str) -> None:
    outcome = IdentifyLanguage(keep=(language,)).apply(SAID[language], {})
    assert isinstance(outcome, Kept) and outcome.text == SAID[language]
    assert outcome.facts["language"] == language
    assert 0.3 < float(str(outcome.facts["language_score"])) <= 1


@pytest.mark.parametrize("language", SAID)
@pytest.mark.parametrize("other", [FORMULAS * 20, PROGRAM * 20])
def test_formulas_and_programs_do_not_decide(language: str, other: str) -> None:
    assert identified(other + SAID[language] + other)[0] == language


@pytest.mark.parametrize("language", SAID)
def test_a_sample_that_begins_within_a_formula_is_read_all_the_same(language: str) -> None:
    sentence = SAID[language] + r" $\alpha_{i} = \sum_k \beta_k$ "
    assert {identified("x" * i + sentence * 200)[0] for i in range(0, 200, 7)} == {language}


def test_other_languages_are_dropped() -> None:
    assert IdentifyLanguage(keep=("en",)).apply(SAID["de"], {}) == Dropped("language")
    assert isinstance(IdentifyLanguage().apply(SAID["de"], {}), Kept)


def test_what_is_not_certain_enough_is_dropped() -> None:
    assert IdentifyLanguage(keep=("en",), least=1.0).apply("A short title in English", {}) == Dropped("language")


@pytest.mark.parametrize("text", ["", "$x$", "12 34 56", FORMULAS * 100, "\x00" * 10])
def test_without_prose_the_language_is_undetermined(text: str) -> None:
    assert identified(text) == ("und", 0.0)
    assert IdentifyLanguage(keep=("en",)).apply(text, {}) == Dropped("language")


def test_a_long_text_is_sampled_at_its_beginning_middle_and_end() -> None:
    english, german = SAID["en"] + " ", SAID["de"] + " "
    assert identified(german * 20 + english * 100_000 + german * 20 + english * 100)[0] == "en"


@pytest.mark.parametrize(("keep", "least"), [(("English",), 0.0), (("en",), 1.5)])
def test_a_spec_that_nothing_can_meet_is_refused(keep: tuple[str, ...], least: float) -> None:
    with pytest.raises(ValueError, match=r"^(keep|least)"):
        IdentifyLanguage(keep=keep, least=least)
