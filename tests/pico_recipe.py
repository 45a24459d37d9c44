"""A whole recipe on the pico world: four stages and all baselines in seconds."""

from __future__ import annotations

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
