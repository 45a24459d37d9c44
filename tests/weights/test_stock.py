"""What transformers saved, however it was saved, is read for what it is and written back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from innovator.models.generate import generate
from innovator.weights.folder import Folder, save_folder
from tests.conftest import randomize

FACTS = {"max_position_embeddings": 77, "bos_token_id": 3, "eos_token_id": [5, 6], "pad_token_id": 9}
WAYS = (("float32", "8KB", False), ("bfloat16", "8KB", True), ("float16", "1GB", False), ("bfloat16", "1GB", False))
TOKENS_BT = torch.arange(60).view(2, 30)
OLD_BUFFERS = {
    "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
    "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
    "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(1),
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),
}


@pytest.fixture(params=WAYS, ids=str)
def saved(request: pytest.FixtureRequest, stock: Path, tmp_path: Path) -> Path:
    """A model of the same family in some type, one file or several, tied or not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype, shard_size, tied = request.param
    config = AutoConfig.from_pretrained(stock, tie_word_embeddings=tied, **FACTS)
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, seed=2)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "saved", max_shard_size=shard_size)
    assert (tmp_path / "saved" / "model.safetensors.index.json").is_file() == (shard_size == "8KB")
    return tmp_path / "saved"


def on_disk(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def copied(folder: Path, out: Path) -> Path:
    """The folder read and written by us."""
    there = Folder.open(folder)
    save_folder(out, there.config, there.tensors(), tokenizer=None, facts=there.facts)
    return out


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@torch.no_grad()
def test_logits_are_those_of_transformers(saved: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="sdpa")
    ours = Folder.open(saved).load(theirs.dtype)
    ours_BTV, theirs_BTV = ours(TOKENS_BT), theirs(TOKENS_BT).logits
    if theirs.config.hidden_act == "gelu_new":  # written out in transformers, so that it rounds at other places
        tolerance = 8 * torch.finfo(theirs.dtype).eps
        assert (ours_BTV - theirs_BTV).norm() <= tolerance * theirs_BTV.norm()
    else:
        assert same(ours_BTV, theirs_BTV)


def test_what_is_said_from_memory_is_what_transformers_says(saved: Path) -> None:
    """Greedily, each with its own cache, in the type of the folder."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="sdpa")
    theirs.generation_config.eos_token_id = None  # so that neither stops
    spoken_BT = theirs.generate(TOKENS_BT, attention_mask=torch.ones_like(TOKENS_BT), max_new_tokens=8, do_sample=False)
    ours = Folder.open(saved).load(theirs.dtype).eval()
    assert generate(ours, TOKENS_BT.tolist(), 8) == spoken_BT[:, TOKENS_BT.shape[1] :].tolist()


def test_names_and_bytes_come_back(saved: Path, tmp_path: Path) -> None:
    before, after = on_disk(saved), on_disk(copied(saved, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(same(tensor, after[name]) for name, tensor in before.items())


def test_what_the_config_says_comes_back(saved: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    again = copied(saved, tmp_path / "again")
    assert (Folder.open(again).config, Folder.open(again).facts) == (
        Folder.open(saved).config,
        Folder.open(saved).facts,
    )
    before, after = (AutoConfig.from_pretrained(path) for path in (saved, again))
    families_own = type(before)().to_dict().keys() - {"_name_or_path", "transformers_version"}
    assert {key: getattr(after, key) for key in families_own} == {key: getattr(before, key) for key in families_own}
    assert {key: getattr(after, key) for key in FACTS} == FACTS


def test_an_absent_field_means_what_it_means_to_transformers(stock: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    content = json.loads((stock / "config.json").read_text(encoding="utf-8"))
    shapes_say = {"head_dim", "num_key_value_heads"}  # a wrong guess does not fit the weights
    for gone in content.keys() - {"model_type", "vocab_size", "architectures"} - shapes_say:
        without = {key: value for key, value in content.items() if key != gone}
        there = tmp_path / gone
        there.mkdir()
        (there / "model.safetensors").symlink_to(stock / "model.safetensors")
        (there / "config.json").write_text(json.dumps(without), encoding="utf-8")
        try:
            ours = Folder.open(there).config
        except ValueError:
            continue  # asked for, not guessed
        (there / "config.json").write_text(AutoConfig.from_pretrained(there).to_json_string(use_diff=False))
        assert Folder.open(there).config == ours, gone


def test_buffers_of_old_checkpoints_are_passed_over(stock: Path, tmp_path: Path) -> None:
    tensors = load_file(stock / "model.safetensors")
    (tmp_path / "config.json").symlink_to(stock / "config.json")
    save_file(tensors | OLD_BUFFERS, tmp_path / "model.safetensors")
    assert on_disk(copied(tmp_path, tmp_path / "again")).keys() == tensors.keys()


def test_pickled_weights_beside_safetensors_are_never_opened(stock: Path, tmp_path: Path) -> None:
    for file in stock.iterdir():
        (tmp_path / file.name).symlink_to(file)  # as in transformers' cache
    (tmp_path / "pytorch_model.bin").write_bytes(b"unread")
    ours = dict(Folder.open(tmp_path).tensors())
    assert all(torch.equal(tensor, ours[name]) for name, tensor in Folder.open(stock).tensors())


@pytest.mark.parametrize("file", ["pytorch_model.bin", "../stray.safetensors", "/tmp/stray.safetensors", None])
def test_an_index_that_leads_elsewhere_is_refused(stock: Path, tmp_path: Path, file: str | None) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").symlink_to(stock / "config.json")
    (tmp_path / "stray.safetensors").symlink_to(stock / "model.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(stock / "model.safetensors"), file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=r"index.json: the weight_map names .*, which is no safetensors file of this"):
        Folder.open(folder)
