"""A document means one thing, and one that cannot be read says why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from pydantic import TypeAdapter

from innovator.document import read, resolved, schema
from innovator.models.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Sun(Spec):
    kind: Literal["sun"] = "sun"
    mass: float


@dataclass(frozen=True, kw_only=True)
class Comet(Spec):
    kind: Literal["comet"] = "comet"
    period: int | None = None
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Telescope(Spec):
    aperture: float = 1.0
    n_mirrors: int = 1

    def __post_init__(self) -> None:
        if self.n_mirrors < 1:
            raise ValueError(f"{self.n_mirrors} mirrors reflect nothing")


@dataclass(frozen=True, kw_only=True)
class Survey(Spec):
    name: str
    targets: Mapping[str, Sun | Comet] = field(default_factory=dict)
    order: tuple[Sun | Comet, ...] = ()
    telescope: Telescope | None = None
    window: tuple[int, int] = (0, 24)
    band: Literal["red", "blue"] = "red"
    seed: int | str = 0
    store: Path = Path("here")


WHOLE = """
name: all sky
targets:
  near: {kind: sun, mass: 1}
  far: {kind: comet, period: 76, seen: ["1910", "1986"]}
order: [{kind: comet}]
telescope: {n_mirrors: 6}
window: [1, 5]
store: over/there
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "survey.yaml"
    path.write_text(text)
    return path


def complaint(folder: Path, text: str, *overrides: str) -> list[str]:
    """What is said about a document, line by line, without the name of the file."""
    path = written(folder, text)
    with pytest.raises(ValueError) as caught:
        read(path, overrides, Survey)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def test_a_document_becomes_the_specs_it_spells(tmp_path: Path) -> None:
    survey = read(written(tmp_path, WHOLE), [], Survey)
    assert survey == Survey(
        name="all sky",
        targets={"near": Sun(mass=1.0), "far": Comet(period=76, seen=("1910", "1986"))},
        order=(Comet(),),
        telescope=Telescope(n_mirrors=6),
        window=(1, 5),
        store=Path("over/there"),
    )


def test_pydantic_reads_the_same_specs(tmp_path: Path) -> None:
    survey = read(written(tmp_path, WHOLE), [], Survey)
    assert TypeAdapter(Survey).validate_json(resolved(survey)) == survey


def test_the_resolved_document_reads_back_as_the_same_spec(tmp_path: Path) -> None:
    survey = read(written(tmp_path, WHOLE), ["telescope.aperture=1e-7"], Survey)
    again = read(written(tmp_path, resolved(survey)), [], Survey)
    assert (again, resolved(again)) == (survey, resolved(survey))


def test_the_resolved_document_keeps_the_order_of_the_fields(tmp_path: Path) -> None:
    survey = read(written(tmp_path, "band: blue\nname: x"), [], Survey)
    assert list(json.loads(resolved(survey)))[:2] == ["name", "targets"]


def test_numbers_and_words_follow_yaml_1_2(tmp_path: Path) -> None:
    survey = read(written(tmp_path, "name: yes\ntelescope: {aperture: 1e-3, n_mirrors: 1_000}"), [], Survey)
    assert (survey.name, survey.telescope) == ("yes", Telescope(aperture=0.001, n_mirrors=1000))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("band=blue", Survey(name="x", order=(Comet(),), band="blue")),
        ("telescope.n_mirrors=3", Survey(name="x", order=(Comet(),), telescope=Telescope(n_mirrors=3))),
        ("order.0.seen=[dawn]", Survey(name="x", order=(Comet(seen=("dawn",)),))),
        ("targets={a: {kind: comet}}", Survey(name="x", targets={"a": Comet()}, order=(Comet(),))),
        ("name=a=b", Survey(name="a=b", order=(Comet(),))),
    ],
)
def test_an_override_replaces_one_value(tmp_path: Path, override: str, expected: Survey) -> None:
    path = written(tmp_path, "name: x\norder: [{kind: comet}]")
    assert read(path, [override], Survey) == expected


