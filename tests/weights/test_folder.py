"""A folder is read as it stands, written whole or not at all, and refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.weights import shards as shards_module
from innovator.weights.folder import Folder, save_folder

Draw = Callable[[DecoderConfig, str], Decoder]
Write = Callable[[DecoderConfig, str], Folder]


def state(draw: Draw, config: DecoderConfig) -> dict[str, Tensor]:
    return draw(config, "model").state_dict()


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_loads_the_decoder_that_was_saved(dense: DecoderConfig, draw: Draw, write: Write, tied: bool) -> None:
    config = replace(dense, tied=tied)
    model = write(config, "model").load()
    assert (model.unembed.weight is model.embed.weight) == tied
    for name, tensor in state(draw, config).items():
        assert torch.equal(model.state_dict()[name], tensor)


@torch.no_grad()
def test_transformers_reads_what_we_wrote(stock: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = Folder.open(stock)
    save_folder(tmp_path / "ours", folder.config, folder.tensors(), tokenizer=None)
    tokens_BT = torch.arange(40)[None]
    one, other = (AutoModelForCausalLM.from_pretrained(path)(tokens_BT).logits for path in (stock, tmp_path / "ours"))
    assert torch.equal(one, other)


def test_routers_stay_exact_in_a_bfloat16_model(mixture: DecoderConfig, draw: Draw, write: Write) -> None:
    model = write(mixture, "model").load(torch.bfloat16)
    assert model.embed.weight.dtype == torch.bfloat16
    (router,) = (layer.router for layer in model.mixtures())
    (saved,) = (layer.router for layer in draw(mixture, "model").mixtures())
    assert torch.equal(router.weight, saved.weight) and torch.equal(router.selection_bias, saved.selection_bias)
    assert router.load.tolist() == [0.0] * 6


def test_a_tokenizer_travels_with_the_weights(
    dense: DecoderConfig, draw: Draw, tokenizer_folder: Path, tmp_path: Path
) -> None:
    save_folder(tmp_path / "model", dense, state(draw, dense).items(), tokenizer=tokenizer_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (tokenizer_folder / name).read_bytes()


def test_a_half_written_folder_never_appears(dense: DecoderConfig, draw: Draw, write: Write, tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[str, Tensor]]:
        yield from list(state(draw, dense).items())[:4]
        raise InterruptedError

    with pytest.raises(InterruptedError):
        save_folder(tmp_path / "fresh", dense, interrupted(), tokenizer=None)
    assert not (tmp_path / "fresh").exists()

    kept = write(dense, "kept")
    with pytest.raises(InterruptedError):
        save_folder(kept.path, dense, interrupted(), tokenizer=None)
    assert torch.equal(Folder.open(kept.path).tensor("norm.weight"), kept.tensor("norm.weight"))

    save_folder(tmp_path / "fresh", dense, state(draw, dense).items(), tokenizer=None)  # what was left is no obstacle
    assert torch.equal(Folder.open(tmp_path / "fresh").tensor("norm.weight"), state(draw, dense)["norm.weight"])
    assert not (tmp_path / "fresh.partial").exists()


def test_a_folder_without_a_config_is_refused(dense: DecoderConfig, write: Write) -> None:
    folder = write(dense, "model").path
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"model: no config.json; is this a Hugging Face model folder\?"):
        Folder.open(folder)


def test_a_config_that_is_no_json_is_refused(dense: DecoderConfig, write: Write) -> None:
    folder = write(dense, "model").path
    (folder / "config.json").write_text('{"model_type": ', encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.json: not readable as JSON"):
        Folder.open(folder)


def test_a_folder_without_weights_is_refused(dense: DecoderConfig, write: Write) -> None:
    folder = write(dense, "model").path
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model.safetensors and no model.safetensors.index.json"):
        Folder.open(folder)


def test_pickled_weights_are_refused_with_the_way_out(dense: DecoderConfig, write: Write) -> None:
    folder = write(dense, "model").path
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pickled weights; convert them .*safe_serialization=True"):
        Folder.open(folder)


def test_what_the_sentence_on_pickled_weights_says_helps(stock: Path, tmp_path: Path) -> None:
    import transformers

    torch.save(load_file(stock / "model.safetensors"), tmp_path / "pytorch_model.bin")
    shutil.copyfile(stock / "config.json", tmp_path / "config.json")
    with pytest.raises(ValueError) as refusal:
        Folder.open(tmp_path)
    told = str(refusal.value).split("convert them with transformers: ")[1]
    eval(told, {"AutoModelForCausalLM": transformers.AutoModelForCausalLM, "folder": str(tmp_path)})
    ours = dict(Folder.open(tmp_path).tensors())
    assert all(torch.equal(tensor, ours[name]) for name, tensor in Folder.open(stock).tensors())


def test_truncated_weights_are_refused(dense: DecoderConfig, write: Write) -> None:
    file = write(dense, "model").path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors: not a readable safetensors file"):
        Folder.open(file.parent)


def test_a_missing_shard_is_refused(
    dense: DecoderConfig, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 4_000)
    save_folder(tmp_path / "sharded", dense, state(draw, dense).items(), tokenizer=None)
    sorted((tmp_path / "sharded").glob("*.safetensors"))[0].unlink()
    with pytest.raises(ValueError, match=r"model-00001-of-\d{5}.safetensors: not a readable safetensors file"):
        Folder.open(tmp_path / "sharded").load()


def test_a_missing_tensor_is_named(dense: DecoderConfig, write: Write) -> None:
    file = write(dense, "model").path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"the weights lack model.layers.1.mlp.up_proj.weight"):
        Folder.open(file.parent).load()


def test_a_tensor_of_the_wrong_shape_is_named(dense: DecoderConfig, write: Write) -> None:
    folder = write(dense, "model").path
    edit_config(folder, intermediate_size=25)
    with pytest.raises(ValueError, match=r"ffn.gate_proj.weight is \[24, 16\], config.json asks for \[25, 16\]"):
        Folder.open(folder).load()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is none of llama, mistral, qwen2, qwen3, gpt_neox, innovator"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor should be a number, not None"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn' is not supported"),
        ({"quantization_config": {"quant_method": "fp8"}}, "the weights are quantized"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"attention_bias": "yes"}, "attention_bias should be true or false, not 'yes'"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        ({"hidden_size": "16"}, "hidden_size should be a whole number, not '16'"),
        ({"num_key_value_heads": 3}, "n_heads=4 is not a multiple of n_kv_heads=3"),
    ],
)
def test_a_model_we_do_not_take_is_refused(
    dense: DecoderConfig, write: Write, change: dict[str, object], sentence: str
) -> None:
    folder = write(dense, "model").path
    edit_config(folder, **change)
    with pytest.raises(ValueError, match=sentence):
        Folder.open(folder)


def test_a_piece_of_the_wrong_shape_is_named(mixture: DecoderConfig, write: Write) -> None:
    file = write(mixture, "model").path / "model.safetensors"
    name = "model.layers.1.mlp.experts.4.down_proj.weight"
    save_file(load_file(file) | {name: torch.zeros(16, 11)}, file)
    with pytest.raises(ValueError, match=r"experts.4.down_proj.weight is \[16, 11\], config.json asks for \[16, 12\]"):
        Folder.open(file.parent).load()


@pytest.mark.parametrize(
    ("attention", "family"),
    [
        ({}, "llama"),
        ({"qkv_bias": True, "o_bias": True}, "llama"),
        ({"window": 5}, "mistral"),
        ({"qkv_bias": True, "head_dim": 4}, "qwen2"),
        ({"qk_norm": True}, "qwen3"),
        ({"qkv_bias": True}, "innovator"),  # qwen2 has no heads of another width than dim / n_heads
        ({"window": 5, "qkv_bias": True, "o_bias": True}, "innovator"),  # mistral has no biases
        ({"window": 5, "qk_norm": True}, "innovator"),
        ({"rotary_dim": 4}, "innovator"),
    ],
)
def test_a_dense_model_is_written_as_the_family_that_can_say_all_of_it(
    dense: DecoderConfig, write: Write, attention: dict[str, int], family: str
) -> None:
    config = replace(dense, attention=replace(dense.attention, **attention))
    folder = write(config, "model")
    assert folder.config == config
    assert json.loads((folder.path / "config.json").read_text(encoding="utf-8"))["model_type"] == family


def test_a_damaged_mixture_config_is_refused(mixture: DecoderConfig, write: Write) -> None:
    folder = write(mixture, "model").path
    edit_config(folder, decoder={"dim": 16})
    with pytest.raises(ValueError, match=r"config.json: the field decoder is damaged"):
        Folder.open(folder)
