"""Reads a YAML document into specs, and says everything that is wrong with it in the reader's words.

Specs are dataclasses, and alternatives are unions of them told apart by `kind`; which fields they have is
not known here. pydantic checks each single value; the walk over mappings, lists and unions is ours, because
only a walk knows the path to report and which member of a union was meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import ClassVar, NoReturn, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from typing_extensions import TypeForm

T = TypeVar("T")

LEAF = ConfigDict(strict=True, allow_inf_nan=False)
WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
}


class Record(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]


def read(path: Path, overrides: Sequence[str], into: type[T]) -> T:
    """The document at `path` as an `into`, after each override `a.b.c=value` has replaced one value of it."""
    tree = _load(path)
    for override in overrides:
        tree = _overridden(tree, override)
    reader = _Reader()
    spec = reader.read(tree, into, "")
    if reader.problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in reader.problems))
    assert isinstance(spec, into)
    return spec


def kind(path: Path) -> object:
    """What the document at `path` says that it is; None if it says nothing."""
    tree = _load(path)
    return tree.get("kind") if isinstance(tree, dict) else None


def plain(spec: Record) -> dict[str, object]:
    """The spec as JSON holds it: mappings, lists, text and numbers, in the order of the fields."""
    tree: dict[str, object] = json.loads(json.dumps(asdict(spec), default=_path_text))
    return tree


def resolved(spec: Record) -> str:
    """The document that says everything, defaults included; it reads back as the same spec."""
    return json.dumps(plain(spec), indent=2) + "\n"


def schema(into: type[object]) -> dict[str, object]:
    """The JSON Schema of documents that read into `into`, for editors to complete and check."""
    tree = TypeAdapter(into).json_schema()
    definitions: dict[str, dict[str, object]] = tree.get("$defs", {})
    for node in _nodes(tree):
        members = node.get("anyOf")
        if isinstance(members, list) and sum(_has_kind(member, definitions) for member in members) > 1:
            node["required"] = ["kind"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **tree}


class _Reader:
    """Builds specs out of plain data and keeps a line about everything it could not accept."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def read(self, value: object, hint: TypeForm[object], where: str) -> object:
        if isinstance(hint, type) and is_dataclass(hint):
            return self._spec(value, hint, where)
        origin, parts = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            return self._alternative(value, hint, where)
        if origin in (dict, Mapping) and parts[0] is str and isinstance(value, dict):
            return {key: self.read(item, parts[1], _join(where, key)) for key, item in value.items()}
        if origin is tuple and isinstance(value, list):
            return self._tuple(value, hint, where)
        return self._leaf(value, hint, where)

    def _spec(self, value: object, spec: type[Record], where: str) -> object:
        if not isinstance(value, dict):
            return self._refuse(where, f"should be a mapping, not {_shown(value)}")
        n_problems = len(self.problems)
        hints = get_type_hints(spec, include_extras=True)
        known = {field.name: field for field in fields(spec) if field.init}
        for name in [name for name in value if name not in known]:
            self._refuse(_join(where, name), f"unknown field; {_meant(name, list(known))}")
        arguments: dict[str, object] = {}
        for name, field in known.items():
            if name in value:
                arguments[name] = self.read(value[name], hints[name], _join(where, name))
            elif field.default is MISSING and field.default_factory is MISSING:
                self._refuse(_join(where, name), "is missing")
        return self._build(spec, arguments, where) if len(self.problems) == n_problems else None

    def _build(self, spec: Callable[..., object], arguments: dict[str, object], where: str) -> object:
        try:
            return spec(**arguments)
        except ValueError as error:
            return self._refuse(where, str(error))

    def _alternative(self, value: object, hint: TypeForm[object], where: str) -> object:
        members = [member for member in get_args(hint) if member is not NoneType]
        if value is None and len(members) < len(get_args(hint)):
            return None
        if len(members) == 1:
            return self.read(value, members[0], where)
        specs = [member for member in members if isinstance(member, type) and is_dataclass(member)]
        if not isinstance(value, dict) or not specs:
            return self._leaf(value, hint, where)
        by_kind = {kind: member for member in specs for kind in get_args(get_type_hints(member)["kind"])}
        kind = value.get("kind")
        if isinstance(kind, str) and kind in by_kind:
            return self.read(value, by_kind[kind], where)
        wrong = f"kind {_shown(kind)} is none of" if "kind" in value else "kind is missing; one of"
        return self._refuse(where, f"{wrong} {', '.join(by_kind)}")

    def _tuple(self, value: list[object], hint: TypeForm[object], where: str) -> object:
        parts = get_args(hint)
        hints = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        if len(hints) != len(value):
            return self._refuse(where, f"should have {len(hints)} entries, not {len(value)}")
        items = zip(value, hints, strict=True)
        return tuple(self.read(item, hint, _join(where, str(i))) for i, (item, hint) in enumerate(items))

    def _leaf(self, value: object, hint: TypeForm[object], where: str) -> object:
        adapter: TypeAdapter[object] = TypeAdapter(hint, config=LEAF)
        try:
            return adapter.validate_json(json.dumps(value))
        except ValidationError as error:
            wanted = " or ".join(dict.fromkeys(_wanted(detail) for detail in error.errors()))
            return self._refuse(where, f"should be {wanted}, not {_shown(value)}")

    def _refuse(self, where: str, problem: str) -> object:
        """Note a problem; the value given back stands for what could not be read."""
        self.problems.append(f"{where}: {problem}" if where else problem)
        return None


