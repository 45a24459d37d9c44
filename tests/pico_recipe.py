"""A whole recipe on the pico world: four stages and all baselines in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pico import CORPORA, VOCAB, write_corpus

BASELINES = ("dense-equal-tokens", "dense-equal-flops", "dense-science-only", "sparse-upcycling", "btx")
RECIPE = f"""
title: Pico
corpora_root: CORPORA
corpora:
  general: {{kind: files, path: general.jsonl}}
  alchemy: {{kind: files, path: alchemy.jsonl, where: {{science: alchemy}}}}
  botany: {{kind: files, path: botany.jsonl}}
  cookery: {{kind: files, path: cookery.jsonl}}
  dance: {{kind: files, path: dance.jsonl, on_bad_line: set-aside}}
tokenizer: {{kind: train, vocab_size: {VOCAB}, corpora: [{", ".join(CORPORA)}]}}
base:
  kind: fresh
  decoder:
    vocab_size: {VOCAB}
    dim: 32
    n_layers: 2
    attention: {{n_heads: 2, n_kv_heads: 1, head_dim: 16}}
    ffn: {{kind: swiglu, hidden: 32}}
    tied: true
  course: {{tokens: 1024, optim: {{lr: 1e-3}}}}
batch: {{seq_len: 16, rows: 8}}
induce: {{course: {{tokens: 512, optim: {{lr: 1e-3}}}}, general_share: 0.25}}
split: {{n_parts: 2, top_k: 2, router: {{kind: sigmoid}}}}
warm_router:
  course: {{tokens: 512, optim: {{lr: 1e-2}}}}
  means: {{tokens: 256}}
integrate: {{course: {{tokens: 1024, optim: {{lr: 1e-3}}}}}}
baselines: [{", ".join(BASELINES)}]
evaluation: {{tokens: 300, test_share: 0.2}}
"""


def write_recipe(folder: Path) -> Path:
    """The recipe as a file, with its corpora beside it."""
    for name in CORPORA:
        write_corpus(folder / f"{name}.jsonl", name)
    path = folder / "pico.yaml"
    path.write_text(RECIPE.replace("CORPORA", str(folder)), encoding="utf8")
    return path


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@dataclass(frozen=True)
class Finished:
    """A recipe that was run to its end."""

    recipe: Path
    root: Path

    def step(self, name: str) -> Path:
        (found,) = [path for path in self.root.iterdir() if path.name.rpartition("-")[0] == name]
        return found

    def report(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = json.loads((self.step("report") / "report.json").read_text("utf8"))
        return found


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} if root.is_dir() else set()


def sentence(answer: Answer) -> str:
    """What was said of wrong input: one line."""
    assert answer.code == 2, answer.err
    (line,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in answer.err
    return line.removeprefix("error: ")
