"""Dense models in, one fine-grained mixture out: neuron by neuron, function kept, matrix by matrix.

Shape suffixes: E experts, F hidden neurons of a whole feed-forward, P what a neuron looks at, D model, M parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from innovator.models.decoder import DecoderConfig
from innovator.models.moe import MoEConfig, RouterConfig, SoftmaxRouter
from innovator.models.spec import Spec
from innovator.weights.families import only_ours
from innovator.weights.ffn import FFN, read_ffn, split_ffn
from innovator.weights.folder import Folder

TIE_BREAK = 1e-6


@dataclass(frozen=True, kw_only=True)
class Contiguous(Spec):
    """Neurons in the order they stand."""

    kind: Literal["contiguous"] = "contiguous"

    def order(self, ffn: FFN, n_parts: int, generator: torch.Generator) -> Tensor:
        """A permutation of the neurons; each part takes the next F / n_parts of them."""
        return torch.arange(len(ffn.rows_FP))


@dataclass(frozen=True, kw_only=True)
class Random(Spec):
    """Neurons in random order (LLaMA-MoE's choice, arXiv 2406.16554)."""

    kind: Literal["random"] = "random"

    def order(self, ffn: FFN, n_parts: int, generator: torch.Generator) -> Tensor:
        """A permutation of the neurons; each part takes the next F / n_parts of them."""
        return torch.randperm(len(ffn.rows_FP), generator=generator)


@dataclass(frozen=True, kw_only=True)
class Clustered(Spec):
    """Neurons that look at similar directions together: balanced k-means on their normalised rows."""

    n_rounds: int = 10
    kind: Literal["clustered"] = "clustered"

    def order(self, ffn: FFN, n_parts: int, generator: torch.Generator) -> Tensor:
        """A permutation of the neurons; each part takes the next F / n_parts of them."""
        row_FP = F.normalize(ffn.rows_FP.float(), dim=1)
        first_M = torch.randperm(len(row_FP), generator=generator)[:n_parts]
        centre_MP = row_FP[first_M]
        for _ in range(self.n_rounds):
            part_F = balanced_assignment(torch.cdist(row_FP, centre_MP))
            centre_MP = torch.stack([row_FP[part_F == part].mean(dim=0) for part in range(n_parts)])
        return part_F.argsort(stable=True)


Partition = Contiguous | Random | Clustered


@dataclass(frozen=True, kw_only=True)
class TiedStart(Spec):
    """Router rows drawn from N(0, std^2), identical for the parts of one discipline, so that top-k takes all of them.

    With std 0 every row is zero and the selection bias alone, smaller by 1e-6 from discipline to discipline, decides.
    """

    keeps_function: ClassVar[bool] = True
    std: float = 0.02
    kind: Literal["tied"] = "tied"

    def rows(self, n_sources: int, n_parts: int, dim: int, generator: torch.Generator) -> Tensor:
        """The routers' first rows, [E, D]."""
        return draw(n_sources, dim, self.std, generator).repeat_interleave(n_parts, dim=0)

    def bias(self, n_sources: int, n_parts: int) -> Tensor:
        """The first selection biases, [E]: none where the rows tell disciplines apart."""
        rank_E = torch.arange(n_sources, dtype=torch.float32).repeat_interleave(n_parts)
        return -TIE_BREAK * rank_E if self.std == 0 else torch.zeros_like(rank_E)


@dataclass(frozen=True, kw_only=True)
class UntiedStart(Spec):
    """Every router row drawn by itself: the start of other upcycling tools, which does not keep the function."""

    keeps_function: ClassVar[bool] = False
    std: float = 0.02
    kind: Literal["untied"] = "untied"

    def rows(self, n_sources: int, n_parts: int, dim: int, generator: torch.Generator) -> Tensor:
        """The routers' first rows, [E, D]."""
        return draw(n_sources * n_parts, dim, self.std, generator)

    def bias(self, n_sources: int, n_parts: int) -> Tensor:
        """The first selection biases, [E]: none."""
        return torch.zeros(n_sources * n_parts)


RouterStart = TiedStart | UntiedStart


@dataclass(frozen=True, kw_only=True)
class UpcycleSpec(Spec):
    """How taught feed-forwards become experts.

    n_parts: experts per taught feed-forward. top_k: experts per token, a multiple of n_parts.
    shared: whether the base's own feed-forward stays as shared expert, at half strength beside the routed half.
    """

    n_parts: int
    top_k: int
    router: RouterConfig
    shared: bool = True
    partition: Partition = field(default_factory=Contiguous)
    start: RouterStart = field(default_factory=TiedStart)
    dense_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.n_parts, self.top_k) < 1:
            raise ValueError("n_parts and top_k must be at least 1")
        if self.top_k % self.n_parts:
            raise ValueError(f"top_k={self.top_k} is not a multiple of n_parts={self.n_parts}")
        if not self._normalized and self.start.std > 0:
            raise ValueError("a softmax router that is not normalized keeps the function only from start.std = 0")

    @property
    def _normalized(self) -> bool:
        return not isinstance(self.router, SoftmaxRouter) or self.router.normalized

    def config(self, dense: DecoderConfig, n_sources: int) -> DecoderConfig:
        """The mixture's configuration; ValueError if this dense model cannot be split so."""
        if isinstance(dense.ffn, MoEConfig):
            raise ValueError("the base is already a mixture: only a dense model can be upcycled")
        if reasons := list(only_ours(dense)):
            raise ValueError(f"only a model that reads plainly can be proved to be its parts: {', '.join(reasons)}")
        hidden = dense.ffn.hidden
        if hidden % self.n_parts:
            raise ValueError(f"hidden width {hidden} of the feed-forward does not divide into n_parts={self.n_parts}")
        if unknown := [layer for layer in self.dense_layers if not 0 <= layer < dense.n_layers]:
            raise ValueError(f"dense_layers {unknown} do not exist in a model of {dense.n_layers} layers")
        ffn = MoEConfig(
            n_experts=self.n_parts * n_sources,
            n_disciplines=n_sources,
            top_k=self.top_k,
            expert=replace(dense.ffn, hidden=hidden // self.n_parts),
            shared=dense.ffn if self.shared else None,
            dense=dense.ffn,
            router=self.router,
            dense_layers=self.dense_layers,
        )
        return replace(dense, ffn=ffn)

    def shared_factor(self) -> float:
        """What the shared expert's output is multiplied by, folded into its down matrix."""
        return 0.5

    def routed_factor(self, n_sources: int) -> float:
        """What every routed expert's output is multiplied by, folded into its down matrix.

        At tied scores each of the top_k experts weighs scale / top_k (or scale / n_experts when not normalised);
        together they must give the routed share of the mean of the chosen feed-forwards.
        """
        share = self.shared_factor() if self.shared else 1.0
        equal = self.n_parts if self._normalized else self.n_parts * n_sources * self.n_parts / self.top_k
        return share * equal / self.router.scale


def upcycle(base: Folder, sources: Sequence[Folder], spec: UpcycleSpec, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The mixture's tensors in pieces: the base's own, and each source's feed-forward as routed experts."""
    config = spec.config(base.config, len(sources))
    for name in base.shapes:
        if ".ffn." not in name:
            yield name, base.tensor(name)
    for layer in range(config.n_layers):
        own = read_ffn(base, layer)
        if layer in spec.dense_layers:
            yield from own.named(f"layers.{layer}.ffn")
        else:
            taught = (read_ffn(source, layer) for source in sources)
            yield from upcycle_layer(own, taught, len(sources), layer, spec, seed).named(f"layers.{layer}.ffn")


class Mixture(NamedTuple):
    """One layer's upcycled feed-forward, its experts made one by one."""

    router_ED: Tensor
    selection_bias_E: Tensor
    shared: FFN | None
    experts: Iterator[FFN]

    def named(self, at: str) -> Iterator[tuple[str, Tensor]]:
        """Its tensors in pieces, under the names they have in a decoder."""
        yield f"{at}.router.weight", self.router_ED
        yield f"{at}.router.selection_bias", self.selection_bias_E
        if self.shared is not None:
            yield from self.shared.named(f"{at}.shared")
        for number, expert in enumerate(self.experts):
            yield from expert.named(f"{at}.experts.{number}")


def upcycle_layer(
    base: FFN, taught: Iterable[FFN], n_sources: int, layer: int, spec: UpcycleSpec, seed: int
) -> Mixture:
    """One layer's feed-forwards as a mixture: the base's shared, the taught ones cut into experts."""
    generator = torch.Generator().manual_seed(seed * 100_003 + layer)
    order_F = spec.partition.order(base, spec.n_parts, generator)
    factor = spec.routed_factor(n_sources)
    return Mixture(
        spec.start.rows(n_sources, spec.n_parts, base.dim, generator),
        spec.start.bias(n_sources, spec.n_parts),
        base.times(spec.shared_factor()) if spec.shared else None,
        (part.times(factor) for ffn in taught for part in split_ffn(ffn, order_F, spec.n_parts)),
    )


def average(folders: Sequence[Folder], name: str) -> Tensor:
    """The mean of one tensor over several models (Branch-Train-MiX, arXiv 2403.07816)."""
    tensors = [folder.tensor(name) for folder in folders]
    return torch.stack([tensor.float() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)


def draw(n_rows: int, dim: int, std: float, generator: torch.Generator) -> Tensor:
    """Router rows from N(0, std^2)."""
    return torch.randn(n_rows, dim, generator=generator) * std


def balanced_assignment(distance_FM: Tensor) -> Tensor:
    """A part for every row, equally many rows each: parts keep their nearest rows, the rest ask elsewhere."""
    n_rows, n_parts = distance_FM.shape
    room_M = torch.full((n_parts,), n_rows // n_parts)
    part_F = torch.full((n_rows,), -1)
    while (part_F < 0).any():
        open_FM = distance_FM.masked_fill((part_F >= 0)[:, None] | (room_M == 0), torch.inf)
        wish_F = open_FM.argmin(dim=1)
        for part in room_M.nonzero()[:, 0].tolist():
            asking = ((wish_F == part) & (part_F < 0)).nonzero()[:, 0]
            kept = asking[distance_FM[asking, part].argsort(stable=True)[: room_M[part]]]
            part_F[kept] = part
            room_M[part] -= len(kept)
    return part_F
