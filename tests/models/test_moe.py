"""The mixture computes what published mixtures compute, and its losses pull where their formulas say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import GENERAL, GELUConfig, Layout, SwiGLUConfig
from innovator.models.moe import (
    AttachLoss,
    MoE,
    MoEConfig,
    Router,
    RouterConfig,
    RouterLosses,
    Routing,
    SigmoidRouter,
    SoftmaxRouter,
    balance,
    router_terms,
    weighted,
)

B, T, E, K, C, D, F = 2, 5, 6, 2, 3, 16, 12
SHAPE = torch.Size((B, T))
ROUTERS = (SigmoidRouter(scale=2.5), SoftmaxRouter(), SoftmaxRouter(normalized=False, scale=2.0))
every_router = pytest.mark.parametrize("router", ROUTERS, ids=str)


def moe(router: RouterConfig) -> MoE:
    """One layer with large random weights, so that the choice of experts matters."""
    layer = MoE(D, config(router), layer=0)
    generator = torch.Generator().manual_seed(4)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return layer


def config(router: RouterConfig) -> MoEConfig:
    return MoEConfig(
        n_experts=E,
        n_disciplines=C,
        top_k=K,
        expert=SwiGLUConfig(hidden=F),
        shared=SwiGLUConfig(hidden=2 * F),
        dense=SwiGLUConfig(hidden=2 * F),
        router=router,
    )


def hidden_states(seed: int = 5) -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


def layout(labels: list[int]) -> Layout:
    """Rows of one document; one discipline per row."""
    tokens_BT = torch.zeros(SHAPE, dtype=torch.long)
    return replace(Layout.of(tokens_BT), label_BT=torch.tensor(labels)[:, None].expand(SHAPE))


def routing(probability_SE: Tensor, expert_SK: Tensor) -> Routing:
    return Routing(torch.ones_like(expert_SK).float(), expert_SK, probability_SE.log(), probability_SE)


def their_state(layer: MoE, shared: str, shared_factor: float) -> dict[str, Tensor]:
    """The layer's tensors under transformers' names, the shared expert's output multiplied by a factor."""
    assert layer.shared is not None
    state = {f"experts.{name}": tensor for name, tensor in layer.experts.state_dict().items()}
    state |= {f"{shared}.{name}": tensor for name, tensor in layer.shared.state_dict().items()}
    state[f"{shared}.down_proj.weight"] = state[f"{shared}.down_proj.weight"] * shared_factor
    return state | {"gate.weight": layer.router.weight}


