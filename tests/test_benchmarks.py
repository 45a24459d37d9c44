"""Benchmarks compare like with like: what is timed against ours computes what ours computes, and noise cancels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from innovator.models.moe import MoE

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are programs, and no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_every_way_to_compute_the_layer_gives_our_output_and_gradients(tmp_path: Path) -> None:
    """fp32 to 1e-5 of their norm: sums stand in another order."""
    from layer import Feed, agreed, forwards
    from machine import Setting
    from shapes import LAYERS, draw
    from theirs import SETUPS

    setting = Setting(torch.device("cpu"), quick=True, seconds=0.0, out=tmp_path)
    shape = LAYERS["quick"]["tiny"]
    moe = MoE(shape.dim, shape.config, layer=0).eval()
    draw(moe, shape.dim**-0.5)
    ways, left_out = forwards(moe, shape, setting)
    assert len(ways) == 1 + len(SETUPS) and not left_out
    agreed(Feed.draw(shape, setting), ways, moe, setting)


def test_the_model_in_transformers_has_our_loss_and_our_gradients(tmp_path: Path) -> None:
    """fp32 to 1e-4 of their norm, checked by the benchmark itself."""
    from machine import Setting
    from shapes import MODELS
    from step import proof

    setting = Setting(torch.device("cpu"), quick=True, seconds=0.0, out=tmp_path)
    proof(MODELS["quick"]["tiny"], setting)


def test_whoever_computes_something_else_ends_the_benchmark() -> None:
    from measure import agree, sketch

    right, wrong = torch.ones(4, 3), torch.ones(4, 3)
    wrong[2, 1] = 1.1
    agree(sketch({"output": right}), {"same": sketch({"output": right.clone()})}, 1e-6, "outputs")
    with pytest.raises(SystemExit, match="other"):
        agree(sketch({"output": right}), {"other": sketch({"output": wrong})}, 1e-2, "outputs")
    with pytest.raises(SystemExit, match="broken"):
        agree(sketch({"output": right}), {"broken": sketch({"output": right * torch.nan})}, 1e-2, "outputs")


def test_a_slow_moment_of_the_machine_does_not_change_a_ratio() -> None:
    """Both are three times as slow in two of five rounds."""
    from measure import Timing, times_as_long

    disturbed = [1.0, 3.0, 1.0, 3.0, 1.0]
    timings = {
        "one": Timing(0.0, 0, [2.0 * it for it in disturbed]),
        "other": Timing(0.0, 0, [*disturbed, *(6 * [0.1])]),
    }
    assert times_as_long(timings, "one", "other") == 2.0


def test_every_way_of_thinking_speaks_as_it_does_elsewhere_and_takes_all_its_passes(tmp_path: Path) -> None:
    """Exact: the same tokens as `generate`; else times and FLOPs would belong to different work."""
    from machine import Setting
    from shapes import random_text
    from thinkers import TINY, Begun, fresh

    from innovator.models.generate import generate

    setting = Setting(torch.device("cpu"), quick=True, seconds=0.0, out=tmp_path)
    tokens_BT, _ = random_text(TINY, setting)
    for config in TINY.configs().values():
        model = fresh(config, setting).eval()
        said_BT, passes_BT = Begun.of(model, tokens_BT).speak(3)
        if config.thinking.kind not in ("ponderlm-2", "ponderlm-3"):  # whose sweeps end at another token here
            assert said_BT.tolist() == generate(model, tokens_BT.tolist(), 3)
        assert (passes_BT == config.thinking.effort().speaking_passes).all()
