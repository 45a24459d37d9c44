"""What torchrun starts for the tests here: `spread.py WORLD OUT RUNS`, a JSON list of runs to make in OUT."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pico import CORPORA, lesson

from innovator.engine.parallel import Engine
from innovator.engine.processes import leave
from innovator.models.moe import RouterLosses
from innovator.train.loop import train
from innovator.train.spec import TrainSpec

N_STEPS = 4
ALL, FEED_FORWARDS, ROUTERS = {"*": 1.0}, {"layers.*.ffn.*": 1.0}, {"layers.*.ffn.router.*": 1.0}
LOSSES = RouterLosses(balance=1e-2, z=1e-3, label=1.0, general=0.1)


@dataclass(frozen=True)
class Lesson:
    """A kind of training: where it starts and what learns."""

    init: str
    trainable: dict[str, float]

    def spec(self, precision: str) -> TrainSpec:
        spec = lesson(N_STEPS, self.trainable)
        return replace(spec, losses=LOSSES, tied_rows=self.trainable == ROUTERS, precision=precision)


LESSONS = {
    "dense": Lesson("base", ALL),
    "stage-1": Lesson("base", FEED_FORWARDS),
    "stage-3": Lesson("mixture", ROUTERS),
    "stage-4": Lesson("mixture", ALL),
}


def make(world: Path, out: Path, lesson: str, engine: dict[str, object], precision: str = "fp32") -> None:
    """One run, in `out`; an engine whose time is over stops after a step."""
    kind = LESSONS[lesson]
    inputs = {"init": world / kind.init, **{name: world / f"tokens-{name}" for name in CORPORA}}
    out.mkdir(parents=True, exist_ok=True)
    with suppress(SystemExit):
        train(kind.spec(precision), out, inputs, Engine(**engine))


def launch(script: Path, n: int, world: Path, out: Path, runs: object) -> str:
    """Let n processes make runs as a script does; what they said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), script, world, out]
    done = subprocess.run([*command, json.dumps(runs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def main(world: str, out: str, runs: str) -> None:
    """Make all runs in this process, one after the other, with the other processes."""
    torch.set_num_threads(1)
    for run in json.loads(runs):
        make(Path(world), Path(out) / run["name"], run["lesson"], run["engine"], run.get("precision", "fp32"))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