@torch.no_grad()
def test_a_sigmoid_mixture_is_the_block_of_glm4_moe() -> None:
    from transformers.models.glm4_moe.configuration_glm4_moe import Glm4MoeConfig
    from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeMoE

    layer = moe(SigmoidRouter(scale=2.5)).eval()
    layer.router.selection_bias.copy_(torch.linspace(-0.4, 0.4, E))
    theirs = Glm4MoeMoE(
        Glm4MoeConfig(
            hidden_size=D,
            moe_intermediate_size=F,
            n_routed_experts=E,
            num_experts_per_tok=K,
            n_shared_experts=2,
            routed_scaling_factor=2.5,
            norm_topk_prob=True,
            n_group=1,
            topk_group=1,
        )
    )
    bias = {"gate.e_score_correction_bias": layer.router.selection_bias}
    theirs.load_state_dict(their_state(layer, "shared_experts", 1.0) | bias)
    x_BTD = hidden_states()
    torch.testing.assert_close(layer(x_BTD, layout([0, 1])), theirs(x_BTD), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("normalized", [True, False])
def test_a_softmax_mixture_is_the_block_of_qwen2_moe(normalized: bool) -> None:
    from transformers.models.qwen2_moe.configuration_qwen2_moe import Qwen2MoeConfig
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

    layer = moe(SoftmaxRouter(normalized=normalized)).eval()
    theirs = Qwen2MoeSparseMoeBlock(
        Qwen2MoeConfig(
            hidden_size=D,
            moe_intermediate_size=F,
            shared_expert_intermediate_size=2 * F,
            num_experts=E,
            num_experts_per_tok=K,
            norm_topk_prob=normalized,
        )
    )
    # Their shared expert has a gate, here sigmoid(0) = 1/2: twice the output undoes it.
    gate = {"shared_expert_gate.weight": torch.zeros(1, D)}
    theirs.load_state_dict(their_state(layer, "shared_expert", 2.0) | gate)
    x_BTD = hidden_states()
    torch.testing.assert_close(layer(x_BTD, layout([0, 1])), theirs(x_BTD), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_no_token_is_dropped_when_all_want_the_same_experts() -> None:
    layer = moe(SigmoidRouter()).eval()
    layer.router.selection_bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0, 0.0, 0.0]))
    x_BTD = hidden_states()
    together_BTD = layer(x_BTD, layout([0, 1]))
    alone_BTD = torch.stack([layer(x_TD[None], layout([0])) for x_TD in x_BTD.flatten(0, 1)[:, None]])
    torch.testing.assert_close(together_BTD.flatten(0, 1), alone_BTD.flatten(0, 2), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_routing_is_fp32_whatever_the_model_is() -> None:
    layer = moe(SigmoidRouter()).bfloat16()
    layer.router.float()
    x_SD = hidden_states().flatten(0, 1).bfloat16()
    routed, wished = layer.router(x_SD), layer.router(x_SD.float())
    assert routed.weight_SK.dtype == routed.logit_SE.dtype == routed.probability_SE.dtype == torch.float32
    assert torch.equal(routed.weight_SK, wished.weight_SK)


def test_balance_is_one_per_token_when_routing_is_uniform() -> None:
    probability_SE = torch.full((6, E), 1 / E)
    expert_SK = torch.arange(6 * K).view(6, K) % E
    assert float(balance(routing(probability_SE, expert_SK), torch.ones(1, 6, dtype=torch.bool))) == pytest.approx(6.0)


def test_balance_is_dearer_when_routing_is_skewed() -> None:
    probability_SE = torch.tensor([0.4, 0.4, 0.05, 0.05, 0.05, 0.05]).expand(B * T, E)
    skewed = routing(probability_SE, torch.tensor([[0, 1]] * B * T))
    assert float(balance(skewed, torch.ones(SHAPE, dtype=torch.bool))) == pytest.approx(B * T * 0.8 * E / K)


@torch.no_grad()
def test_balance_is_its_formula() -> None:
    """DeepSeek-V2, equation 23: per sequence, sum over experts of f_i P_i, here times the sequence's tokens."""
    routed = moe(SigmoidRouter()).router(hidden_states().flatten(0, 1))
    probability_BTE, chosen_BTK = routed.probability_SE.view(B, T, E), routed.expert_SK.view(B, T, K)
    expected = 0.0
    for b in range(B):
        for expert in range(E):
            f = sum(expert in chosen_BTK[b, t].tolist() for t in range(T)) * E / (K * T)
            p = sum(float(probability_BTE[b, t, expert]) for t in range(T)) / T
            expected += f * p * T
    assert float(balance(routed, torch.ones(SHAPE, dtype=torch.bool))) == pytest.approx(expected, rel=1e-5)


@every_router
def test_label_and_general_terms_are_their_formulas(router: RouterConfig) -> None:
    routed = moe(router).router(hidden_states().flatten(0, 1))
    terms = router_terms(routed, layout([2, GENERAL]), C)
    mass_BTC = routed.probability_SE.view(B, T, C, E // C).sum(dim=-1)
    torch.testing.assert_close(mass_BTC.sum(dim=-1), torch.ones(SHAPE))
    torch.testing.assert_close(terms["label"], -mass_BTC[0, :, 2].log().sum())
    uniform = torch.full((T, C), 1 / C)
    kl = torch.nn.functional.kl_div(mass_BTC[1].log(), uniform, reduction="sum")
    torch.testing.assert_close(terms["general"], kl)
    torch.testing.assert_close(terms["z"], routed.logit_SE.exp().sum(dim=-1).log().square().sum())


def test_general_text_of_equal_mass_costs_nothing() -> None:
    uniform = routing(torch.full((B * T, E), 1 / E), torch.zeros(B * T, K, dtype=torch.long))
    terms = router_terms(uniform, layout([GENERAL, GENERAL]), C)
    assert float(terms["general"]) == pytest.approx(0.0, abs=1e-5) and float(terms["label"]) == 0.0
    assert float(router_terms(uniform, layout([0, 1]), C)["label"]) == pytest.approx(B * T * math.log(C))


@every_router
def test_following_the_label_loss_raises_the_labelled_mass(router: RouterConfig) -> None:
    layer, x_BTD = moe(router), hidden_states()
    layer.losses = RouterLosses(label=1.0)
    (0 * layer(x_BTD, layout([1, 1]))).sum().backward()
    slope_ED = layer.router.weight.grad
    assert slope_ED is not None
    before = layer.router(x_BTD.flatten(0, 1)).mass(C)[:, 1].mean()
    with torch.no_grad():
        layer.router.weight.sub_(slope_ED, alpha=0.01)
    assert layer.router(x_BTD.flatten(0, 1)).mass(C)[:, 1].mean() > before


def test_an_attached_loss_adds_its_gradient_and_nothing_else() -> None:
    x, w = (torch.tensor([1.0, -2.0, 3.0], requires_grad=True) for _ in range(2))
    y = AttachLoss.apply(3 * x, (w * x).sum())
    assert torch.equal(y, 3 * x)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, 3 + w)
    assert w.grad is not None and torch.equal(w.grad, x)


@every_router
def test_training_adds_exactly_the_weighted_losses(router: RouterConfig) -> None:
    losses = RouterLosses(balance=0.3, z=0.2, label=0.7, general=0.5)
    layer, x_BTD, where = moe(router), hidden_states(), layout([2, GENERAL])
    parameters = [layer.router.weight, layer.experts.down_proj, layer.experts.gate_up_proj]
    silent = torch.autograd.grad(layer.eval()(x_BTD, where).sum(), parameters)
    terms = router_terms(layer.router(x_BTD.flatten(0, 1)), where, C)
    (added_ED,) = torch.autograd.grad(weighted(terms, losses), parameters[:1])
    layer.losses = losses
    spoken = torch.autograd.grad(layer.train()(x_BTD, where).sum(), parameters)
    torch.testing.assert_close(spoken[0], silent[0] + added_ED)
    assert torch.equal(spoken[1], silent[1]) and torch.equal(spoken[2], silent[2])
    for name, term in terms.items():
        torch.testing.assert_close(layer.terms[name], term.detach() / (B * T))


@torch.no_grad()
def test_the_selection_bias_moves_towards_those_who_got_less() -> None:
    router = moe(SigmoidRouter(bias_rate=0.25)).router
    router.load.copy_(torch.tensor([0.0, 1.0, 2.0, 2.0, 3.0, 4.0]))
    router.rebalance()
    assert router.selection_bias.tolist() == [0.25, 0.25, 0.0, 0.0, -0.25, -0.25]
    router.rebalance()
    assert router.selection_bias.tolist() == [0.25, 0.25, 0.0, 0.0, -0.25, -0.25]  # that load is forgotten


@torch.no_grad()
def test_the_selection_bias_of_a_softmax_router_stays() -> None:
    router = moe(SoftmaxRouter()).router
    router.load.copy_(torch.arange(6.0))
    router.rebalance()
    assert router.selection_bias.tolist() == [0.0] * E


@torch.no_grad()
def test_the_load_counts_every_choice_made_in_training() -> None:
    layer = moe(SigmoidRouter()).train()
    for seed in (5, 6):
        layer(hidden_states(seed), layout([0, 1]))
    chosen = [layer.router(hidden_states(seed).flatten(0, 1)).expert_SK for seed in (5, 6)]
    assert layer.router.load.tolist() == torch.cat(chosen).flatten().bincount(minlength=E).tolist()
    layer.eval()(hidden_states(7), layout([0, 1]))
    assert layer.router.load.sum() == 2 * B * T * K


def test_every_part_of_a_mixture_with_biases_learns(
    neox: DecoderConfig, draw: Callable[[DecoderConfig, str], Decoder]
) -> None:
    expert, whole = GELUConfig(hidden=12), GELUConfig(hidden=24)
    ffn = MoEConfig(
        n_experts=4, n_disciplines=2, top_k=2, expert=expert, shared=whole, dense=whole, router=SigmoidRouter()
    )
    model = draw(replace(neox, ffn=ffn), "model").train()
    tokens_BT = torch.arange(60).view(2, 30)
    model.loss(tokens_BT, tokens_BT.roll(-1, dims=1), Layout.of(tokens_BT)).backward()
    still = [name for name, tensor in model.named_parameters() if tensor.grad is None or not tensor.grad.any()]
    assert still == []


def test_a_decoder_names_its_mixtures(mixture: DecoderConfig, draw: Callable[[DecoderConfig, str], Decoder]) -> None:
    model = draw(mixture, "model")
    assert model.mixtures() == [model.layers[1].ffn]


@pytest.mark.parametrize(
    ("top_k", "n_disciplines", "sentence"),
    [
        (7, C, "top_k=7 must lie in 1..n_experts=6"),
        (0, C, "top_k=0 must lie in 1..n_experts=6"),
        (K, 4, "6 experts do not divide into 4 disciplines"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(top_k: int, n_disciplines: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(config(SigmoidRouter()), top_k=top_k, n_disciplines=n_disciplines)


def test_tied_rows_stay_tied_whatever_gradient_they_get() -> None:
    config = MoEConfig(
        n_experts=6,
        n_disciplines=3,
        top_k=2,
        expert=SwiGLUConfig(hidden=4),
        shared=None,
        dense=SwiGLUConfig(hidden=8),
        router=SoftmaxRouter(),
    )
    router = Router(5, config)
    gradient_ED = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    mean_CD = gradient_ED.unflatten(0, (3, 2)).mean(dim=1)
    assert torch.equal(router.tied(gradient_ED), mean_CD.repeat_interleave(2, dim=0))
