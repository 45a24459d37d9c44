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
from innovator.models.decoder import Decoder
from innovator.models.layers import GENERAL
from innovator.models.moe import MoE, Routing
from innovator.models.spec import Spec
from innovator.say import progress
from innovator.weights.folder import Folder, save_folder

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

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        source = Folder.open(inputs["init"] / "weights")
        model = source.load().eval()
        watches = [Watch(mixture, len(self.disciplines)) for mixture in model.mixtures()]
        with progress(out.name, len(self.disciplines), "disciplines") as advance:
            for label, name in enumerate(self.disciplines):
                self._read(model, TokenFile.open(inputs[name], "train"), name, label, watches)
                advance(1)
        for watch in watches:
            watch.aim(self.sharpness)
        state = model.state_dict()
        save_folder(
            out / "weights", source.config, ((name, state[name]) for name in source.shapes), source.path, source.facts
        )

    @torch.no_grad()
    def _read(self, model: Decoder, file: TokenFile, name: str, label: int, watches: list[Watch]) -> None:
        stream = Mixture({name: file}, {name: 1.0}, {name: GENERAL}, self.seq_len, self.seed)
        for watch in watches:
            watch.label = label
        for start in range(0, max(1, self.tokens // self.seq_len), self.rows):
            batch = stream.rows(start, self.rows)
            model.read(model.embed(batch.tokens_BT), batch.layout)


class Watch:
    """Sums over what one router is shown, by the discipline that is being read."""

    def __init__(self, mixture: MoE, n_disciplines: int) -> None:
        self.router, self.label = mixture.router, 0
        dim = self.router.weight.shape[1]
        self.count_C = torch.zeros(n_disciplines)
        self.sum_CD, self.square_CD = torch.zeros(n_disciplines, dim), torch.zeros(n_disciplines, dim)
        self.router.register_forward_hook(self._note)

    def _note(self, module: nn.Module, args: tuple[Tensor, ...], routing: Routing) -> None:
        x_SD = args[0].float()
        self.count_C[self.label] += len(x_SD)
        self.sum_CD[self.label] += x_SD.sum(dim=0)
        self.square_CD[self.label] += x_SD.square().sum(dim=0)

    @torch.no_grad()
    def aim(self, sharpness: float) -> None:
        """Point the router's rows; every expert of a discipline gets the same."""
        mean_CD = self.sum_CD / self.count_C[:, None]
        variance_D = (self.square_CD / self.count_C[:, None] - mean_CD.square()).mean(dim=0)
        row_CD = (mean_CD - mean_CD.mean(dim=0)) / (variance_D + EPSILON)
        deviation_C = (row_CD.square() * variance_D).sum(dim=1).sqrt()
        row_CD = row_CD * (sharpness / deviation_C.mean())
        n_parts = len(self.router.weight) // len(row_CD)
        self.router.weight.copy_(row_CD.repeat_interleave(n_parts, dim=0))
