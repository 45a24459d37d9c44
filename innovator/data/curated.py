"""A corpus that `innovator curate` made, and the benchmarks that it is proved to be free of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from innovator.data.records import Rejects
from innovator.files import fingerprint
from innovator.models.spec import Spec

if TYPE_CHECKING:
    from innovator.data.sources import Document, FilesSource

CURATION = "curation.json"


@dataclass(frozen=True, kw_only=True)
class CuratedSource(Spec):
    """One corpus of a curation's last step. path: that step's folder, which holds `curation.json`."""

    kind: Literal["curated"] = "curated"
    path: str
    corpus: str

    def at(self, root: Path | None) -> CuratedSource:
        """The same source with relative paths taken from `root`."""
        return replace(self, path=str((root or Path()) / Path(self.path).expanduser()))

    def check(self) -> None:
        """ValueError, in one sentence, if the source is not there."""
        corpora = self._told("corpora")
        if self.corpus not in corpora:
            raise ValueError(f"{self.path} has no corpus {self.corpus!r}; there are {', '.join(corpora)}")
        self._texts().check()

    def fingerprint(self) -> str:
        """What the source holds now, and what it was checked against, in a few digits; cheap."""
        return fingerprint([Path(self.path) / CURATION, *self._texts().files()], Path(self.path))

    def account(self) -> dict[str, str]:
        """Versions of what the text comes from, for the manifest."""
        return {"curation": Path(self.path).name}

    def documents(self, rejects: Rejects) -> Iterator[Document]:
        """Every text, in a fixed order; what is malformed raises ValueError."""
        return self._texts().documents(rejects)

    def proof(self) -> dict[str, str]:
        """The benchmarks of which no item is left in it, by name, each with the fingerprint of its items."""
        return self._told("benchmarks")

    def _told(self, field: str) -> dict[str, str]:
        file = Path(self.path) / CURATION
        if not file.is_file():
            raise ValueError(f"no {CURATION} at {self.path}: give the folder of the last step of `innovator curate`")
        told: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))[field]
        return told

    def _texts(self) -> FilesSource:
        from innovator.data.sources import FilesSource  # here because the union of sources names this one

        return FilesSource(path=str(Path(self.path) / self.corpus))