def test_an_override_of_an_alias_leaves_its_anchor(tmp_path: Path) -> None:
    path = written(tmp_path, "name: x\norder: [&first {kind: comet}, *first]")
    assert read(path, ["order.1.period=3"], Survey).order == (Comet(), Comet(period=3))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("telescope: {n_mirror: 2}", "telescope.n_mirror: unknown field; did you mean n_mirrors?"),
        (
            "telescope: {zzz: 2}",
            "telescope.zzz: unknown field; the fields are aperture, n_mirrors",
        ),
        ("telescope: {n_mirrors: many}", "telescope.n_mirrors: should be a whole number, not 'many'"),
        ("telescope: {n_mirrors: 1.5}", "telescope.n_mirrors: should be a whole number, not 1.5"),
        ("telescope: {n_mirrors: true}", "telescope.n_mirrors: should be a whole number, not true"),
        ("telescope: {n_mirrors: null}", "telescope.n_mirrors: should be a whole number, not null"),
        ("telescope: {aperture: wide}", "telescope.aperture: should be a number, not 'wide'"),
        ("telescope: {aperture: .nan}", "telescope.aperture: should be a finite number, not NaN"),
        ("telescope: {n_mirrors: 0}", "telescope: 0 mirrors reflect nothing"),
        ("telescope: big", "telescope: should be a mapping, not 'big'"),
        ("band: green", "band: should be 'red' or 'blue', not 'green'"),
        ("seed: [1]", "seed: should be a whole number or text, not a list of 1"),
        ("window: [1]", "window: should have 2 entries, not 1"),
        ("window: [1, b]", "window.1: should be a whole number, not 'b'"),
        ("targets: [1]", "targets: should be a mapping, not a list of 1"),
        ("order: {a: 1}", "order: should be a list, not a mapping"),
        ("order: [{kind: comet, seen: [3]}]", "order.0.seen.0: should be text, not 3"),
        ("targets: {a: {kind: moon}}", "targets.a: kind 'moon' is none of sun, comet"),
        ("targets: {a: {mass: 1}}", "targets.a: kind is missing; one of sun, comet"),
        ("targets: {a: {kind: sun}}", "targets.a.mass: is missing"),
        ("targets: {a: 7}", "targets.a: should be a mapping, not 7"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(tmp_path: Path, text: str, line: str) -> None:
    assert complaint(tmp_path, f"name: x\n{text}") == [line]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    lines = complaint(tmp_path, "names: x\nband: 3\norder: [{kind: sun, mass: a}]")
    assert lines == [
        "names: unknown field; did you mean name?",
        "name: is missing",
        "order.0.mass: should be a number, not 'a'",
        "band: should be 'red' or 'blue', not 3",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "should be a mapping, not null"),
        ("name: x\nstore: 2024-01-01", "2024-01-01 is neither text nor a number; write it in quotes"),
    ],
)
def test_what_is_no_survey_is_refused(tmp_path: Path, text: str, line: str) -> None:
    assert complaint(tmp_path, text) == [line]


@pytest.mark.parametrize("text", ["name: x\nband: red\nname: y", "name: x\n\nband: [", "a: 1\nb: 2\nc: !odd 3"])
def test_broken_yaml_is_named_by_its_line(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=rf"^{path}, line 3: "):
        read(path, [], Survey)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.yaml: No such file"):
        read(tmp_path / "absent.yaml", [], Survey)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("band", "should read path=value"),
        ("name.first=x", "there is no first in 'x'"),
        ("order.1.period=3", "there is no 1 in a list of 1"),
        ("band=[", "expected"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, reason: str) -> None:
    path = written(tmp_path, "name: x\norder: [{kind: comet}]")
    with pytest.raises(ValueError, match="override") as caught:
        read(path, [override], Survey)
    assert override in str(caught.value) and reason in str(caught.value)


def test_the_schema_forbids_what_reading_forbids() -> None:
    text = json.dumps(schema(Survey))
    assert '"additionalProperties": false' in text, "unknown fields"
    assert '"required": ["kind"]' in text, "a union without its kind"
