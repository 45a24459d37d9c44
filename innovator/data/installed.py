"""Texts that every Python environment carries: the docstrings and manuals of its installed distributions.

Modules are parsed, never imported, so harvesting a distribution runs none of its code.
"""

from __future__ import annotations

import ast
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PYTHON = "python"
SHORTEST_DOCSTRING = 200
SHORTEST_DOCUMENT = 500
LEAST_PROSE = 0.75
PROSE_SUFFIXES = (".rst", ".txt", ".md")
FOREIGN_FOLDERS = {
    "site-packages",
    "dist-packages",
    "_vendor",
    "vendored",
    "extern",
    "externals",
    "__pycache__",
}
TEST_FOLDERS = {"test", "tests", "testing", "idle_test"}
FORMALITIES = ("license", "licence", "copying", "notice", "authors", "requirements")


@dataclass(frozen=True)
class Passage:
    """One text of a distribution, and the file it stands in."""

    origin: str
    text: str


def version_of(distribution: str) -> str:
    """The installed version, or a sentence that says how to install it."""
    if distribution == PYTHON:
        return platform.python_version()
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise ValueError(
            f"the distribution {distribution!r} is not installed: run `pip install {distribution}`, "
            'or `pip install "innovator[demo]"` for everything that the demonstrations read'
        ) from None


def harvest(distribution: str) -> Iterator[Passage]:
    """One passage per module with enough docstrings and per page of prose, in the order of their paths."""
    seen: set[str] = set()
    for origin, path in _files(distribution):
        if origin == "pydoc_data/topics.py":
            yield from _topics(path)
        elif path.suffix == ".py":
            module = origin.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            text = "\n\n".join(_sections(path, module, seen))
            if len(text) >= SHORTEST_DOCUMENT:
                yield Passage(origin, text)
        elif text := _prose(path):
            yield Passage(origin, text)


def _files(distribution: str) -> list[tuple[str, Path]]:
    if distribution == PYTHON:
        stdlib = Path(sysconfig.get_path("stdlib"))
        files = [(path.relative_to(stdlib).as_posix(), path) for path in stdlib.rglob("*.py")]
    else:
        version_of(distribution)
        record = metadata.distribution(distribution).files or []
        files = [(file.as_posix(), Path(str(file.locate()))) for file in record]
    return sorted((origin, path) for origin, path in files if _is_text_of_its_own(origin))


def _is_text_of_its_own(origin: str) -> bool:
    *folders, name = origin.split("/")
    if name.lower().startswith(FORMALITIES) or any(folder.endswith((".dist-info", ".egg-info")) for folder in folders):
        return False
    if FOREIGN_FOLDERS & set(folders) or TEST_FOLDERS & set(folders) or ".." in folders:
        return False
    return name.endswith(".py") or (name.endswith(PROSE_SUFFIXES) and "data" not in folders)


def _sections(path: Path, module: str, seen: set[str]) -> Iterator[str]:
    """Each long docstring of a module under the name of what it describes, in the order of the file."""
    tree = _parse(path)
    for name, docstring in _docstrings(tree, module) if tree else ():
        if len(docstring) >= SHORTEST_DOCSTRING and docstring not in seen:
            seen.add(docstring)
            yield f"{name}\n\n{docstring}"


def _parse(path: Path) -> ast.Module | None:
    """The module's syntax tree, or None where a file is not Python (a template, say)."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    raw = ast.get_docstring(node, clean=False)
    if raw is not None:
        yield name, inspect.cleandoc(raw).encode("utf-8", "replace").decode()
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(child, f"{name}.{child.name}")


def _topics(path: Path) -> Iterator[Passage]:
    """The pages of Python's language reference, kept as one dictionary of strings."""
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign):
            for topic, page in sorted(ast.literal_eval(statement.value).items()):
                yield Passage(f"pydoc_data/topics.py:{topic}", page.strip())


def _prose(path: Path) -> str:
    """The text of a page, or nothing where the file is short, or is a table rather than sentences."""
    text = path.read_bytes().decode("utf-8", "replace").strip()
    n_prose = sum(character.isalpha() or character in " \n" for character in text)
    return text if len(text) >= SHORTEST_DOCUMENT and n_prose >= LEAST_PROSE * len(text) else ""
