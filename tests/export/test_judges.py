"""Stock tools use what we write, without a line of ours: transformers reads, lm-eval scores, TRL trains it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from innovator.data.tokenizer import Tokenizer
from innovator.export.export import export
from innovator.export.stock import Glm4Moe
from innovator.export.targets import Own, StockMixture
from innovator.models.attention import AttentionConfig
from innovator.models.decoder import IGNORE, Decoder, DecoderConfig
from innovator.models.generate import generate
from innovator.models.hf import InnovatorForCausalLM
from innovator.models.initial import GPT2Init
from innovator.models.layers import Layout, SwiGLUConfig
from innovator.models.moe import MoEConfig, SigmoidRouter
from innovator.weights.folder import Folder, save_folder

STRANGER = Path(__file__).with_name("stranger.py")
VOCAB = 280
LIMIT = 4
N_NEW = 6
PROMPTS = [[5, 17, 3, 44, 9, 28, 31], [12, 7, 50], [33, 2, 19, 60, 8]]
PADDED = {  # with a token that also stands in the texts
    "input_ids": [[17] * (7 - len(prompt)) + prompt for prompt in PROMPTS],
    "attention_mask": [[0] * (7 - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS],
}
TEXTS = ("a cat sat on the mat", "the rat said", "3.14159 is not 22/7, said the rat", "on")
QUESTIONS = (
    {"question": "a cat sat on", "choices": ["the mat", "the rat, 3", "22/7"], "answer": 0},
    {"question": "the rat said", "choices": ["3.14159 is not 22/7", "a cat"], "answer": 1},
    {"question": "on", "choices": ["a", "the"], "answer": 1},
    {"question": "3.14159 is not", "choices": ["22/7, said the rat", "the mat"], "answer": 0},
    {"question": "beyond the limit", "choices": ["a", "the"], "answer": 0},
)
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "speech": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": N_NEW, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


class Read(TypedDict):
    """What transformers makes of our own folder."""

    logits: list[list[object]]
    again: list[list[object]]
    spoken: list[list[int]]


class Verdict(TypedDict):
    """What lm-eval makes of a folder: each choice's prompt and continuation with its answer, each prompt's speech."""

    acc: float
    choice: list[tuple[list[tuple[str, str]], list[list[tuple[float, bool]]]]]
    speech: list[tuple[str, str]]


class Said(TypedDict):
    """What a stranger says of our own folder and of a stock one, which it also trains."""

    read: Read
    judge: dict[str, Verdict]
    train: list[float]
    ours: list[str]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.open(tokenizer_folder)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    wide, narrow = SwiGLUConfig(hidden=24), SwiGLUConfig(hidden=12)
    router = SigmoidRouter(scale=2.5)
    ffn = MoEConfig(n_experts=6, n_disciplines=3, top_k=2, expert=narrow, shared=wide, dense=wide, router=router)
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=6)
    model = Decoder(DecoderConfig(vocab_size=VOCAB, dim=16, n_layers=2, attention=attention, ffn=ffn))
    model.initialize(5, GPT2Init(std=0.3))
    return model.eval()


@pytest.fixture(scope="module")
def home(decoder: Decoder, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two exports of a mixture, `own` and `stock`, the tasks of a judge, and room for what a stranger writes."""
    home = tmp_path_factory.mktemp("home")
    save_folder(home / "weights", decoder.config, decoder.state_dict().items(), tokenizer_folder)
    for name, target in {"own": Own(), "stock": StockMixture(Glm4Moe())}.items():
        export(Folder.open(home / "weights"), home / name, target, "f32", check=False)
    (home / "tasks").mkdir()
    questions = home / "tasks" / "questions.jsonl"
    questions.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS), encoding="utf-8")
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(questions)}}, "test_split": "test"}
    for name, task in TASKS.items():
        told = {"task": name, **source, "doc_to_text": "{{question}}", **task}
        (home / "tasks" / f"{name}.yaml").write_text(json.dumps(told), encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def said(home: Path) -> Said:
    """What a stranger says, who is alone in an isolated process without a network."""
    folders = {name: str(home / name) for name in ("own", "stock", "saved", "trained", "tasks")}
    order = {**folders, "padded": PADDED, "n_new": N_NEW, "limit": LIMIT, "texts": TEXTS}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-I", str(STRANGER), json.dumps(order)],
        cwd=home,
        env={**kept, "HF_HOME": str(home / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=["own", "stock"])
def judged(request: pytest.FixtureRequest, said: Said, decoder: Decoder) -> tuple[Verdict, Decoder]:
    """What lm-eval says of a folder, and the decoder that stands in it."""
    return said["judge"][request.param], decoder


def test_who_knows_nothing_of_us_reads_speaks_and_saves_padded_batches(said: Said, decoder: Decoder) -> None:
    assert said["ours"] == []
    assert said["read"]["logits"] == said["read"]["again"]
    for prompt, logits in zip(PROMPTS, said["read"]["logits"], strict=True):
        ours_TV = decoder(torch.tensor([prompt]))[0]
        torch.testing.assert_close(torch.tensor(logits[-len(prompt) :]), ours_TV, rtol=0, atol=1e-5)
    assert said["read"]["spoken"] == generate(decoder, PROMPTS, N_NEW)


def test_lm_eval_gives_each_choice_the_decoders_likelihood(
    judged: tuple[Verdict, Decoder], tokenizer: Tokenizer
) -> None:
    verdict, model = judged
    n_right = 0
    for (asked, answers), question in zip(verdict["choice"], QUESTIONS, strict=False):
        likelihoods = [likelihood(model, tokenizer, *choice) for choice in asked]
        # Batches of padded rows add up in another order in fp32.
        assert [answer[0][0] for answer in answers] == pytest.approx(likelihoods, abs=1e-3)
        n_right += likelihoods.index(max(likelihoods)) == question["answer"]
    assert len(verdict["choice"]) == LIMIT
    assert verdict["acc"] == n_right / LIMIT


def likelihood(model: Decoder, tokenizer: Tokenizer, prompt: str, continuation: str) -> float:
    """The log-probability of a continuation's tokens."""
    prompt_ids, ids = tokenizer.encode_batch([prompt, prompt + continuation])
    log_p_TV = model(torch.tensor([ids]))[0, :-1].log_softmax(-1)
    return log_p_TV.gather(-1, torch.tensor(ids)[1:, None])[len(prompt_ids) - 1 :].sum().item()


def test_lm_eval_hears_what_the_decoder_says(judged: tuple[Verdict, Decoder], tokenizer: Tokenizer) -> None:
    verdict, model = judged
    assert len(verdict["speech"]) == LIMIT
    for prompt, speech in verdict["speech"]:
        spoken = generate(model, tokenizer.encode_batch([prompt]), N_NEW, stop=tokenizer.eos_id)
        assert speech == tokenizer.decode(spoken[0]).split("\n")[0]


def test_the_first_loss_that_trl_logs_is_the_decoders(said: Said, decoder: Decoder, tokenizer: Tokenizer) -> None:
    loss, n_targets = 0.0, 0
    for ids in tokenizer.encode_batch(list(TEXTS)):
        token_1T = torch.tensor([[*ids, tokenizer.eos_id]])
        target_1T = F.pad(token_1T[:, 1:], (0, 1), value=IGNORE)
        loss += decoder.loss(token_1T, target_1T, Layout.of(token_1T)).item()
        n_targets += len(ids)
    assert said["train"][0] == pytest.approx(loss / n_targets, rel=1e-4)


def test_trl_trains_every_parameter(said: Said, home: Path) -> None:
    assert all(map(math.isfinite, said["train"]))
    assert said["train"][-1] < said["train"][0]
    before = load_file(home / "stock" / "model.safetensors")
    after = load_file(home / "trained" / "model.safetensors")
    assert before.keys() == after.keys()
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert still == {name for name in after if name.endswith("e_score_correction_bias")}


def test_accelerate_divides_it_between_its_blocks(home: Path, decoder: Decoder, tmp_path: Path) -> None:
    n_bytes = sum(parameter.nbytes for parameter in decoder.parameters())
    model = InnovatorForCausalLM.from_pretrained(
        home / "own", device_map="auto", max_memory={"cpu": n_bytes * 9 // 10}, offload_folder=tmp_path
    )
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    assert not [part for part in model.hf_device_map if re.match(r"decoder\.layers\.\d+\.", part)]
    assert torch.equal(model(torch.tensor(PROMPTS[:1])).logits, decoder(torch.tensor(PROMPTS[:1])))
