"""Decoders that think are folders of our own, and any folder can begin to think without losing what it knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from ways import GROWING, NONE_YET, WAYS

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.layers import Layout
from innovator.models.loops import PauseConfig
from innovator.models.thinking import Moment
from innovator.models.ways import ThinkingConfig
from innovator.stages import ThinkSpec
from innovator.weights.folder import Folder

Draw = Callable[[DecoderConfig, str], Decoder]
Write = Callable[[DecoderConfig, str], Folder]
KINDS = ("dense", "neox", "mixture")
TOKENS_BT = torch.arange(60).view(2, 30)
START, SEED = Moment(done=0.0, seed=3), 5
SLOTTED = ("ponderlm-2", "ponderlm-3")


@pytest.fixture(params=KINDS)
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.getfixturevalue(request.param)


def begun(folder: Path, spec: ThinkSpec, out: Path) -> Folder:
    """What a model in the folder of a step becomes."""
    spec.run(out, {"init": folder})
    return Folder.open(out / "weights")


def step(folder: Path, at: Path) -> Path:
    """A step whose weights are this folder."""
    at.mkdir()
    (at / "weights").symlink_to(folder)
    return at


def model_type(folder: Folder) -> str:
    return json.loads((folder.path / "config.json").read_text(encoding="utf-8"))["model_type"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_loads_the_thinking_that_was_saved(config: DecoderConfig, draw: Draw, write: Write, way: str) -> None:
    thinks = replace(config, thinking=WAYS[way])
    folder = write(thinks, "model")
    assert (folder.config, model_type(folder)) == (thinks, "innovator")
    assert same(folder.load().state_dict(), draw(thinks, "model").state_dict())
    own = {name for name in folder.shapes if name.startswith("thinking.")}
    assert own <= folder.files.keys() and len(own) == len(draw(thinks, "model").thinking.state_dict())


@pytest.mark.parametrize("change", [{"embed_scale": 4.0}, {"depth": 1}], ids=str)
def test_what_no_family_can_say_is_said_in_our_own(
    config: DecoderConfig, write: Write, change: dict[str, float]
) -> None:
    depth = DepthAttention(stride=1) if "depth" in change else None
    other = replace(
        config, attention=replace(config.attention, depth=depth), embed_scale=change.get("embed_scale", 1.0)
    )
    folder = write(other, "model")
    assert other != config
    assert (folder.config, model_type(folder)) == (other, "innovator")


@pytest.mark.parametrize("way", WAYS)
def test_to_begin_to_think_changes_no_weight_but_thinking_s_own(
    config: DecoderConfig, write: Write, tmp_path: Path, way: str
) -> None:
    before = write(config, "model")
    after = begun(step(before.path, tmp_path / "init"), ThinkSpec(thinking=WAYS[way], seed=SEED), tmp_path / "out")
    assert after.config == replace(config, thinking=WAYS[way])
    kept = {name: tensor for name, tensor in after.tensors() if not name.startswith("thinking.")}
    assert same(kept, dict(before.tensors()))


@pytest.mark.parametrize("way", WAYS)
def test_thinking_s_own_weights_depend_on_the_seed_alone(
    dense: DecoderConfig, write: Write, tmp_path: Path, way: str
) -> None:
    init = step(write(dense, "model").path, tmp_path / "init")
    made = []
    for number in (1, 2):
        torch.manual_seed(number)
        made.append(dict(begun(init, ThinkSpec(thinking=WAYS[way], seed=SEED), tmp_path / str(number)).tensors()))
    assert same(*made)


def test_other_thinking_takes_the_place_of_what_there_was(dense: DecoderConfig, write: Write, tmp_path: Path) -> None:
    init = step(write(replace(dense, thinking=PauseConfig(n_pauses=2)), "model").path, tmp_path / "init")
    other = begun(init, ThinkSpec(thinking=LatentCoTConfig()), tmp_path / "other")
    assert not [name for name in other.files if "embedding" in name]
    kept = begun(init, ThinkSpec(depth=DepthAttention(stride=1)), tmp_path / "kept")
    assert kept.config.thinking == PauseConfig(n_pauses=2) and kept.config.attention.depth == DepthAttention(stride=1)
    assert same(dict(kept.tensors()), dict(Folder.open(init / "weights").tensors()))


@torch.no_grad()
@pytest.mark.parametrize("way", GROWING)
def test_a_model_that_begins_to_think_is_the_one_it_was(
    config: DecoderConfig, write: Write, tmp_path: Path, way: str
) -> None:
    """At the start of a training; the closed router of `latent-cot-closed` stays shut at any time.

    Bit for bit but for PonderLM-2 and -3, in which attention adds up zeros for the thoughts that nobody sees yet.
    """
    before = write(config, "model")
    after = begun(step(before.path, tmp_path / "init"), ThinkSpec(thinking=GROWING[way]), tmp_path / "out")
    layout = Layout.of(TOKENS_BT)
    was_BTD = before.load().eval().read(TOKENS_BT, layout).h_BTD
    thinker = after.load().eval()
    is_BTD = thinker.read(TOKENS_BT, layout, None, START).h_BTD
    assert torch.allclose(is_BTD, was_BTD, rtol=0, atol=1e-5 if way in SLOTTED else 0.0)
    later_BTD = thinker.read(TOKENS_BT, layout).h_BTD
    assert torch.allclose(later_BTD, was_BTD, atol=1e-3) == (way == "latent-cot-closed")


@torch.no_grad()
def test_a_checkpoint_of_others_that_takes_no_step_yet_has_the_logits_of_transformers(
    stock: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(stock, attn_implementation="sdpa")
    theirs_BTV = theirs(TOKENS_BT).logits
    for name, thinking in NONE_YET.items():
        folder = begun(step(stock, tmp_path / f"init-{name}"), ThinkSpec(thinking=thinking), tmp_path / name)
        assert folder.config.thinking == thinking
        ours_BTV = folder.load()(TOKENS_BT)
        if theirs.config.hidden_act == "gelu_new":  # written out in transformers, so that it rounds at other places
            assert torch.allclose(ours_BTV, theirs_BTV, atol=1e-5)
        else:
            assert torch.equal(ours_BTV, theirs_BTV), name


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_thinking_in_bfloat16_is_near_thinking_in_fp32(mixture: DecoderConfig, write: Write, way: str) -> None:
    """In half of the tokens, for a rounded gate or score may send a token another way; 8 bits through a few passes."""
    thinking: ThinkingConfig = WAYS[way]
    folder = write(replace(mixture, thinking=thinking), "model")
    exact_BTV, coarse_BTV = (folder.load(dtype).eval()(TOKENS_BT).float() for dtype in (torch.float32, torch.bfloat16))
    error_BT = (exact_BTV - coarse_BTV).abs().amax(dim=-1) / exact_BTV.abs().max()
    assert error_BT.median() < 0.1
