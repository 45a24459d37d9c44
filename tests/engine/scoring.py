"""What torchrun starts for test_scoring: `scoring.py HOME OUT ENGINES`, a JSON mapping of engines by name."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pico import BATCH, CORPORA, DISCIPLINES

from innovator.engine.parallel import Engine
from innovator.engine.processes import leave
from innovator.evaluate.bits import EvaluateSpec
from innovator.train.aim import AimSpec

MODELS = {"base": DISCIPLINES, "mixture": DISCIPLINES, "thirds": DISCIPLINES[:3]}
IDLE = "one-row"  # less than there are processes


def scoring(tokens: int, seq_len: int, rows: int) -> EvaluateSpec:
    return EvaluateSpec(
        model="mine",
        corpora=CORPORA[:3],
        disciplines=DISCIPLINES,
        tokens=tokens,
        seq_len=seq_len,
        rows=rows,
        train_tokens=7,
        train_flops=8.0,
    )


def aiming(tokens: int, rows: int) -> AimSpec:
    return AimSpec(disciplines=DISCIPLINES, tokens=tokens, seq_len=BATCH.seq_len, rows=rows)


SCORING = {"scores": scoring(150, 16, 3), IDLE: scoring(1, 128, 1)}
AIMING = {"aimed": aiming(600, 13), "aimed-from-three-rows": aiming(3 * BATCH.seq_len, 1)}


def shared(path: Path) -> Path:
    """A folder that each process may be the first to need."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def make(home: Path, out: Path, engine: Engine) -> None:
    """Every aiming and every score of every model, in `out`."""
    corpora = {name: home / f"tokens-{name}" for name in CORPORA}
    for name, aim in AIMING.items():
        aim.run(shared(out / name), {"init": home / "mixture", **corpora}, engine)
    for name, score in SCORING.items():
        for model, disciplines in MODELS.items():
            replace(score, disciplines=disciplines).run(
                shared(out / name / model), {"model": home / model, **corpora}, engine
            )


def main(home: str, out: str, engines: str) -> None:
    """Make all of it in this process under each engine, with the other processes."""
    torch.set_num_threads(1)
    for name, engine in json.loads(engines).items():
        make(Path(home), Path(out) / name, Engine(**engine))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
