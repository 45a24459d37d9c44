"""Greedy decoding with a cache, beside transformers' `generate` on the same weights.

python benchmarks/decode.py [--device cuda] [--shape fine] [--seconds 12] [--out FOLDER] [--quick]

Shape suffixes: B prompts, T slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from machine import Scale, Setting, asked
from measure import Contestant, Race, Ratio, Timing, agree, fastest, race, sketch, times_as_long
from shapes import MODELS, ModelShape, build, random_text
from tables import publish
from theirs import SETUPS, Setup, TheirModel, named
from torch import Tensor

from innovator.models.decoder import Decoder
from innovator.models.generate import generate

OURS, THEIRS = "ours", "transformers"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # where two experts nearly tie, either may be chosen


@dataclass(frozen=True)
class Speech:
    """How many prompts of how many tokens are continued by how many."""

    n_prompts: int
    n_read: int
    n_new: int


SPEECHES: dict[Scale, tuple[Speech, ...]] = {
    "quick": (Speech(2, 4, 4),),
    "cpu": (Speech(1, 64, 32), Speech(16, 64, 32)),
    "cuda": (Speech(1, 128, 32), Speech(32, 128, 32)),
}


def measured(shape: ModelShape, name: str, setting: Setting) -> Iterator[Race]:
    """One model, alone and with several prompts at once."""
    ours = build(shape.config, setting)
    theirs = TheirModel(ours, setting)
    ours.eval()
    theirs.model.eval()
    for speech in SPEECHES[setting.scale]:
        few = replace(shape, rows=speech.n_prompts, seq_len=speech.n_read)
        tokens_BT, _ = random_text(few, setting)
        agreements = agreed(ours, theirs, tokens_BT, speech.n_new, setting)
        timings = timed(ours, theirs, tokens_BT, speech.n_new, setting)
        best = fastest(timings, THEIRS)
        ratio = Ratio(f"ours: speed, times {best}", times_as_long(timings, best, OURS))
        title = f"{name}: prompts: {speech.n_prompts}, of {speech.n_read} tokens, continued by {speech.n_new} each"
        yield Race(title, timings, (ratio,), agreements)


def timed(ours: Decoder, theirs: TheirModel, tokens_BT: Tensor, n_new: int, setting: Setting) -> dict[str, Timing]:
    """The same prompts continued by everybody; only new tokens count, though reading the prompt takes time too."""
    n_tokens = len(tokens_BT) * n_new
    contestants = [Contestant(OURS, lambda: own(ours, tokens_BT, n_new, setting), n_tokens=n_tokens)]
    for setup in SETUPS:
        go = partial(other, theirs, setup, tokens_BT, n_new)
        contestants.append(Contestant(named(setup), go, n_tokens=n_tokens))
    return race(contestants, setting)


def own(model: Decoder, tokens_BT: Tensor, n_new: int, setting: Setting) -> list[list[int]]:
    """What our model says."""
    with setting.device:
        return generate(model, tokens_BT.tolist(), n_new)


@torch.no_grad()
def other(theirs: TheirModel, setup: Setup, tokens_BT: Tensor, n_new: int) -> list[list[int]]:
    """What transformers says."""
    theirs.use(setup)
    seen_BT = torch.ones_like(tokens_BT)
    said_BT = theirs.model.generate(
        tokens_BT, attention_mask=seen_BT, max_new_tokens=n_new, do_sample=False, use_cache=True, pad_token_id=0
    )
    return said_BT[:, tokens_BT.shape[1] :].tolist()


@torch.no_grad()
def agreed(ours: Decoder, theirs: TheirModel, tokens_BT: Tensor, n_new: int, setting: Setting) -> tuple[str, ...]:
    """Hold transformers to our logits of the prompts, and in fp32 to every token that we say."""
    reference = sketch({"logits": ours(tokens_BT)})
    found = {}
    for setup in SETUPS:
        theirs.use(setup)
        found[named(setup)] = sketch({"logits": theirs.model(tokens_BT).logits})
    note = agree(reference, found, TOLERANCE[setting.dtype], "logits of the prompts")
    if setting.dtype != torch.float32:
        return (note,)
    said = own(ours, tokens_BT, n_new, setting)
    if wrong := [named(setup) for setup in SETUPS if other(theirs, setup, tokens_BT, n_new) != said]:
        raise SystemExit(f"{', '.join(wrong)} and we do not say the same tokens")
    return note, "all say the same tokens"


def main() -> None:
    """All shapes that were asked for."""
    setting, names = asked(__doc__, {scale: tuple(shapes) for scale, shapes in MODELS.items()})
    publish("decode", (it for name in names for it in measured(MODELS[setting.scale][name], name, setting)), setting)


if __name__ == "__main__":
    main()
