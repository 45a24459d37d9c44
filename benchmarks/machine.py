"""Where a benchmark runs: the device, how long it may take, and what to write beside its figures."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads that spin slow two cores down

import psutil
import torch

GIB = 1 << 30
SECONDS = {"quick": 0.3, "cpu": 12.0, "cuda": 6.0}
PARTS = ("torch", "transformers", "numpy", "triton")

Scale = Literal["quick", "cpu", "cuda"]


@dataclass(frozen=True)
class Setting:
    """seconds: about how long the contestants of one race are timed, all together."""

    device: torch.device
    quick: bool
    seconds: float
    out: Path

    @property
    def scale(self) -> Scale:
        """Which shapes are meant for it."""
        if self.quick:
            return "quick"
        return "cuda" if self.device.type == "cuda" else "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def wait(self) -> None:
        """Until the device has done all it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> int | None:
        """The most memory in use since `forget_peak`; only GPUs tell."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def forget_peak(self) -> int:
        """Begin to look for a peak; returns what is in use."""
        if self.device.type != "cuda":
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def describe(self) -> dict[str, object]:
        """The machine, its versions and how busy it was when asked."""
        return {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],
            "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "system": platform.platform(),
            "python": platform.python_version(),
            **dict(installed(PARTS)),
        }


def asked(description: str | None, shapes: dict[Scale, tuple[str, ...]]) -> tuple[Setting, tuple[str, ...]]:
    """What the command line asks for: a setting, and the names of the shapes to measure."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="does it run? tiny shapes, and times that mean nothing")
    parser.add_argument("--shape", action="append", help="only this shape; may be given several times")
    parser.add_argument("--seconds", type=float, help=f"how long each race is timed, about (default: {SECONDS})")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="the folder of the JSON files")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here")
    rough = Setting(torch.device(given.device), given.quick, 0.0, given.out)
    chosen = tuple(given.shape or shapes[rough.scale])
    if unknown := set(chosen) - set(shapes[rough.scale]):
        raise SystemExit(f"--shape {', '.join(sorted(unknown))}: there are {', '.join(shapes[rough.scale])}")
    seconds = SECONDS[rough.scale] if given.seconds is None else given.seconds
    return Setting(rough.device, given.quick, seconds, given.out), chosen


def processor() -> str:
    """What the processor calls itself."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    return next((line.split(": ")[1] for line in lines if "model name" in line), platform.machine())


def installed(parts: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Versions of those packages that are there."""
    for part in parts:
        try:
            yield part, version(part)
        except ModuleNotFoundError:
            continue
