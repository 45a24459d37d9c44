"""Pico models on disk: real folders of a few thousand random numbers, ours and transformers' own, and a tokenizer."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico import World, build
from pico_recipe import Answer, Command

from innovator.data.sources import FilesSource
from innovator.data.tokenizer import TokenizerSpec, TrainTokenizer
from innovator.models.attention import AttentionConfig
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import GELUConfig, LayerNormConfig, SwiGLUConfig
from innovator.models.moe import MoEConfig, SigmoidRouter
from innovator.weights.folder import Folder, save_folder

PROVERBS = ("a cat sat on the mat, and the rat sat on the cat. " * 20, "3.14159 is not 22/7, said the rat. " * 20)
STOCK_SHAPE: dict[str, float] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 5_000.0,
    "rms_norm_eps": 1e-5,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
STOCK: dict[str, dict[str, object]] = {
    "llama": {"head_dim": 6, "tie_word_embeddings": False},
    "llama-3.1": {"head_dim": 8, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
    "llama-biased": {
        "attention_bias": True,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0},
    },
    "mistral": {"head_dim": 8, "tie_word_embeddings": False, "sliding_window": None},
    "mistral-0.1": {"tie_word_embeddings": False, "sliding_window": 5},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8, "tie_word_embeddings": True},
    "gpt_neox": {"tie_word_embeddings": False, "num_attention_heads": 2},
    "gpt_neox-sequential": {"use_parallel_residual": False, "hidden_act": "gelu_new", "rotary_pct": 1.0},
}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def innovator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process, on a terminal wide enough not to break lines."""

    from innovator import cli

    def command(*words: str | Path) -> Answer:
        monkeypatch.setenv("COLUMNS", "500")
        monkeypatch.setattr(sys, "argv", ["innovator", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return command


@pytest.fixture
def dense() -> DecoderConfig:
    """Two layers whose feed-forwards, 24 wide, divide into 2, 3, 4 or 6 parts."""
    return DecoderConfig(
        vocab_size=61,
        dim=16,
        n_layers=2,
        attention=AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=6),
        ffn=SwiGLUConfig(hidden=24),
    )


@pytest.fixture
def neox(dense: DecoderConfig) -> DecoderConfig:
    """Biases everywhere, half-rotated heads, a window, parallel residual, GELU: all that `dense` is not."""
    attention = AttentionConfig(n_heads=4, n_kv_heads=4, head_dim=4, qkv_bias=True, o_bias=True, rotary_dim=2, window=6)
    return replace(
        dense, attention=attention, ffn=GELUConfig(hidden=24), norm=LayerNormConfig(), residual="parallel", tied=True
    )


@pytest.fixture
def mixture(dense: DecoderConfig) -> DecoderConfig:
    """`dense` with six experts of three disciplines in its second layer, two of them per token."""
    ffn = MoEConfig(
        n_experts=6,
        n_disciplines=3,
        top_k=2,
        expert=SwiGLUConfig(hidden=12),
        shared=SwiGLUConfig(hidden=24),
        dense=SwiGLUConfig(hidden=24),
        router=SigmoidRouter(scale=2.5),
        dense_layers=(0,),
    )
    return replace(dense, ffn=ffn)


@pytest.fixture
def draw() -> Callable[[DecoderConfig, str], Decoder]:
    """A decoder whose every number is random; another name draws other numbers."""
    return draw_decoder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[DecoderConfig, str], Folder]:
    """A drawn decoder, written to a folder of that name."""

    def write_drawn(config: DecoderConfig, name: str) -> Folder:
        state = draw_decoder(config, name).state_dict()
        if config.tied:
            del state["unembed.weight"]
        save_folder(tmp_path / name, config, state.items(), tokenizer=None)
        return Folder.open(tmp_path / name)

    return write_drawn


@pytest.fixture(scope="session", params=STOCK)
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers saved: one of each family we read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(request.param.split("-")[0], **{**STOCK_SHAPE, **STOCK[request.param]})
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, seed=1)
    folder = tmp_path_factory.mktemp("stock") / request.param
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of 280 tokens, learned from two proverbs."""
    folder = tmp_path_factory.mktemp("tokenizer")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in PROVERBS)
    (folder / "proverbs.jsonl").write_text(lines, encoding="utf-8")
    learned = folder / "learned"
    learned.mkdir()
    TokenizerSpec(
        tokenizer=TrainTokenizer(vocab_size=280, corpora=("proverbs",)),
        sources=(FilesSource(path=str(folder / "proverbs.jsonl")),),
        fingerprints=("",),
    ).run(learned, {})
    return learned


def draw_decoder(config: DecoderConfig, name: str) -> Decoder:
    model = Decoder(config)
    randomize(model, seed=zlib.crc32(name.encode()))
    return model.eval()


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Large enough numbers for every part of the model to matter, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        tensor.normal_(std=0.3, generator=generator)
        if name.endswith("norm.weight"):
            tensor += 1
