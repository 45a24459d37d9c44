"""Contestants are timed in turns, every one once a round, and compared round by round.

What a machine does beside measuring hits all contestants of a round alike, so that ratios stay right where times do
not. Before they are timed, contestants that should compute the same are held to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Literal

import torch
from machine import Setting
from torch import Tensor

LIMIT = "large matrix product"
LIMIT_WIDTH = {"quick": 256, "cpu": 2048, "cuda": 8192}
FEWEST_ROUNDS, MOST_ROUNDS = 3, 1000
WARM_UPS, WARM_UP_SECONDS = 5, 0.5
N_PROBES = 8
SEED_OF_PROBES = 7


@dataclass(frozen=True)
class Contestant:
    """One way to do a piece of work; flops and n_tokens: what of one go counts, whatever else it does."""

    name: str
    go: Callable[[], object]
    flops: float = 0.0
    n_tokens: int = 0


@dataclass
class Timing:
    """Seconds of each go, and the most device memory that one took beyond what stood there before."""

    flops: float
    n_tokens: int
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds of the go in the middle."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the middle half of all goes reaches, as a share of the median."""
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


@dataclass(frozen=True)
class Goal:
    """What a ratio should at least, or at most, be."""

    sense: Literal[">=", "<="]
    bound: float

    def met(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.bound if self.sense == ">=" else value <= self.bound


@dataclass(frozen=True)
class Ratio:
    """One comparison in words, and what it should be."""

    what: str
    value: float
    goal: Goal | None = None


@dataclass(frozen=True)
class Race:
    """What one table shows."""

    title: str
    timings: Mapping[str, Timing]
    ratios: Sequence[Ratio] = ()
    notes: Sequence[str] = ()


def race(contestants: Sequence[Contestant], setting: Setting) -> dict[str, Timing]:
    """Time all in turns, each in another place of every round; who has used up his share of the time drops out."""
    timings = {it.name: Timing(it.flops, it.n_tokens) for it in contestants}
    for contestant in contestants:
        warm_up(contestant, setting)
    share = setting.seconds / len(contestants)
    for number in range(MOST_ROUNDS):
        here = [it for it in contestants if number < FEWEST_ROUNDS or sum(timings[it.name].seconds) < share]
        if not here:
            break
        turn = number % len(here)
        for contestant in (*here[turn:], *here[:turn]):
            time_one(contestant, timings[contestant.name], setting)
    return timings


def warm_up(contestant: Contestant, setting: Setting) -> None:
    """Goes that do not count: a few, or as many as a little time allows."""
    start = time.perf_counter()
    for _ in range(WARM_UPS):
        contestant.go()
        setting.wait()
        if time.perf_counter() - start > WARM_UP_SECONDS:
            return


def time_one(contestant: Contestant, timing: Timing, setting: Setting) -> None:
    """One go, noted."""
    setting.wait()
    in_use = setting.forget_peak()
    start = time.perf_counter()
    contestant.go()
    setting.wait()
    timing.seconds.append(time.perf_counter() - start)
    if (peak := setting.peak()) is not None:
        timing.peak_bytes = max(timing.peak_bytes or 0, peak - in_use)


def limit(setting: Setting) -> Contestant:
    """What the machine's arithmetic can do: a product of two large square matrices."""
    width = LIMIT_WIDTH[setting.scale]
    a, b = torch.randn(2, width, width, device=setting.device, dtype=setting.dtype)
    product = torch.empty_like(a)
    return Contestant(LIMIT, lambda: torch.mm(a, b, out=product), flops=2.0 * width**3)


def fastest(timings: Mapping[str, Timing], who: str) -> str:
    """Of the contestants whose names begin so, the one with the shortest median."""
    return min((name for name in timings if name.startswith(who)), key=lambda name: timings[name].median)


def times_as_long(timings: Mapping[str, Timing], one: str, other: str) -> float:
    """How many times as long one takes as the other: the median over the rounds that both were in."""
    pairs = zip(timings[one].seconds, timings[other].seconds, strict=False)
    return median(a / b for a, b in pairs)


def share_of_limit(timings: Mapping[str, Timing], name: str) -> float:
    """Which share of the large matrix product's FLOP/s a contestant reaches with the FLOPs that count."""
    return timings[name].flops / timings[LIMIT].flops / times_as_long(timings, name, LIMIT)


def more_memory(timings: Mapping[str, Timing], one: str, other: str) -> float | None:
    """How many times as much memory one takes at its peak; None if the device does not tell."""
    a, b = timings[one].peak_bytes, timings[other].peak_bytes
    return a / b if a is not None and b else None


def sketch(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor's product with a fixed random matrix: tells two apart, and two sets never stand in memory at once."""
    return {name: tensor.detach().float() @ probes(tensor) for name, tensor in tensors.items()}


def probes(tensor: Tensor) -> Tensor:
    """What a tensor is multiplied with to be compared."""
    generator = torch.Generator().manual_seed(SEED_OF_PROBES)
    return torch.randn(tensor.shape[-1], N_PROBES, generator=generator).to(tensor.device)


def distance(reference: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest distance of two tensors of the same name, as a share of the reference's norm."""
    assert reference.keys() == other.keys()
    return max(float((other[name] - it).norm() / it.norm()) for name, it in reference.items())


def agree(
    reference: Mapping[str, Tensor], others: Mapping[str, Mapping[str, Tensor]], tolerance: float, what: str
) -> str:
    """One sentence on how near all come to the reference; who does not is no contestant, and ends the benchmark."""
    far = {name: distance(reference, other) for name, other in others.items()}
    if wrong := {name: it for name, it in far.items() if not it <= tolerance}:
        raise SystemExit(f"{what} differ by more than {tolerance:g} of their norm: {wrong}")
    return f"{what} agree to {max(far.values()):.1e} of their norm (allowed: {tolerance:g})"