def _load(path: Path) -> object:
    """The document as JSON could hold it, so that no two places of it are one object."""
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _overridden(tree: object, override: str) -> object:
    path, equals, text = override.partition("=")
    if not (path and equals):
        raise ValueError(f"override {override!r} should read path=value")
    try:
        return _replaced(tree, path.split("."), _parse(text))
    except MarkedYAMLError as error:
        raise ValueError(f"override {override!r}: {error.problem}") from error
    except (YAMLError, ValueError) as error:
        raise ValueError(f"override {override!r}: {error}") from error


def _replaced(tree: object, names: list[str], value: object) -> object:
    """`tree` with `value` at the place the names lead to; mappings that are not there yet are made."""
    if not names:
        return value
    name, rest = names[0], names[1:]
    if tree is None:
        return {name: _replaced(None, rest, value)}
    if isinstance(tree, dict):
        return {**tree, name: _replaced(tree.get(name), rest, value)}
    if isinstance(tree, list) and name.isdecimal() and int(name) < len(tree):
        i = int(name)
        return [*tree[:i], _replaced(tree[i], rest, value), *tree[i + 1 :]]
    raise ValueError(f"there is no {name} in {_shown(tree)}")


def _parse(text: str) -> object:
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=_not_json))


def _not_json(value: object) -> NoReturn:
    raise ValueError(f"{value} is neither text nor a number; write it in quotes")


def _path_text(value: object) -> str:
    if isinstance(value, PurePath):
        return value.as_posix()
    raise TypeError(f"{value!r} cannot be written into a document")


def _wanted(detail: ErrorDetails) -> str:
    return WANTED.get(detail["type"], detail["msg"].removeprefix("Input should be "))


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _meant(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the fields are {', '.join(known)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value) if isinstance(value, str) else json.dumps(value)


def _nodes(tree: object) -> Iterator[dict[str, object]]:
    """Every mapping inside a JSON tree."""
    if isinstance(tree, dict):
        yield tree
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for child in children:
        yield from _nodes(child)


def _has_kind(member: dict[str, str], definitions: dict[str, dict[str, object]]) -> bool:
    """Whether a member of a schema's union is a spec with a kind."""
    properties = definitions.get(member.get("$ref", "").removeprefix("#/$defs/"), {}).get("properties", {})
    return isinstance(properties, dict) and "kind" in properties
