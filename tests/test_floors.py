"""Imports point down, from floor to floor of the architecture, and third parties stay where they are used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "innovator"
FLOORS = (
    {"models", "say", "files", "torchrun"},
    {"weights", "data"},
    {"engine"},
    {"train", "evaluate"},
    {"document", "ends", "plots"},
    {"curate"},
    {"pipeline"},
    {"abreast", "report", "stages"},
    {"bases", "contest_report", "curation_report", "export"},
    {"study"},
    {"contest", "curation", "recipe"},
    {"curation_steps", "graph"},
    {"heats"},
    {"kinds"},
    {"curate_commands", "plan", "launch"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}
HOMES = {
    "datasets": {"data"},
    "datatrove": {"curate"},
    "ftfy": {"curate"},
    "gguf": {"export"},
    "jinja2": {"curate", "export", "launch", "report"},
    "krippendorff": {"curate"},
    "lm_eval": {"data", "evaluate"},
    "matplotlib": {"contest_report", "curation_report", "plots", "report"},
    "openai": {"curate"},
    "psutil": {"export"},
    "py3langid": {"curate"},
    "pyarrow": {"data"},
    "pypdfium2": {"curate"},
    "ruamel": {"document"},
    "sklearn": {"curate"},
    "tokenizers": {"data"},
    "trafilatura": {"curate"},
    "transformers": {"curate", "models/hf.py", "export/reread.py"},
    "typer": {"cli", "curate_commands"},
    "warcio": {"curate"},
    "zstandard": {"data"},
}
MODULES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
every_module = pytest.mark.parametrize("module", MODULES, ids=str)


def room(module: Path) -> str:
    """The package or the single module, directly under ours, that a file belongs to."""
    return module.parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[tuple[str, bool]]:
    """The absolute name of each thing a file imports, and whether it is written relatively."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ("innovator", *module.parts[:-1])
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = [*above, node.module] if node.module else above
            yield from ((".".join([*base, alias.name]), node.level > 0) for alias in node.names)


def rooms_imported(module: Path) -> set[str]:
    return {name.split(".")[1] for name, _ in imports(module) if name.startswith("innovator.")}


def libraries_imported(module: Path) -> set[str]:
    roots = {name.split(".")[0] for name, _ in imports(module)}
    return roots - {"innovator", "__future__", *sys.stdlib_module_names}


@every_module
def test_every_module_has_a_floor(module: Path) -> None:
    assert module == Path("__init__.py") or room(module) in HEIGHT


@every_module
def test_imports_point_down(module: Path) -> None:
    if module == Path("__init__.py"):
        assert not rooms_imported(module)
        return
    here = room(module)
    not_below = {other for other in rooms_imported(module) - {here} if HEIGHT[other] >= HEIGHT[here]}
    assert not not_below, f"{here} may not import {', '.join(sorted(not_below))}"


@every_module
def test_a_library_stays_where_it_is_used(module: Path) -> None:
    strangers = {
        library
        for library in libraries_imported(module) & HOMES.keys()
        if not HOMES[library] & {room(module), module.as_posix()}
    }
    assert not strangers, f"{module} may not import {', '.join(sorted(strangers))}"


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "models"], ids=str)
def test_the_models_ship_alone(module: Path) -> None:
    """The folder is copied beside exported weights, where there is torch and nothing of ours."""
    allowed = {"torch", "transformers"} if module.name == "hf.py" else {"torch"}
    assert libraries_imported(module) <= allowed
    assert rooms_imported(module) <= {"models"}
    assert not [name for name, relative in imports(module) if name.startswith("innovator") and not relative]
