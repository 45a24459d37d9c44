"""A world small enough for tests: four made-up sciences and their texts, a tokenizer, a dense model and a mixture."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from innovator.data.sources import FilesSource
from innovator.data.tokenizer import TokenizerSpec, TrainTokenizer
from innovator.data.tokens import TokensSpec
from innovator.models.attention import AttentionConfig
from innovator.models.decoder import DecoderConfig
from innovator.models.layers import SwiGLUConfig
from innovator.models.moe import SigmoidRouter
from innovator.stages import FreshSpec, SplitSpec
from innovator.train.spec import AdamW, BatchSpec, Cosine, Course, TrainSpec
from innovator.weights.folder import Folder
from innovator.weights.upcycle import UpcycleSpec

GENERAL = "general"
DISCIPLINES = ("alchemy", "botany", "cookery", "dance")
CORPORA = (GENERAL, *DISCIPLINES)
VOCAB = 320
N_DOCUMENTS = 120
ATTENTION = AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=16)
DECODER = DecoderConfig(
    vocab_size=VOCAB, dim=32, n_layers=2, attention=ATTENTION, ffn=SwiGLUConfig(hidden=32), tied=True
)
SPLIT = UpcycleSpec(n_parts=2, top_k=2, router=SigmoidRouter(bias_rate=1e-2))
BATCH = BatchSpec(seq_len=16, rows=8)
STEADY = Cosine(warmup=0.0, floor=1.0)


@dataclass(frozen=True)
class World:
    """Folders of finished steps: the tokenizer, the corpora by name, a dense base and its untaught mixture."""

    tokenizer: Path
    corpora: Mapping[str, Path]
    base: Path
    mixture: Path

    def inputs(self, init: Path) -> dict[str, Path]:
        """What a training step reads when it begins at `init`."""
        return {"init": init, **self.corpora}


def texts(corpus: str, n_documents: int = N_DOCUMENTS) -> list[str]:
    """Sentences of the corpus' own made-up words; the same for the same name."""
    draw = random.Random(corpus)
    letters = draw.sample("abcdefghijklmnopqrstuvwxyz", 8)
    words = ["".join(draw.choices(letters, k=4)) for _ in range(12)]
    return [" ".join(draw.choices(words, k=draw.randint(4, 9))) + f" {number}." for number in range(n_documents)]


def write_corpus(path: Path, corpus: str) -> FilesSource:
    """A JSON Lines file of a corpus' texts, each with the field `science` naming it."""
    lines = [json.dumps({"text": text, "science": corpus}) + "\n" for text in texts(corpus)]
    path.write_text("".join(lines), encoding="utf8")
    return FilesSource(path=str(path))


def build(root: Path) -> World:
    """Make the whole world below a folder."""
    sources = {name: write_corpus(root / f"{name}.jsonl", name) for name in CORPORA}
    tokenizer = folder(root / "tokenizer")
    learnt = TrainTokenizer(vocab_size=VOCAB, corpora=CORPORA)
    TokenizerSpec(tokenizer=learnt, sources=tuple(sources.values()), fingerprints=()).run(tokenizer, {})
    corpora = {name: folder(root / f"tokens-{name}") for name in CORPORA}
    for name, source in sources.items():
        spec = TokensSpec(source=source, source_fingerprint="", validation=0.05, test=0.2)
        spec.run(corpora[name], {"tokenizer": tokenizer})
    base, mixture = folder(root / "base"), folder(root / "mixture")
    FreshSpec(decoder=DECODER, seed=0).run(base, {"tokenizer": tokenizer})
    SplitSpec(upcycle=SPLIT, sources=DISCIPLINES).run(mixture, dict.fromkeys(("base", *DISCIPLINES), base))
    return World(tokenizer, corpora, base, mixture)


def folder(path: Path) -> Path:
    """A step's folder, which exists before the step runs."""
    path.mkdir(parents=True)
    return path


def lesson(n_steps: int, trainable: dict[str, float], lr: float = 1e-3) -> TrainSpec:
    """Training on all corpora alike at one learning rate, every step logged."""
    return TrainSpec(
        course=Course(tokens=n_steps * BATCH.tokens, optim=AdamW(lr=lr), schedule=STEADY),
        batch=BATCH,
        mixture=dict.fromkeys(CORPORA, 1.0),
        disciplines=DISCIPLINES,
        trainable=trainable,
        log_every=1,
    )


def in_portions(spec: TrainSpec, micro_rows: int) -> TrainSpec:
    """The same lesson with fewer rows in memory at a time."""
    return replace(spec, batch=replace(spec.batch, micro_rows=micro_rows))


def weights(step: Path) -> dict[str, torch.Tensor]:
    """All tensors that a step has made, by our names."""
    return dict(Folder.open(step / "weights").tensors())


def figures(step: Path) -> list[dict[str, float]]:
    """What a training step has logged."""
    return [json.loads(line) for line in (step / "metrics.jsonl").read_text(encoding="utf8").splitlines()]
