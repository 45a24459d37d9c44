"""What is spoken does not depend on company or memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.generate import generate
from innovator.weights.folder import Folder

PROMPTS = ((7, 3, 3, 50, 9, 22), (4,), (12, 60, 1))
N_NEW = 8


@pytest.fixture(params=["dense", "neox", "mixture"])
def model(request: pytest.FixtureRequest, draw: Callable[[DecoderConfig, str], Decoder]) -> Decoder:
    return draw(request.getfixturevalue(request.param), "speaker")


@torch.no_grad()
def reread(model: Decoder, prompt: tuple[int, ...]) -> list[int]:
    """Greedy continuation that reads everything anew for every token."""
    tokens = list(prompt)
    for _ in range(N_NEW):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_remembering_equals_reading_anew(model: Decoder) -> None:
    for prompt in PROMPTS:
        assert generate(model, [prompt], N_NEW) == [reread(model, prompt)]


@torch.no_grad()
def test_greedy_continuations_are_those_of_transformers(stock: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(stock)
    longest = max(map(len, PROMPTS))
    left = [longest - len(prompt) for prompt in PROMPTS]
    tokens_BT = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(left, PROMPTS, strict=True)])
    is_text_BT = torch.arange(longest) >= torch.tensor(left)[:, None]
    spoken_BT = theirs.generate(
        tokens_BT,
        attention_mask=is_text_BT.long(),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generate(Folder.open(stock).load(), PROMPTS, 16) == spoken_BT[:, longest:].tolist()


def test_prompts_of_different_lengths_do_not_touch_each_other(model: Decoder) -> None:
    assert generate(model, PROMPTS, N_NEW) == [reread(model, prompt) for prompt in PROMPTS]


def test_a_continuation_ends_before_its_stop(model: Decoder) -> None:
    free = generate(model, PROMPTS, N_NEW)
    stop = free[0][3]
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert generate(model, PROMPTS, N_NEW, stop=stop) == expected
    assert generate(model, PROMPTS[:1], N_NEW, stop=stop) == expected[:1]


def test_the_seed_settles_what_is_drawn(model: Decoder) -> None:
    one, same, other = (generate(model, PROMPTS, N_NEW, temperature=2.0, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_a_low_temperature_is_greedy(model: Decoder) -> None:
    assert generate(model, PROMPTS, N_NEW, temperature=1e-4) == generate(model, PROMPTS, N_NEW)


def test_nothing_new_is_nothing(model: Decoder) -> None:
    assert generate(model, PROMPTS, 0) == [[], [], []]


def test_an_empty_prompt_is_refused(model: Decoder) -> None:
    with pytest.raises(ValueError, match="a prompt is empty"):
        generate(model, [(1, 2), ()], N_NEW)
