"""Ponderers, and what the equations make of a text, from all probabilities at once.

Shape suffixes: B batch, T tokens, D model, V vocabulary, K steps.
"""

from __future__ import annotations

import torch
from readings import Draw, some_tokens, thinker
from torch import Tensor

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import Layout
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig

Config = PonderLMConfig | AdaPonderLMConfig
N_TOKENS = 11
CLOSED = -1e3
TOP = PonderLMConfig(n_steps=2, top_k=5)
HALTING = AdaPonderLMConfig(n_steps=3, top_k=5, threshold=0.5)


@torch.no_grad()
def aimed(draw: Draw, config: DecoderConfig, way: Config) -> Decoder:
    """A thinker three tenths of whose tokens halt at each gate, if it has gates."""
    model = thinker(draw, config, way)
    tokens_BT = some_tokens(2, N_TOKENS)
    for step in range(way.n_steps if isinstance(way, AdaPonderLMConfig) else 0):
        thought = model.read(tokens_BT, Layout.of(tokens_BT))
        assert thought.onward_KBT is not None
        gate_N = thought.onward_KBT[step][thought.onward_KBT[step] > 0]
        model.get_parameter(f"thinking.gates.{step}.outer.bias").sub_(gate_N.logit().quantile(0.3))
    return model


def mean_input(model: Decoder, h_BTD: Tensor, top_k: int | None) -> Tensor:
    """What may follow, from all probabilities at once."""
    logit_BTV = h_BTD @ model.unembed.weight.T
    least_BT1 = logit_BTV.topk(top_k or model.config.vocab_size).values[..., -1:]
    p_BTV = logit_BTV.masked_fill(logit_BTV < least_BT1, -torch.inf).softmax(dim=-1)
    return p_BTV @ (model.embed.weight * model.config.embed_scale)


def stack(model: Decoder, x_BTD: Tensor) -> Tensor:
    """One causal pass."""
    layout = Layout.of(x_BTD[..., 0])
    return model.read_once(x_BTD, layout, None, remember=False).h_BTD


def pondered(model: Decoder, tokens_BT: Tensor, config: PonderLMConfig) -> Tensor:
    """Equations 3 to 7 of arXiv 2505.20674: E_s = E_0 + sum of T_i; or with one T only."""
    first_BTD = model.embed.weight[tokens_BT] * model.config.embed_scale
    first_BTD = first_BTD * (config.n_steps if config.multiply_first else 1)
    mixed: list[Tensor] = []
    for _ in range(config.n_steps):
        added = mixed if config.accumulate else mixed[-1:]
        mixed.append(mean_input(model, stack(model, sum(added, first_BTD)), config.top_k))
    return stack(model, sum(mixed if config.accumulate else mixed[-1:], first_BTD))


def bias_all(model: Decoder, bias: float) -> None:
    """Set what all gates tend to."""
    for name, parameter in model.named_parameters():
        if name.endswith("outer.bias"):
            torch.nn.init.constant_(parameter, bias)


def gradients(model: Decoder, h_BTD: Tensor) -> dict[str, Tensor]:
    """Of how well the text is predicted, in all parameters that have one."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    nats = -(h_BTD @ model.unembed.weight.T).log_softmax(dim=-1)[..., 7].sum()
    found = torch.autograd.grad(nats, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))
