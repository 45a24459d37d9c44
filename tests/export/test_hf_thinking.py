"""transformers says, scores and learns what our decoder does when it thinks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hf_models import neox, write_own
from torch import Tensor
from transformers import DynamicCache
from ways import SETTLED, WAYS

from innovator.export.export import export
from innovator.export.targets import Own
from innovator.models.decoder import IGNORE, Decoder, DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.generate import generate
from innovator.models.hf import InnovatorConfig, InnovatorForCausalLM
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.layers import Layout
from innovator.weights.folder import Folder, save_folder

Draw = Callable[[DecoderConfig, str], Decoder]
PROMPTS = [[5, 17, 3, 44, 9, 28, 31], [12, 7, 50], [33, 2, 19, 60, 8]]
N_NEW = 6
ROUNDING = 1e-5  # of fp32, where sums have another order
DEPTH = DepthAttention(stride=1)
SPEAK = """
import json, sys
sys.modules["innovator"] = None
import torch
from transformers import AutoModelForCausalLM
said = {}
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    batch = {name: torch.tensor(rows) for name, rows in json.loads(sys.argv[1]).items()}
    said[folder] = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, -6:].tolist()
print(json.dumps(said))
"""


@pytest.fixture(params=["dense", "mixture"])
def base(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=WAYS)
def decoder(request: pytest.FixtureRequest, base: DecoderConfig, draw: Draw) -> Decoder:
    return draw(replace(base, thinking=WAYS[request.param], embed_scale=2.0), request.param)


@pytest.fixture
def model(decoder: Decoder, tmp_path: Path) -> InnovatorForCausalLM:
    """The same decoder, as transformers loads it."""
    return load(write_own(decoder, tmp_path / "own"))


@pytest.fixture(params=SETTLED)
def settled(request: pytest.FixtureRequest, mixture: DecoderConfig, draw: Draw, tmp_path: Path) -> InnovatorForCausalLM:
    """Of each way of thinking a model for which it does not matter in which pieces a text is read."""
    return load(write_own(draw(replace(mixture, thinking=SETTLED[request.param]), "settled"), tmp_path / "settled"))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> InnovatorForCausalLM:
    return InnovatorForCausalLM.from_pretrained(folder, dtype=dtype)


def tokens(n_rows: int, n_slots: int) -> Tensor:
    return torch.randint(61, (n_rows, n_slots), generator=torch.Generator().manual_seed(n_slots))


def left_padded() -> dict[str, Tensor]:
    """The prompts flush right, padded with a token that also stands in the texts."""
    longest = max(map(len, PROMPTS))
    rows = [[17] * (longest - len(prompt)) + prompt for prompt in PROMPTS]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def new_tokens(model: InnovatorForCausalLM, **options: object) -> list[list[int]]:
    settings = {"do_sample": False, "max_new_tokens": N_NEW, **options}
    return model.generate(**left_padded(), **settings)[:, -N_NEW:].tolist()


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=ROUNDING * float(other.detach().abs().max().clamp(min=1.0)))


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@torch.no_grad()
def test_logits_are_the_decoders(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(3, 11)
    assert close(model(tokens_BT, use_cache=False).logits, decoder(tokens_BT))
    assert close(model(inputs_embeds=decoder.embed(tokens_BT), use_cache=False).logits, decoder(tokens_BT))


def test_greedy_continuations_of_a_padded_batch_are_our_own(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    assert new_tokens(model) == generate(decoder, PROMPTS, N_NEW)


def test_it_does_not_matter_in_which_pieces_a_prompt_is_read(settled: InnovatorForCausalLM) -> None:
    assert new_tokens(settled) == new_tokens(settled, prefill_chunk_size=3) == new_tokens(settled, use_cache=False)


@torch.no_grad()
def test_beams_carry_the_scores_of_what_they_say(settled: InnovatorForCausalLM) -> None:
    inputs = left_padded()
    asked = {"num_beams": 3, "do_sample": False, "length_penalty": 0.0, "max_new_tokens": N_NEW}
    spoken = settled.generate(**inputs, **asked, output_scores=True, return_dict_in_generate=True)
    mask_BT = F.pad(inputs["attention_mask"], (0, N_NEW), value=1)
    read = settled(spoken.sequences, attention_mask=mask_BT, use_cache=False)
    log_p_BTV = read.logits.log_softmax(-1)[:, -N_NEW - 1 : -1]
    score_B = log_p_BTV.gather(-1, spoken.sequences[:, -N_NEW:, None]).sum((1, 2))
    # Where slots are pruned when they are spoken, by what they weighed, 1e-4 each; else the same sums.
    assert torch.allclose(spoken.sequences_scores, score_B, atol=1e-3)


@torch.no_grad()
def test_what_was_only_guessed_is_forgotten_again(settled: InnovatorForCausalLM) -> None:
    prompt = PROMPTS[0] * 2
    spoken_BT = settled.generate(
        torch.tensor([prompt]), max_new_tokens=N_NEW, do_sample=False, prompt_lookup_num_tokens=3
    )
    assert spoken_BT[:, len(prompt) :].tolist() == generate(settled.decoder, [prompt], N_NEW)


@torch.no_grad()
def test_a_cache_counts_tokens_and_may_be_cut_and_dealt_out(settled: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 9)
    cache = DynamicCache()
    settled(tokens_BT, past_key_values=cache)
    assert cache.get_seq_length() == 9
    cache.crop(-4)
    assert cache.get_seq_length() == 5
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    read = [settled(tokens_BT.flip(0)[:, t : t + 1], past_key_values=cache).logits for t in range(5, 9)]
    whole = settled(tokens_BT.flip(0), use_cache=False).logits[:, 5:]
    assert torch.allclose(torch.cat(read, 1), whole, atol=1e-3)  # what was pruned weighed less than 1e-4
    cache.reset()
    assert cache.get_seq_length() == 0


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(settled: InnovatorForCausalLM) -> None:
    tokens_1T, position_1T = tokens(1, 9), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    cache = DynamicCache()
    first = settled(tokens_1T[:, :6], position_ids=position_1T[:, :6], past_key_values=cache).logits
    last = [settled(tokens_1T[:, t : t + 1], past_key_values=cache).logits for t in range(6, 9)]
    alone = [settled(part_1T, use_cache=False).logits for part_1T in (tokens_1T[:, :4], tokens_1T[:, 4:])]
    assert torch.allclose(torch.cat([first, *last], 1), torch.cat(alone, 1), atol=1e-3)  # as above


def test_the_loss_is_cross_entropy_alone_and_reaches_every_weight(
    decoder: Decoder, model: InnovatorForCausalLM
) -> None:
    tokens_BT = tokens(2, 9)
    target_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORE)
    loss = decoder.loss(tokens_BT, target_BT, Layout.of(tokens_BT)) / 16
    read = model.train()(tokens_BT, labels=tokens_BT)
    assert read.past_key_values is None
    assert read.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    read.loss.backward()
    assert gradients(model.decoder).keys() == gradients(decoder).keys()
    assert all(close(gradients(model.decoder)[name], grad) for name, grad in gradients(decoder).items())


def test_replayed_blocks_give_the_same_gradients(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 9)
    model.train()(tokens_BT, labels=tokens_BT).loss.backward()
    kept = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    calls: list[object] = []
    model.decoder.layers[0].ffn.register_forward_pre_hook(lambda *call: calls.append(call))
    loss = model(tokens_BT, labels=tokens_BT).loss
    n_passes = len(calls)
    loss.backward()
    assert len(calls) == 2 * n_passes
    assert all(close(grad, kept[name]) for name, grad in gradients(model).items())


@torch.no_grad()
def test_a_device_map_leaves_it_whole(mixture: DecoderConfig, draw: Draw, tmp_path: Path) -> None:
    decoder = draw(replace(mixture, thinking=WAYS["pause"]), "pause")
    room = {"cpu": sum(parameter.nbytes for parameter in decoder.parameters()) * 9 // 10}
    folder = write_own(decoder, tmp_path / "own")
    model = InnovatorForCausalLM.from_pretrained(folder, device_map="auto", max_memory=room, offload_folder=tmp_path)
    assert model.hf_device_map == {"decoder": "disk"}
    assert close(model(tokens(2, 9)).logits, decoder(tokens(2, 9)))


def test_what_is_saved_is_what_was_loaded(model: InnovatorForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.decoder.config == model.decoder.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_half_precision_is_the_folders(decoder: Decoder, tmp_path: Path) -> None:
    save_folder(tmp_path / "ours", decoder.config, decoder.state_dict().items(), tokenizer=None)
    ours = Folder.open(tmp_path / "ours").load(torch.bfloat16).eval()
    model = load(write_own(decoder, tmp_path / "own"), torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in model.decoder.state_dict().items()} == {
        name: tensor.dtype for name, tensor in ours.state_dict().items()
    }
    assert torch.equal(model(tokens(2, 9), use_cache=False).logits, ours(tokens(2, 9)))


def test_who_knows_nothing_of_us_hears_the_same(
    dense: DecoderConfig, mixture: DecoderConfig, draw: Draw, tmp_path: Path
) -> None:
    """All ways at once, in an isolated process without a network, for imports take longer than the work."""
    batch = {name: rows.tolist() for name, rows in left_padded().items()}
    attention = replace(mixture.attention, depth=DEPTH)
    configs = {name: replace(mixture, attention=attention, thinking=way) for name, way in WAYS.items()}
    configs["neox"] = replace(neox(dense, mixture), thinking=WAYS["adaponderlm"])
    models = {
        str(write_own(draw(config, name), tmp_path / name)): draw(config, name) for name, config in configs.items()
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", SPEAK, json.dumps(batch), *models],
        env={**kept, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {folder: generate(decoder, PROMPTS, N_NEW) for folder, decoder in models.items()}


def test_an_export_is_read_again_thinking(mixture: DecoderConfig, draw: Draw, tmp_path: Path) -> None:
    thinks = replace(mixture, attention=replace(mixture.attention, depth=DEPTH), thinking=WAYS["latent-cot"])
    save_folder(tmp_path / "model", thinks, draw(thinks, "model").state_dict().items(), tokenizer=None)
    exported = export(Folder.open(tmp_path / "model"), tmp_path / "out", Own(), "f32", check=True)
    assert exported.checked is not None and exported.checked.passed
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf8")
    assert "Thinking: latent-cot, each token passing all layers up to 3 times" in card


@pytest.mark.parametrize("way", WAYS)
def test_fresh_weights_begin_as_the_way_of_thinking_says(dense: DecoderConfig, draw: Draw, way: str) -> None:
    """Of what is set the values, of what is drawn the spread."""
    config = replace(dense, thinking=WAYS[way])
    drawn = draw(config, way)
    drawn.thinking.reset(torch.Generator().manual_seed(1))
    fresh = InnovatorForCausalLM(InnovatorConfig(decoder=config_json(config)))
    expected = drawn.thinking.state_dict()
    for name, tensor in fresh.decoder.thinking.state_dict().items():
        assert float(tensor.mean()) == pytest.approx(float(expected[name].mean()), abs=0.02)
        assert float(tensor.std(correction=0)) == pytest.approx(float(expected[name].std(correction=0)), rel=0.5)


def test_plain_weights_that_begin_to_think_begin_as_new_ones(dense: DecoderConfig, draw: Draw, tmp_path: Path) -> None:
    folder = write_own(draw(dense, "plain"), tmp_path / "own")
    thinks = replace(dense, thinking=LatentCoTConfig(n_steps=2, bias_start=-4.0))
    config = InnovatorConfig(decoder=config_json(thinks))
    model, report = InnovatorForCausalLM.from_pretrained(folder, config=config, output_loading_info=True)
    assert report["missing_keys"] == {"decoder.thinking.router.weight", "decoder.thinking.router.bias"}
    assert model.decoder.thinking.router.bias.tolist() == [-4.0, -4.0]
    assert close(model(tokens(2, 9)).logits, draw(dense, "plain")(tokens(2, 9)))


def config_json(config: DecoderConfig) -> dict[str, object]:
    """The field `decoder` of a `config.json`."""
    return json.loads(json.dumps(asdict(config)))
