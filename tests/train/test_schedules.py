"""A learning rate rises to its peak, stays or sinks, and ends at its floor, without a jump."""

from __future__ import annotations

from itertools import pairwise

import pytest

from innovator.train.spec import WSD, Cosine, Infinite, Schedule

GRID = [step / 2000 for step in range(2001)]
SCHEDULES = [Cosine(), Cosine(warmup=0.3, floor=0.0), WSD(), WSD(decay=0.5, floor=0.1), Infinite(), Infinite(floor=0.2)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


@every_schedule
def test_it_begins_at_nothing_peaks_after_the_warmup_and_ends_at_the_floor(schedule: Schedule) -> None:
    assert schedule.factor(0.0) == 0.0
    assert schedule.factor(schedule.warmup) == pytest.approx(1.0)
    assert schedule.factor(1.0) == pytest.approx(schedule.floor)


@every_schedule
def test_it_never_jumps(schedule: Schedule) -> None:
    """The steepest piece is the default warm-up: 1 over 5 % of the run, 0.01 per step of this grid."""
    values = [schedule.factor(done) for done in GRID]
    assert max(abs(b - a) for a, b in pairwise(values)) < 0.03


@every_schedule
def test_it_rises_in_the_warmup_and_never_again(schedule: Schedule) -> None:
    rising = [schedule.factor(done) for done in GRID if done <= schedule.warmup]
    falling = [schedule.factor(done) for done in GRID if done > schedule.warmup]
    assert all(a < b for a, b in pairwise(rising))
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))


@pytest.mark.parametrize("schedule", [Cosine(warmup=0.0), WSD(warmup=0.0), Infinite(warmup=0.0)], ids=str)
def test_without_warmup_it_begins_at_the_peak(schedule: Schedule) -> None:
    assert schedule.factor(0.0) == pytest.approx(1.0)


def test_warmup_stay_decay_stays_until_it_decays() -> None:
    assert [WSD(warmup=0.1, decay=0.2).factor(done) for done in (0.1, 0.5, 0.8)] == pytest.approx([1.0, 1.0, 1.0])


def test_the_infinite_schedule_is_constant_between_cooldown_and_annealing() -> None:
    schedule = Infinite(warmup=0.1, cooldown=0.2, constant=0.4, anneal=0.1)
    assert [schedule.factor(done) for done in (0.3, 0.6, 0.9)] == pytest.approx([0.4, 0.4, 0.4])


def test_a_cosine_is_half_way_down_at_half_time() -> None:
    assert Cosine(warmup=0.0, floor=0.2).factor(0.5) == pytest.approx(0.6)
