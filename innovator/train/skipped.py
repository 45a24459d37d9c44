"""What a run leaves about the steps it skipped, so that the documents to blame can be found."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from innovator.data.mixture import Mixture


@dataclass(frozen=True)
class Skipped:
    """A step whose loss (nats per token) or gradient norm was not finite."""

    step: int
    loss: float
    grad_norm: float


def record(path: Path, skipped: Skipped, stream: Mixture, first_row: int, n_rows: int) -> None:
    """Add a skipped step and the documents of its rows to a file; what an interrupted run wrote of it is replaced."""
    lines = path.read_text(encoding="utf8").splitlines() if path.is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] < skipped.step]
    line = {
        "step": skipped.step,
        "loss": _number(skipped.loss),
        "grad_norm": _number(skipped.grad_norm),
        "documents": documents(stream, first_row, n_rows),
    }
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text("".join(f"{line}\n" for line in [*kept, json.dumps(line)]), encoding="utf8")
    os.replace(draft, path)


def documents(stream: Mixture, first_row: int, n_rows: int) -> list[dict[str, str | int | None]]:
    """What rows are made of: corpus, number in the corpus' train file, and the source's id if it was stored."""
    read = stream.documents(first_row, n_rows)
    ids = {
        corpus: stream.streams[corpus].file.ids([number for name, number in read if name == corpus])
        for corpus in dict(read)
    }
    return [{"corpus": corpus, "number": number, "id": ids[corpus].get(number)} for corpus, number in read]


def _number(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)
