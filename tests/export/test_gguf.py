"""llama.cpp computes from a GGUF file what the model computes, or we say in words why it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_models import (
    ATTENTIONS,
    GLM_SHAPES,
    GRANITES,
    MIXED,
    N_TOKENS,
    PICO,
    PLAIN,
    ROUTERS,
    SHORT_LLAMA3,
    SOFTMAX,
    Made,
)
from numpy.typing import NDArray

from innovator import export
from innovator.export.gguf import ARCHITECTURES, write_gguf
from innovator.export.subject import Subject
from innovator.models.attention import AttentionConfig
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.generate import generate
from innovator.models.layers import GELUConfig, LayerNormConfig, SwiGLUConfig
from innovator.models.moe import SigmoidRouter, SoftmaxRouter
from innovator.weights.folder import Folder, save_folder

Logits = Callable[[Path, Sequence[Sequence[int]]], NDArray[np.float32]]


@pytest.fixture
def make(tmp_path: Path, draw: Callable[[DecoderConfig, str], Decoder], tokenizer_folder: Path) -> Made:
    return Made(tmp_path, draw, tokenizer_folder)


@pytest.fixture
def logits() -> Logits:
    """What llama.cpp computes from a file."""
    pytest.importorskip("llama_cpp")
    from innovator.export import reread_gguf

    return reread_gguf.logits


def read_alike(model: Decoder, rows: list[list[int]], theirs_BTV: NDArray[np.float32], tolerance: float) -> None:
    """As far as the order of sums allows: in fp32, 3e-6 of the largest logit is seen."""
    with torch.no_grad():
        ours_BTV = model(torch.tensor(rows)).numpy()
    assert np.abs(theirs_BTV - ours_BTV).max() <= tolerance * np.abs(ours_BTV).max()


def some_rows(n_rows: int = 2, n_slots: int = 24) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    rows: list[list[int]] = torch.randint(0, N_TOKENS, (n_rows, n_slots), generator=generator).tolist()
    return rows


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_glm4moe_gives_the_same_logits(
    make: Made, logits: Logits, tmp_path: Path, router: SigmoidRouter | SoftmaxRouter, attention: AttentionConfig
) -> None:
    config = replace(PICO, attention=attention, ffn=replace(MIXED, router=router))
    model, folder = make(config)
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")
    read_alike(model, some_rows(), logits(tmp_path / "model.gguf", some_rows()), 1e-5)


@pytest.mark.parametrize("config", GLM_SHAPES.values(), ids=GLM_SHAPES)
def test_glm4moe_takes_every_shape(make: Made, logits: Logits, tmp_path: Path, config: DecoderConfig) -> None:
    model, folder = make(config)
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")
    read_alike(model, some_rows(), logits(tmp_path / "model.gguf", some_rows()), 1e-5)


@pytest.mark.parametrize("config", GRANITES.values(), ids=GRANITES)
def test_granitemoe_gives_the_same_logits(make: Made, logits: Logits, tmp_path: Path, config: DecoderConfig) -> None:
    model, folder = make(config, biased=False)
    write_gguf(folder, tmp_path / "model.gguf", "granitemoe", "f32")
    read_alike(model, some_rows(), logits(tmp_path / "model.gguf", some_rows()), 1e-5)


@pytest.mark.parametrize(("stored", "tolerance"), [("f16", 0.01), ("bf16", 0.06), ("q8_0", 0.15)])
@pytest.mark.parametrize("architecture", ["glm4moe", "granitemoe"])
def test_shorter_types_stay_close(
    make: Made, logits: Logits, tmp_path: Path, architecture: str, stored: str, tolerance: float
) -> None:
    """llama.cpp rounds activations to the type of the matrix too; every expert is chosen, lest rounding choose."""
    wide = replace(MIXED, n_experts=4, n_disciplines=2, top_k=4, expert=SwiGLUConfig(hidden=32))
    config = replace(PICO, ffn=replace(wide, router=SoftmaxRouter(), shared=SwiGLUConfig(hidden=64)))
    model, folder = make(config, biased=False)
    write_gguf(folder, tmp_path / "model.gguf", architecture, stored)
    read_alike(model, some_rows(), logits(tmp_path / "model.gguf", some_rows()), tolerance)


def test_llama_cpp_says_the_same_words(make: Made, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    model, folder = make(PICO)
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")
    prompt = some_rows(1, 12)[0]
    fp32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, n_threads=1, verbose=False, **fp32)
    words = theirs.generate(prompt, temp=0.0)
    assert [next(words) for _ in range(20)] == generate(model, [prompt], 20)[0]


def test_a_fresh_process_reads_the_file(make: Made, logits: Logits, tmp_path: Path) -> None:
    _, folder = make(PICO)
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")
    (tmp_path / "tokens.json").write_text(json.dumps(some_rows()), encoding="utf-8")
    script = Path(export.__file__).with_name("reread_gguf.py")
    files = [str(tmp_path / name) for name in ("model.gguf", "tokens.json", "logits.npy")]
    subprocess.run([sys.executable, "-I", str(script), *files], check=True)
    assert np.array_equal(np.load(tmp_path / "logits.npy"), logits(tmp_path / "model.gguf", some_rows()))


NEITHER = {
    "llama.cpp's own converter takes dense models": replace(PICO, ffn=SwiGLUConfig(hidden=24)),
    "only SwiGLU": replace(PICO, ffn=replace(MIXED, shared=GELUConfig(hidden=24))),
    "only RMSNorm": replace(PICO, norm=LayerNormConfig()),
    "no parallel residual": replace(PICO, residual="parallel"),
    "not the last 5": replace(PICO, attention=replace(PLAIN, window=5)),
}
NO_GLM = {
    "no bias on the output": replace(PICO, attention=replace(PLAIN, o_bias=True)),
    "as Llama 3 does": replace(PICO, attention=replace(PLAIN, rope=SHORT_LLAMA3)),
    r"before all mixtures, not at \[1\]": replace(PICO, ffn=replace(MIXED, dense_layers=(1,))),
}
NO_GRANITE = {
    "normalised softmax only": PICO,
    "softmax only": replace(PICO, ffn=replace(MIXED, router=SoftmaxRouter(normalized=False))),
    "no norm on queries": replace(SOFTMAX, attention=replace(PLAIN, qk_norm=True)),
    "not 4 of a head's 8": replace(SOFTMAX, attention=replace(PLAIN, rotary_dim=4)),
    r"no dense layers, and \[0\] are": replace(SOFTMAX, ffn=replace(SOFTMAX.ffn, dense_layers=(0,))),
}
CASES = [
    *(("glm4moe", reason, config) for reason, config in (NEITHER | NO_GLM).items()),
    *(("granitemoe", reason, config) for reason, config in (NEITHER | NO_GRANITE).items()),
]


@pytest.mark.parametrize(("architecture", "reason", "config"), CASES)
def test_an_architecture_says_why_it_cannot_be_a_model(architecture: str, reason: str, config: DecoderConfig) -> None:
    said = ARCHITECTURES[architecture].why_not(config, selection_bias=False)
    assert said is not None and said.startswith(architecture) and re.search(reason, said)


def test_every_model_that_can_be_written_has_no_reason() -> None:
    glm = [*GLM_SHAPES.values(), *(replace(PICO, attention=attention) for attention in ATTENTIONS.values())]
    assert {ARCHITECTURES["glm4moe"].why_not(config, selection_bias=True) for config in glm} == {None}
    assert {ARCHITECTURES["granitemoe"].why_not(config, selection_bias=False) for config in GRANITES.values()} == {None}


def test_a_selection_bias_in_one_layer_rules_granitemoe_out(make: Made, tokenizer_folder: Path, tmp_path: Path) -> None:
    model, folder = make(SOFTMAX, biased=False)
    assert not Subject.of(folder).biased
    state = model.state_dict()
    state["layers.1.ffn.router.selection_bias"][4] = 0.5
    save_folder(folder.path, SOFTMAX, state.items(), tokenizer_folder)
    folder = Folder.open(folder.path)
    assert Subject.of(folder).biased
    with pytest.raises(ValueError, match="model: granitemoe has no selection bias"):
        write_gguf(folder, tmp_path / "model.gguf", "granitemoe", "f32")
