"""What a run leaves for programs to read: one JSON object per logged step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from innovator.models.decoder import Decoder

Figures = Mapping[str, float | int]


class Metrics:
    """An open `metrics.jsonl`; what an interrupted run logged after its checkpoint is dropped."""

    def __init__(self, path: Path, first_step: int) -> None:
        lines = path.read_text(encoding="utf8").splitlines() if path.is_file() and first_step else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf8")
        self.file: TextIO = path.open("a", encoding="utf8")

    def write(self, figures: Figures) -> None:
        """Append one line."""
        self.file.write(json.dumps(figures) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()


def router_figures(model: Decoder) -> dict[str, float]:
    """The router terms of the last pass per token, averaged over layers; nothing for a dense model."""
    mixtures = [mixture for mixture in model.mixtures() if mixture.terms]
    if not mixtures:
        return {}
    return {
        f"{name}_loss": sum(float(mixture.terms[name]) for mixture in mixtures) / len(mixtures)
        for name in mixtures[0].terms
    }
