"""Routers pointed by data instead of learning: each discipline's rows are its text's mean hidden state.

Shape suffixes: B rows, T slots, S = B*T tokens, D model, C disciplines, M experts of a discipline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from innovator.data.mixture import Mixture
from innovator.data.tokens import TokenFile
from innovator.engine.parallel import Engine, World, join, nothing
from innovator.engine.parts import change
from innovator.engine.share import added, save_model, turns
from innovator.models.decoder import Decoder
from innovator.models.layers import GENERAL
from innovator.models.moe import MoE, Routing
from innovator.models.spec import Spec
from innovator.say import progress
from innovator.weights.folder import Folder

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class AimSpec(Spec):
    """Set every router's rows to (mean of the discipline - mean of all) / variance, per coordinate of its input.

    That is the discriminant of classes with equal diagonal covariance; rows are scaled so that logits have standard
    deviation `sharpness`. Means are taken over `tokens` tokens per discipline, with the routers as they are.
    """

    disciplines: tuple[str, ...]
    tokens: int
    seq_len: int
    rows: int
    sharpness: float = 1.0
    seed: int = 0

    def run(self, out: Path, inputs: Mapping[str, Path], engine: Engine | None = None) -> None:
        """Read every discipline's text, with all the processes of a torchrun, and write `out/weights`."""
        source = Folder.open(inputs["init"] / "weights")
        world = join((engine or Engine()).reading(), "fp32")
        model = world.place(source, nothing, "fp32").eval()
        watches = [Watch(mixture, len(self.disciplines), world) for mixture in model.mixtures()]
        with progress(out.name, len(self.disciplines), "disciplines") as advance:
            for label, name in enumerate(self.disciplines):
                file = TokenFile.open(inputs[name], "train")
                stream = Mixture({name: file}, {name: 1.0}, {name: GENERAL}, self.seq_len, self.seed)
                self._read(model, stream, label, watches, world)
                advance(1)
        for watch in watches:
            watch.aim(self.sharpness)
        save_model(model, source, out / "weights", world)

    @torch.no_grad()
    def _read(self, model: Decoder, stream: Mixture, label: int, watches: list[Watch], world: World) -> None:
        n_rows, device = max(1, self.tokens // self.seq_len), world.device
        for turn in turns(-(-n_rows // self.rows) * self.rows, self.rows, world):
            batch = stream.rows(turn.start, max(1, len(turn)))
            for watch in watches:
                watch.label = label if turn else None
            model.loss(batch.tokens_BT.to(device), batch.target_BT.to(device), batch.layout.to(device))


class Watch:
    """Sums over what one router is shown, by the label that is being read; without one nothing is counted."""

    def __init__(self, mixture: MoE, n_disciplines: int, world: World) -> None:
        self.router, self.world = mixture.router, world
        self.label: int | None = None
        shape = n_disciplines, self.router.weight.shape[1]
        self.count_C = torch.zeros(n_disciplines, device=world.device)
        self.sum_CD, self.square_CD = torch.zeros(shape, device=world.device), torch.zeros(shape, device=world.device)
        self.router.register_forward_hook(self._note)

    def _note(self, module: nn.Module, args: tuple[Tensor, ...], routing: Routing) -> None:
        if self.label is None:
            return
        x_SD = args[0].float()
        self.count_C[self.label] += len(x_SD)
        self.sum_CD[self.label] += x_SD.sum(dim=0)
        self.square_CD[self.label] += x_SD.square().sum(dim=0)

    @torch.no_grad()
    def aim(self, sharpness: float) -> None:
        """Point the router's rows; every expert of a discipline gets the same."""
        count_C, sum_CD, square_CD = (added(it, self.world) for it in (self.count_C, self.sum_CD, self.square_CD))
        mean_CD = sum_CD / count_C[:, None]
        variance_D = (square_CD / count_C[:, None] - mean_CD.square()).mean(dim=0)
        row_CD = (mean_CD - mean_CD.mean(dim=0)) / (variance_D + EPSILON)
        deviation_C = (row_CD.square() * variance_D).sum(dim=1).sqrt()
        row_CD = row_CD * (sharpness / deviation_C.mean())
        change(self.router.weight, lambda weight_ED: row_CD.repeat_interleave(len(weight_ED) // len(row_CD), dim=0))
