"""Files on disk: what they hold in sixteen digits, and writing them whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

HEAD_AND_TAIL = 1 << 16


def fingerprint(files: Sequence[Path], base: Path) -> str:
    """Names under `base`, sizes, and the first and last 64 KiB of each: notices edits, cheap for terabytes."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(base).as_posix()} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(HEAD_AND_TAIL))
            stream.seek(max(0, size - HEAD_AND_TAIL))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that is there whole or not at all, whatever happens to the machine."""
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
