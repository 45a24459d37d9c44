"""Bits per byte on held-out text, and where a mixture sends it.

Shape suffixes: B rows, T slots, S = B*T tokens, E experts, C disciplines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from innovator.data.mixture import Batch, rows_of
from innovator.data.tokens import TokenFile
from innovator.files import write_json
from innovator.models.cost import cost
from innovator.models.decoder import IGNORE, Decoder
from innovator.models.moe import MoE, Routing
from innovator.models.spec import Spec
from innovator.say import progress
from innovator.weights.folder import Folder


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(Spec):
    """Scores one model on the test split of every corpus; writes `scores.json`.

    tokens: at most so many per corpus, in whole documents. train_tokens, train_flops: what its training took.
    """

    model: str
    corpora: tuple[str, ...]
    disciplines: tuple[str, ...]
    tokens: int
    seq_len: int
    rows: int
    train_tokens: int
    train_flops: float

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Read the held-out text of every corpus and write `scores.json`."""
        folder = Folder.open(inputs["model"] / "weights")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = folder.load().to(device).eval()
        readings = {}
        with progress(out.name, len(self.corpora), "corpora") as advance:
            for name in self.corpora:
                readings[name] = read_corpus(model, TokenFile.open(inputs[name], "test"), self, device)
                advance(1, bits_per_byte=readings[name].bits_per_byte)
        counts = cost(folder.config, self.seq_len)
        scores = {
            "model": self.model,
            "bits_per_byte": {name: reading.bits_per_byte for name, reading in readings.items()},
            "n_tokens": {name: reading.n_targets for name, reading in readings.items()},
            "parameters": {"total": counts.total, "active": counts.active},
            "train_tokens": self.train_tokens,
            "train_flops": self.train_flops,
            "active_flops_per_token": counts.forward,
            "routing": routing_map(readings, self) if model.mixtures() else None,
        }
        write_json(out / "scores.json", scores)


@dataclass(frozen=True)
class LayerRouting:
    """One layer's routing of one corpus, summed over its tokens."""

    load_E: Tensor
    mass_C: Tensor
    first_C: Tensor


@dataclass(frozen=True)
class Reading:
    """One corpus read by one model."""

    bits_per_byte: float
    n_targets: int
    layers: tuple[LayerRouting, ...]


@torch.no_grad()
def read_corpus(model: Decoder, file: TokenFile, spec: EvaluateSpec, device: torch.device) -> Reading:
    """The model's code length of the corpus' first documents; every token but each document's mark is predicted."""
    rows = rows_of(file, spec.tokens, spec.seq_len)
    nats, n_targets, routings = 0.0, 0, []
    for batch in rows.batch.portions(spec.rows):
        with watched(model.mixtures()) as seen:
            layout = batch.layout.to(device)
            nats += float(model.loss(batch.tokens_BT.to(device), batch.target_BT.to(device), layout))
        n_targets += int((batch.target_BT != IGNORE).sum())
        counts = [mixture.config.n_disciplines for mixture in model.mixtures()]
        routings.append([tally(routing, batch, n) for routing, n in zip(seen, counts, strict=True)])
    layers = tuple(_summed(layer) for layer in zip(*routings, strict=True))
    return Reading(nats / math.log(2) / rows.n_bytes, n_targets, layers)


@contextmanager
def watched(mixtures: list[MoE]) -> Iterator[list[Routing]]:
    """What the routers decide in the next pass, from the first layer to the last."""
    seen: list[Routing] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], routing: Routing) -> None:
        seen.append(routing)

    hooks = [mixture.router.register_forward_hook(note) for mixture in mixtures]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def tally(routing: Routing, batch: Batch, n_disciplines: int) -> LayerRouting:
    """Sums over the tokens of a batch that predict something."""
    real_S = (batch.target_BT != IGNORE).flatten().to(routing.logit_SE.device)
    mass_SC = routing.mass(n_disciplines)[real_S]
    chosen = routing.expert_SK[real_S].flatten()
    load_E = torch.bincount(chosen, minlength=routing.logit_SE.shape[-1])
    first_C = torch.bincount(mass_SC.argmax(dim=-1), minlength=n_disciplines)
    return LayerRouting(load_E.cpu(), mass_SC.sum(dim=0).cpu(), first_C.cpu())


def routing_map(readings: Mapping[str, Reading], spec: EvaluateSpec) -> dict[str, object]:
    """Per layer and corpus: share of choices per expert, mean mass per discipline, share of tokens sent home."""
    by_layer = list(zip(*(reading.layers for reading in readings.values()), strict=True))
    homes = [spec.disciplines.index(name) if name in spec.disciplines else None for name in readings]
    return {
        "corpora": list(readings),
        "disciplines": list(spec.disciplines),
        "load": [[_shares(routing.load_E) for routing in layer] for layer in by_layer],
        "mass": [[_shares(routing.mass_C) for routing in layer] for layer in by_layer],
        "accuracy": [
            [None if home is None else _shares(r.first_C)[home] for r, home in zip(layer, homes, strict=True)]
            for layer in by_layer
        ],
    }


def _shares(count: Tensor) -> list[float]:
    shares: list[float] = (count.double() / count.sum()).tolist()
    return shares


def _summed(parts: tuple[LayerRouting, ...]) -> LayerRouting:
    sums = (
        torch.stack(field).sum(dim=0) for field in zip(*((p.load_E, p.mass_C, p.first_C) for p in parts), strict=True)
    )
    return LayerRouting(*sums)
