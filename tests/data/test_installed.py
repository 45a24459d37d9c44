"""What an installed distribution documents can be read without running any of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from innovator.data.installed import harvest
from innovator.data.records import Rejects
from innovator.data.sources import InstalledDocsSource

LONG = "A galaxy holds stars, gas and dust, and its rotation curve stays flat far beyond its light. " * 3
OTHER = "The mitochondrion oxidises what the cell has taken up and stores the energy it gains as ATP. " * 3
FILES = {
    "starlore/__init__.py": f'"""{LONG}"""\nraise RuntimeError("imported")\n',
    "starlore/orbit.py": (
        f'"""{OTHER}"""\n'
        f'class Orbit:\n    """{LONG} And it closes."""\n'
        f'    def period(self):\n        """{OTHER} Twice."""\n'
        f'def again():\n    """{OTHER}"""\ndef short():\n    """Too short."""\n'
    ),
    "starlore/template.py": '"""{{ not python """ }} {%\n',
    "starlore/_vendor/copied.py": f'"""{LONG} Elsewhere."""\n"""{LONG}"""\n',
    "starlore/tests/test_orbit.py": f'"""{LONG} Tested."""\n',
    "starlore/manual.rst": OTHER * 2 + "In the end.",
    "starlore/table.txt": "1.5 2.5 3.5\n" * 100,
    "starlore/LICENSE.txt": LONG * 3,
    "starlore-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: starlore\nVersion: 1.2\n",
}


@pytest.fixture
def starlore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small distribution on the path, whose module raises when it is imported."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    record = "".join(f"{name},,\n" for name in reversed(FILES))
    (tmp_path / "starlore-1.2.dist-info" / "RECORD").write_text(record, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_is_one_document_of_named_docstrings_and_is_not_imported(starlore: Path) -> None:
    passages = {passage.origin: passage.text for passage in harvest("starlore")}
    assert list(passages) == ["starlore/manual.rst", "starlore/orbit.py"]
    headings = [line for line in passages["starlore/orbit.py"].splitlines() if line.startswith("starlore")]
    assert headings == ["starlore.orbit", "starlore.orbit.Orbit", "starlore.orbit.Orbit.period"]
    assert "Too short" not in passages["starlore/orbit.py"]


def test_the_same_version_gives_the_same_documents(starlore: Path) -> None:
    source = InstalledDocsSource(distributions=("starlore",))
    rejects = Rejects(starlore / "rejects.jsonl")
    assert list(source.documents(rejects)) == list(source.documents(rejects))
    assert source.fingerprint() == "starlore==1.2" and source.account() == {"starlore": "1.2"}


def test_python_brings_its_language_reference() -> None:
    passages = list(harvest("python"))
    assert any(passage.origin == "pydoc_data/topics.py:assert" for passage in passages)
    assert sum(len(passage.text) for passage in passages) > 1_000_000
    assert not any("/test/" in passage.origin or "site-packages" in passage.origin for passage in passages)
