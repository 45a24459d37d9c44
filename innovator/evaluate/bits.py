"""Bits per byte on held-out text, where a mixture sends it, and how long it is thought about.

Shape suffixes: B rows, T slots, S = B*T tokens, E experts, C disciplines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from innovator.data.mixture import Batch, rows_of
from innovator.data.tokens import TokenFile
from innovator.engine.parallel import Engine, World, join, nothing
from innovator.engine.share import added, turns
from innovator.evaluate.passes import Passage, effort_figures, overheard
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

    tokens: at most so many per corpus, in whole documents. rows: how many a process reads at a time.
    train_tokens, train_flops: what its training took.
    """

    model: str
    corpora: tuple[str, ...]
    disciplines: tuple[str, ...]
    tokens: int
    seq_len: int
    rows: int
    train_tokens: int
    train_flops: float

    def run(self, out: Path, inputs: Mapping[str, Path], engine: Engine | None = None) -> None:
        """Read the held-out text of every corpus, with all the processes of a torchrun, and write `scores.json`."""
        world = join((engine or Engine()).reading(), "fp32")
        weights = inputs["model"] / "weights"
        model = world.place(Folder.open(weights), nothing, "fp32").eval()
        readings = {}
        with progress(out.name, len(self.corpora), "corpora") as advance:
            for name in self.corpora:
                readings[name] = read_corpus(model, TokenFile.open(inputs[name], "test"), self, world)
                advance(1, bits_per_byte=readings[name].bits_per_byte)
        if world.rank == 0:
            write_json(out / "scores.json", self._scores(model, readings, weights))

    def _scores(self, model: Decoder, readings: Mapping[str, Reading], weights: Path) -> dict[str, object]:
        counts, n_targets = cost(model.config, self.seq_len), sum(reading.n_targets for reading in readings.values())
        passes = sum(reading.n_passes for reading in readings.values()) / n_targets
        passages = {name: reading.passage for name, reading in readings.items()}
        return {
            "model": self.model,
            "bits_per_byte": {name: reading.bits_per_byte for name, reading in readings.items()},
            "n_tokens": {name: reading.n_targets for name, reading in readings.items()},
            "parameters": {"total": counts.total, "active": counts.active},
            "train_tokens": self.train_tokens,
            "train_flops": self.train_flops,
            "active_flops_per_token": counts.forward,
            "routing": routing_map(readings, self) if model.mixtures() else None,
            "effort": effort_figures(passes, counts, passages, weights),
        }


@dataclass(frozen=True)
class LayerRouting:
    """One layer's routing of one corpus, summed over its tokens."""

    load_E: Tensor
    mass_C: Tensor
    first_C: Tensor


@dataclass(frozen=True)
class Reading:
    """One corpus read by one model; its passes are those of the tokens after which one is predicted."""

    bits_per_byte: float
    n_targets: int
    n_passes: float
    passage: Passage
    layers: tuple[LayerRouting, ...]


@torch.no_grad()
def read_corpus(model: Decoder, file: TokenFile, spec: EvaluateSpec, world: World) -> Reading:
    """The model's code length of the corpus' first documents; every token but each document's mark is predicted."""
    rows, device = rows_of(file, spec.tokens, spec.seq_len), world.device
    counted, routings, passages = torch.zeros(3, dtype=torch.float64, device=device), [], []
    for turn in turns(len(rows.batch.tokens_BT), spec.rows, world):
        batch = rows.batch.rows(turn.start, turn.stop) if turn else idle(rows.batch)
        target_BT = batch.target_BT.to(device)
        with watched(model.mixtures()) as seen, overheard(model) as thoughts:
            nats = model.loss(batch.tokens_BT.to(device), target_BT, batch.layout.to(device))
        (thought,), is_counted_BT = thoughts, target_BT != IGNORE
        counted += torch.stack([nats.double(), is_counted_BT.sum(), (thought.passes_BT * is_counted_BT).sum()])
        passages.append(Passage.of(batch, thought))
        counts = [mixture.config.n_disciplines for mixture in model.mixtures()]
        routings.append([tally(routing, batch, n) for routing, n in zip(seen.values(), counts, strict=True)])
    layers = tuple(_summed(layer, world) for layer in zip(*routings, strict=True))
    nats_in_all, n_targets, n_passes = world.total(counted).tolist()
    return Reading(nats_in_all / math.log(2) / rows.n_bytes, int(n_targets), n_passes, passages[0], layers)


def idle(batch: Batch) -> Batch:
    """A row that predicts nothing, for a process that has none left while others read."""
    row = batch.rows(0, 1)
    return replace(row, target_BT=torch.full_like(row.target_BT, IGNORE))


@contextmanager
def watched(mixtures: list[MoE]) -> Iterator[dict[nn.Module, Routing]]:
    """What the routers decide in the next pass, the first if there are several, from the first layer to the last."""
    seen: dict[nn.Module, Routing] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], routing: Routing) -> None:
        seen.setdefault(module, routing)

    hooks = [mixture.router.register_forward_hook(note) for mixture in mixtures]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def tally(routing: Routing, batch: Batch, n_disciplines: int) -> LayerRouting:
    """Sums over the tokens of a batch that predict something, over all slots of each."""
    is_counted_S = (batch.target_BT != IGNORE).flatten().to(routing.logit_SE.device)
    real_S = is_counted_S.repeat_interleave(len(routing.logit_SE) // len(is_counted_S))
    mass_SC = routing.mass(n_disciplines)[real_S]
    chosen = routing.expert_SK[real_S].flatten()
    load_E = torch.bincount(chosen, minlength=routing.logit_SE.shape[-1])
    first_C = torch.bincount(mass_SC.argmax(dim=-1), minlength=n_disciplines)
    return LayerRouting(load_E, mass_SC.sum(dim=0), first_C)


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


def _summed(passes: tuple[LayerRouting, ...], world: World) -> LayerRouting:
    """One layer's routing over all passes of all processes."""
    fields = zip(*((part.load_E, part.mass_C, part.first_C) for part in passes), strict=True)
    return LayerRouting(*(added(torch.stack(field).sum(dim=0), world).cpu() for field in fields))
