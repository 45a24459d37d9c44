"""A mixture of fine-grained experts beside one ungated shared expert.

Shape suffixes: B batch, T slots, S = B*T tokens, E experts, K chosen experts, R = S*K rows, C disciplines,
D model, F hidden width of one expert, P = 2F.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .layers import GELU, GENERAL, DenseConfig, Layout, SwiGLU
from .spec import Spec

TINY = 1e-20


@dataclass(frozen=True, kw_only=True)
class SoftmaxRouter(Spec):
    """Softmax over all experts, then top-k; `normalized` divides the chosen weights by their sum.

    Rounds as Qwen2-MoE does: product and weights have the model's type, the softmax is fp32.
    """

    normalized: bool = True
    scale: float = 1.0
    kind: Literal["softmax"] = "softmax"

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def logits(self, x_SD: Tensor, weight_ED: Tensor) -> Tensor:
        """Router logits [S, E], fp32."""
        return F.linear(x_SD, weight_ED.type_as(x_SD)).float()

    def scores(self, logit_SE: Tensor) -> Tensor:
        """Scores [S, E] of router logits."""
        return logit_SE.softmax(dim=-1)

    def probabilities(self, score_SE: Tensor) -> Tensor:
        """Scores as a distribution over experts, for the losses."""
        return score_SE

    def weights(self, score_SK: Tensor, dtype: torch.dtype) -> Tensor:
        """What the chosen experts [S, K] are multiplied by, in a model of type `dtype`."""
        if self.normalized:
            score_SK = score_SK / (score_SK.sum(dim=-1, keepdim=True) + TINY)
        return (score_SK * self.scale).to(dtype)

    def bias_step(self, load_E: Tensor) -> Tensor:
        """How far each selection bias moves after an optimizer step that saw this load."""
        return torch.zeros_like(load_E)


@dataclass(frozen=True, kw_only=True)
class SigmoidRouter(Spec):
    """Independent sigmoid scores, chosen with a selection bias, weighted without it (DeepSeek-V3, arXiv 2412.19437).

    After each optimizer step the bias moves by `bias_rate` towards the experts that got less than the mean load
    (loss-free balancing, arXiv 2408.15664). Product, scores and weights are fp32 whatever the model's type.
    """

    scale: float = 1.0
    bias_rate: float = 1e-3
    kind: Literal["sigmoid"] = "sigmoid"

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def logits(self, x_SD: Tensor, weight_ED: Tensor) -> Tensor:
        """Router logits [S, E], fp32 also where a trainer has autocast on."""
        with torch.autocast(x_SD.device.type, enabled=False):
            return F.linear(x_SD.float(), weight_ED.float())

    def scores(self, logit_SE: Tensor) -> Tensor:
        """Scores [S, E] of router logits."""
        return logit_SE.sigmoid()

    def probabilities(self, score_SE: Tensor) -> Tensor:
        """Scores as a distribution over experts, for the losses."""
        return score_SE / (score_SE.sum(dim=-1, keepdim=True) + TINY)

    def weights(self, score_SK: Tensor, dtype: torch.dtype) -> Tensor:
        """What the chosen experts [S, K] are multiplied by, in a model of type `dtype`."""
        return score_SK / (score_SK.sum(dim=-1, keepdim=True) + TINY) * self.scale

    def bias_step(self, load_E: Tensor) -> Tensor:
        """How far each selection bias moves after an optimizer step that saw this load."""
        return self.bias_rate * (load_E.mean() - load_E).sign()


RouterConfig = SoftmaxRouter | SigmoidRouter


def _check_scale(scale: float) -> None:
    if scale <= 0:
        raise ValueError(f"scale={scale} of the routed experts must be above 0")


@dataclass(frozen=True, kw_only=True)
class MoEConfig(Spec):
    """`n_experts` routed experts, `top_k` of them per token, and a shared expert that every token passes.

    Experts stand discipline by discipline: expert e belongs to discipline e // (n_experts / n_disciplines).
    `dense_layers` keep a plain feed-forward, `dense`.
    """

    n_experts: int
    n_disciplines: int
    top_k: int
    expert: DenseConfig
    shared: DenseConfig | None
    dense: DenseConfig
    router: RouterConfig
    dense_layers: tuple[int, ...] = ()
    kind: Literal["moe"] = "moe"

    def __post_init__(self) -> None:
        if not 0 < self.top_k <= self.n_experts:
            raise ValueError(f"top_k={self.top_k} must lie in 1..n_experts={self.n_experts}")
        if self.n_experts % self.n_disciplines:
            raise ValueError(f"{self.n_experts} experts do not divide into {self.n_disciplines} disciplines")

    def build(self, dim: int, layer: int) -> SwiGLU | GELU | MoE:
        return self.dense.build(dim, layer) if layer in self.dense_layers else MoE(dim, self, layer)


@dataclass(frozen=True, kw_only=True)
class RouterLosses(Spec):
    """Weights of what a router is asked beside predicting text; each is summed over tokens, like every loss.

    balance: sequence-level balance of DeepSeek-V2 (arXiv 2405.04434, eq. 23), 1 per token at perfect balance.
    z: squared log-sum-exp of the router's logits (ST-MoE, arXiv 2202.08906).
    label: -log of the probability mass of the labelled discipline's experts.
    general: pull of general text towards equal mass for all disciplines, KL(uniform || mass).
    """

    balance: float = 0.0
    z: float = 0.0
    label: float = 0.0
    general: float = 0.0


class Routing(NamedTuple):
    """Where each token goes: chosen experts and their weights, all logits and probabilities (fp32)."""

    weight_SK: Tensor
    expert_SK: Tensor
    logit_SE: Tensor
    probability_SE: Tensor

    def mass(self, n_disciplines: int) -> Tensor:
        """Probability mass [S, C] of each discipline's experts."""
        return self.probability_SE.unflatten(-1, (n_disciplines, -1)).sum(dim=-1)

    def load(self, text_S: Tensor) -> Tensor:
        """How many tokens, of those that are text, chose each expert, [E]."""
        load_E = text_S.new_zeros(self.logit_SE.shape[-1], dtype=torch.float32)
        return load_E.index_add_(0, self.expert_SK.flatten(), text_S.float().repeat_interleave(self.expert_SK.shape[1]))


