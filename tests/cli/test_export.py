"""The command line exports a finished run's model, and leaves nothing that looks finished when it does not."""

from __future__ import annotations

import fcntl
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pico_recipe import Command, Finished, sentence

from innovator.export import export as export_module
from innovator.export import targets as targets_module
from innovator.models.generate import generate
from innovator.weights.folder import Folder

RECIPES = Path(__file__).parents[2] / "recipes"
PROMPTS = [[5, 6, 7, 8, 9], [10, 11]]


@pytest.fixture
def weights(finished: Finished) -> Path:
    return finished.step("integrate") / "weights"


def test_the_stock_mixture_is_read_again_and_is_ours(innovator: Command, weights: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answer = innovator("export", weights, tmp_path / "out")
    assert answer.code == 0 and re.search("all of 96 random tokens (differ from|are) ours", answer.err)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.model_type == "glm4_moe" and tokenizer("a cat")["input_ids"]
    folder = Folder.open(weights)
    for prompt in PROMPTS:
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0, len(prompt) :]
        stop = tokenizer.eos_token_id
        assert model.config.eos_token_id == stop
        assert theirs.tolist()[:6] == generate(folder.load().eval(), [prompt], 6, stop=stop)[0][:6]


def test_the_card_says_how_near_it_is(innovator: Command, weights: Path, tmp_path: Path) -> None:
    innovator("export", weights, tmp_path / "out", "--dtype", "bf16")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf8")
    assert "glm4_moe" in card and "--disable-shared-experts-fusion" in card and "Pico" in card


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_every_target_can_be_asked_for(innovator: Command, weights: Path, tmp_path: Path, to: str) -> None:
    answer = innovator("export", weights, tmp_path / "out", "--to", to)
    assert answer.code == 0, answer.err
    assert (tmp_path / "out" / "README.md").is_file() and not (tmp_path / "out.partial").exists()


def test_a_dense_model_goes_as_its_family(innovator: Command, finished: Finished, tmp_path: Path) -> None:
    answer = innovator("export", finished.step("base") / "weights", tmp_path / "out")
    assert answer.code == 0 and "are ours, bit for bit" in answer.err
    assert json.loads((tmp_path / "out" / "config.json").read_text("utf8"))["model_type"] == "llama"


def test_a_plan_writes_nothing(innovator: Command, finished: Finished, weights: Path, tmp_path: Path) -> None:
    for model in (weights, finished.recipe):
        answer = innovator("export", model, "--plan")
        assert answer.code == 0 and "glm4_moe" in answer.err and "its router is not a softmax" in answer.err
    assert not list(tmp_path.iterdir())


def test_a_contest_has_no_one_model_to_plan_for(innovator: Command) -> None:
    said = sentence(innovator("export", RECIPES / "ponder.yaml", "--plan"))
    assert said.endswith("ponder.yaml: a contest makes many models: give the folder of one, a step's weights")


def test_a_recipe_s_plan_says_where_its_mixture_can_go(innovator: Command, finished: Finished) -> None:
    said = innovator("plan", finished.recipe, "--tflops", "1").err
    assert "can be exported as glm4_moe for transformers, glm4_moe for vllm, glm4_moe for sglang" in said
    warned = innovator("plan", finished.recipe, "--tflops", "1", "base.decoder.attention.qk_norm=true",
                       "split.router={kind: softmax}").err  # fmt: skip
    assert "warning: no stock architecture of transformers can be this mixture" in warned


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--to", "qwen2_moe"), r"qwen2_moe cannot be .*: its router is not a softmax"),
        (("--to", "dense"), r"dense cannot be .*: it is a mixture"),
        (("--dtype", "q8_0"), r"glm4_moe stores f32, f16, bf16, not q8_0"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    innovator: Command, weights: Path, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    assert re.search(reason, sentence(innovator("export", weights, tmp_path / "out", *words)))
    assert not list(tmp_path.iterdir())


def test_a_dense_model_is_told_why_it_is_no_gguf(innovator: Command, finished: Finished, tmp_path: Path) -> None:
    answer = innovator("export", finished.step("base") / "weights", tmp_path / "out", "--to", "gguf")
    assert "llama.cpp's own converter takes dense models" in sentence(answer)


def test_a_runtime_that_cannot_load_the_target_is_refused(innovator: Command, weights: Path, tmp_path: Path) -> None:
    said = sentence(innovator("export", weights, tmp_path / "out", "--to", "glm4_moe", "--runtime", "llama.cpp"))
    assert "glm4_moe is impossible for llama.cpp: " in said and not list(tmp_path.iterdir())


def test_a_model_is_never_written_to(innovator: Command, weights: Path) -> None:
    assert "which is never written to" in sentence(innovator("export", weights, weights / "out"))


def test_a_second_export_to_one_folder_is_refused(innovator: Command, weights: Path, tmp_path: Path) -> None:
    with (tmp_path / ".out.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is writing" in sentence(innovator("export", weights, tmp_path / "out"))
    assert not (tmp_path / "out.partial").exists()


def test_what_exists_is_left_alone(innovator: Command, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert "exists: name another folder" in sentence(innovator("export", weights, tmp_path / "out"))
    assert "name the folder to write" in sentence(innovator("export", weights))


def test_too_little_room_is_said_before_work(
    innovator: Command, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert "give --no-check" in sentence(innovator("export", weights, tmp_path / "out"))
    assert innovator("export", weights, tmp_path / "out", "--no-check").code == 0
    monkeypatch.setattr(export_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "will be written" in sentence(innovator("export", weights, tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_another_model_is_not_given_the_name(
    innovator: Command, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the writer had a fault: one matrix of the file is not what it should be."""

    def faulty(*parts: object) -> object:
        n_experts = tensors(*parts)
        return ((name, tensor * 1.5 if "experts.3.up" in name else tensor) for name, tensor in n_experts)

    stock = targets_module.STOCK[0]
    tensors = type(stock).tensors
    monkeypatch.setattr(type(stock), "tensors", faulty)
    assert "is another model" in sentence(innovator("export", weights, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_name(weights: Path, tmp_path: Path) -> None:
    """A process that may write no file above 64 KiB stands for a full disk."""
    command = [sys.executable, "-m", "innovator.cli", "export", weights, tmp_path / "out", "--no-check"]
    script = (
        f"import runpy, sys; sys.argv = {[str(word) for word in command[2:]]!r}; from innovator.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
    )
    assert done.returncode == 3 and "error: the disk is full" in done.stderr
    assert not (tmp_path / "out").exists()