class Router(nn.Module):
    """Sends tokens to experts; rows and selection biases are kept in fp32 whatever the model's type."""

    selection_bias: Tensor
    load: Tensor

    def __init__(self, dim: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.n_experts, dim))
        self.register_buffer("selection_bias", torch.zeros(config.n_experts))
        self.register_buffer("load", torch.zeros(config.n_experts), persistent=False)

    def forward(self, x_SD: Tensor) -> Routing:
        rule = self.config.router
        logit_SE = rule.logits(x_SD, self.weight)
        score_SE = rule.scores(logit_SE)
        expert_SK = (score_SE + self.selection_bias).topk(self.config.top_k, dim=-1).indices
        weight_SK = rule.weights(score_SE.gather(-1, expert_SK), x_SD.dtype)
        return Routing(weight_SK, expert_SK, logit_SE, rule.probabilities(score_SE))

    def tied(self, row_ED: Tensor) -> Tensor:
        """Rows with the mean of each discipline's in the place of each."""
        row_CMD = row_ED.unflatten(0, (self.config.n_disciplines, -1))
        return row_CMD.mean(dim=1, keepdim=True).expand_as(row_CMD).flatten(0, 1)

    @torch.no_grad()
    def rebalance(self) -> None:
        """Move the selection bias by the load since the last call, then forget that load."""
        self.selection_bias += self.config.router.bias_step(self.load)
        self.load.zero_()


class MoE(nn.Module):
    """The mixture in a feed-forward's place. `losses` is set by whoever trains it; without it, it only routes.

    passes: how often a token passes here while the decoder thinks; the router's losses are the mean over them.
    terms: what they measured in the last pass, per token.
    """

    def __init__(self, dim: int, config: MoEConfig, layer: int) -> None:
        super().__init__()
        self.config, self.losses, self.passes = config, RouterLosses(), 1.0
        self.terms: dict[str, Tensor] = {}
        self.router = Router(dim, config)
        self.experts = config.expert.stack(dim, config.n_experts)
        self.shared = None if config.shared is None else config.shared.build(dim, layer)

    def forward(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        x_SD = x_BTD.flatten(0, 1)
        routing = self.router(x_SD)
        y_SD: Tensor = self.experts(x_SD, routing.expert_SK, routing.weight_SK)
        if self.shared is not None:
            y_SD = y_SD + self.shared.mix(x_SD)
        if self.training:
            text_S = layout.is_text().flatten()
            self.router.load += routing.load(text_S)
            terms = router_terms(routing, layout, self.config.n_disciplines)
            y_SD = ATTACH(y_SD, weighted(terms, self.losses) / self.passes)
            self.terms = {name: term.detach() / text_S.sum().clamp(min=1) for name, term in terms.items()}
        return y_SD.view_as(x_BTD)


def router_terms(routing: Routing, layout: Layout, n_disciplines: int) -> dict[str, Tensor]:
    """What the router's losses measure, each summed over the tokens that are text."""
    label_S, text_S = layout.label_BT.flatten(), layout.is_text().flatten()
    log_mass_SC = (routing.mass(n_disciplines) + TINY).log()
    known_S = label_S != GENERAL
    nll_S = -log_mass_SC.gather(-1, label_S.clamp(min=0)[:, None])[:, 0]
    kl_S = -log_mass_SC.mean(dim=-1) - math.log(n_disciplines)
    return {
        "balance": balance(routing, layout.is_text()),
        "z": (routing.logit_SE.logsumexp(dim=-1).square() * text_S).sum(),
        "label": (nll_S * (known_S & text_S)).sum(),
        "general": (kl_S * (~known_S & text_S)).sum(),
    }


def balance(routing: Routing, text_BT: Tensor) -> Tensor:
    """sum_i f_i P_i per sequence, times its tokens: f_i the share of choices that fell on expert i, times E."""
    probability_BTE = routing.probability_SE.unflatten(0, text_BT.shape) * text_BT[..., None]
    n_experts, top_k = probability_BTE.shape[-1], routing.expert_SK.shape[-1]
    choice_BX = routing.expert_SK.view(len(text_BT), -1)
    count_BE = probability_BTE.new_zeros(len(text_BT), n_experts)
    count_BE.scatter_add_(1, choice_BX, text_BT.repeat_interleave(top_k, dim=1).type_as(count_BE))
    n_tokens_B1 = text_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return (count_BE * probability_BTE.sum(dim=1) * n_experts / (top_k * n_tokens_B1)).sum()


def weighted(terms: dict[str, Tensor], losses: RouterLosses) -> Tensor:
    """The terms times their weights, summed."""
    weights = {"balance": losses.balance, "z": losses.z, "label": losses.label, "general": losses.general}
    return sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))


class AttachLoss(torch.autograd.Function):
    """Pass `x` through and let `loss` join the backward pass where it was born."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.new_ones((), dtype=torch.float32)


# A compiled graph would drop a gradient that comes from nowhere.
ATTACH: Callable[[Tensor, Tensor], Tensor] = torch.compiler.disable(AttachLoss.apply)
