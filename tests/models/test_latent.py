"""Thoughts come to what the papers' equations say, are taken as foreseen, and come into a model little by little."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from readings import EXACT, Counting, Draw, exact, in_goes, plain, some_tokens, thinker
from torch import Tensor

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.generate import generate
from innovator.models.latent import PonderLM2, PonderLM2Config, PonderLM3, PonderLM3Config
from innovator.models.layers import Layout
from innovator.models.memory import Memories
from innovator.models.thinking import Moment, Thought

Way = PonderLM2Config | PonderLM3Config
N_TOKENS = 6
# As many sweeps as the texts here have thoughts: nothing is approximate.
TWO = PonderLM2Config(n_thoughts=2, train_sweeps=(12,), eval_sweeps=12, feed_scale=0.7)
THREE = PonderLM3Config(n_thoughts=2, train_sweeps=(12,), eval_sweeps=12, feed_scale=0.7, prune=0.0)
PRUNED = replace(THREE, prune=0.3)


@pytest.fixture(params=["dense", "mixture"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return exact(request.getfixturevalue(request.param))


@pytest.fixture(params=[TWO, THREE], ids=lambda way: way.kind)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


class Slowly:
    """A dense decoder written out: one slot at a time, one head at a time, every key with its log mass."""

    def __init__(self, model: Decoder) -> None:
        self.model = model
        self.keys: list[list[tuple[Tensor, Tensor, Tensor | float]]] = [[] for _ in model.layers]

    def see(self, x_D: Tensor, position: int, log_mass: Tensor | float) -> Tensor:
        for block, keys in zip(self.model.layers, self.keys, strict=True):
            attn, y_D = block.attn, block.attn_norm(x_D)
            q_NH, k_GH, v_GH = (proj(y_D).view(-1, 6) for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
            keys.append((self.turned(k_GH, position), v_GH, log_mass))
            heads = [self.look(q_H, keys, head // 2) for head, q_H in enumerate(self.turned(q_NH, position))]
            x_D = x_D + attn.o_proj(torch.cat(heads))
            x_D = x_D + block.ffn.mix(block.ffn_norm(x_D))
        h_D: Tensor = self.model.norm(x_D)
        return h_D

    def look(self, q_H: Tensor, keys: list[tuple[Tensor, Tensor, Tensor | float]], group: int) -> Tensor:
        score_U = torch.stack([k_GH[group] @ q_H / 6**0.5 + log_mass for k_GH, _, log_mass in keys])
        return sum(p * v_GH[group] for p, (_, v_GH, _) in zip(score_U.softmax(0), keys, strict=True))

    def turned(self, x_NH: Tensor, position: int) -> Tensor:
        frequency_P = self.model.config.attention.rope.frequencies(6, x_NH.device)
        angle_P = (torch.tensor(float(position)) * frequency_P).repeat(2)
        across_NH = torch.cat([-x_NH[:, 3:], x_NH[:, :3]], dim=1)
        return x_NH * angle_P.cos().double() + across_NH * angle_P.sin().double()


def in_turn(model: Decoder, tokens_T: Tensor, way: Way, prune: float = 0.0) -> Tensor:
    """What the head reads for each token, by the papers' equations."""
    slowly, said = Slowly(model), []
    for position, x_D in enumerate(model.embedded(tokens_T)):
        states = [slowly.see(x_D, position, 0.0)]
        mass_K = mass(model, states[0], way)
        for slot in range(1, way.n_thoughts + 1):
            if mass_K[slot] >= prune:
                states.append(slowly.see(states[-1] * way.feed_scale, position, mass_K[slot].log()))
        share = [mass_K[slot] - mass_K[slot + 1] for slot in range(len(states) - 1)]
        share.append(mass_K[len(states) - 1])
        said.append(sum(part * h_D for part, h_D in zip(share, states, strict=True)))
    return torch.stack(said)


def mass(model: Decoder, h_D: Tensor, way: Way) -> Tensor:
    """How likely a token takes each number of thoughts at least."""
    if isinstance(way, PonderLM2Config):
        return torch.ones(way.n_thoughts + 1, dtype=torch.float64)
    router = model.thinking.router
    share_K = (router.weight @ router.norm(h_D) + router.bias).softmax(0)
    return torch.stack([share_K[slot:].sum() for slot in range(way.n_thoughts + 1)])


@torch.no_grad()
def scored(model: Decoder, tokens_BT: Tensor) -> Tensor:
    """What the head reads if nothing is remembered."""
    return model.read(tokens_BT, Layout.of(tokens_BT)).h_BTD


def test_sweeps_come_to_what_slots_read_in_turn_come_to(dense: DecoderConfig, draw: Draw, way: Way) -> None:
    model, tokens_BT = thinker(draw, exact(dense), way), some_tokens(2, N_TOKENS)
    with torch.no_grad():
        expected_BTD = torch.stack([in_turn(model, tokens_T, way) for tokens_T in tokens_BT])
    torch.testing.assert_close(scored(model, tokens_BT), expected_BTD, **EXACT)


def test_what_is_learnt_in_sweeps_is_what_slots_in_turn_would_teach(dense: DecoderConfig, draw: Draw, way: Way) -> None:
    model, tokens_BT = thinker(draw, exact(dense), way), some_tokens(1, 4)
    readers = [parameter for name, parameter in model.named_parameters() if not name.startswith("unembed")]
    target_TD = torch.randn(4, 16, generator=torch.Generator().manual_seed(5)).double()
    thought = model.read(tokens_BT, Layout.of(tokens_BT), None, Moment(seed=1))
    slopes = torch.autograd.grad((thought.h_BTD[0] * target_TD).sum(), readers)
    expected = torch.autograd.grad((in_turn(model, tokens_BT[0], way) * target_TD).sum(), readers)
    for slope, true in zip(slopes, expected, strict=True):
        assert true.abs().max() > 1e-4
        # The norm before the router computes in fp32.
        torch.testing.assert_close(slope, true, rtol=0, atol=1e-6 * float(true.abs().max()))


@torch.no_grad()
def test_pruned_slots_are_as_if_they_had_never_been(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = thinker(draw, exact(dense), PRUNED), some_tokens(2, N_TOKENS)
    expected_BTD = torch.stack([in_turn(model, tokens_T, PRUNED, PRUNED.prune) for tokens_T in tokens_BT])
    h_BTD, _ = in_goes(model, tokens_BT, Layout.of(tokens_BT), [1] * N_TOKENS)
    torch.testing.assert_close(h_BTD, expected_BTD, **EXACT)
    assert (scored(model, tokens_BT) - expected_BTD).abs().max() > 1e-2


@torch.no_grad()
def test_pruning_changes_about_as_much_as_it_takes(config: DecoderConfig, draw: Draw) -> None:
    tokens_BT, errors = some_tokens(2, N_TOKENS), []
    for prune in (0.0, 1e-5, 1e-4, 1e-3):
        model = thinker(draw, config, replace(THREE, prune=prune))
        model.get_parameter("thinking.router.weight").mul_(4)  # some thoughts are hardly ever taken
        soft_BTD, layout = scored(model, tokens_BT), Layout.of(tokens_BT)
        hard = [in_goes(model, tokens_BT, layout, goes)[0] for goes in ([1] * N_TOKENS, [N_TOKENS])]
        errors.append(max(float((h_BTD - soft_BTD).abs().max()) for h_BTD in hard))
        assert errors[-1] <= 20 * prune + 1e-10
    assert errors == sorted(errors) and errors[-1] > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("past", [None, ()], ids=["scored", "remembered"])
@pytest.mark.parametrize("n_tokens", [1, N_TOKENS])
@pytest.mark.parametrize("way", [TWO, THREE, PRUNED], ids=["ponderlm-2", "ponderlm-3", "pruned"])
def test_thoughts_come_in_from_nothing(
    config: DecoderConfig, draw: Draw, way: Way, past: Memories | None, n_tokens: int
) -> None:
    model, tokens_BT = thinker(draw, config, replace(way, gain_warmup=0.5)), some_tokens(2, n_tokens)
    plain_BTD = scored(plain(model), tokens_BT)

    def distance(done: float) -> float:
        thought = model.read(tokens_BT, Layout.of(tokens_BT), past, Moment(done=done))
        return float((thought.h_BTD - plain_BTD).abs().max())

    assert distance(0.0) < 1e-10
    assert distance(1e-8) < 1e-3 < distance(0.4)
    assert distance(0.499) != distance(0.5) == distance(1.0)


@torch.no_grad()
def test_a_token_that_foresees_no_thought_takes_none(config: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = thinker(draw, config, THREE), some_tokens(2, N_TOKENS)
    model.get_parameter("thinking.router.bias")[0] = 1e4
    torch.testing.assert_close(scored(model, tokens_BT), scored(plain(model), tokens_BT), **EXACT)


@torch.no_grad()
def test_passes_and_thoughts_are_counted(dense: DecoderConfig, draw: Draw) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    layout = Layout.of(tokens_BT)
    twice, model = thinker(draw, exact(dense), TWO), thinker(draw, exact(dense), PRUNED)
    assert (twice.read(tokens_BT, layout).passes_BT == 3).all()
    assert twice.read(tokens_BT, layout).onward_KBT is None
    for thought in (model.read(tokens_BT, layout), model.read(tokens_BT, layout, ())):
        assert thought.onward_KBT is not None
        assert torch.equal(thought.passes_BT, 1 + (thought.onward_KBT >= PRUNED.prune).sum(dim=0))
        assert thought.passes_BT.min() < thought.passes_BT.max()


@torch.no_grad()
def test_of_a_scored_text_the_passes_are_counted_that_speaking_takes(dense: DecoderConfig, draw: Draw) -> None:
    """Of its first token, to which it does not matter what others drop."""
    model, tokens_BT = thinker(draw, exact(dense), PRUNED), some_tokens(16, N_TOKENS)
    reader, found = Counting(model, in_step=False), set()
    for row_1T in tokens_BT.split(1):
        reader.n_slots.clear()
        reader.think(row_1T[:, :1], past=())
        assert model.read(row_1T, Layout.of(row_1T)).passes_BT[0, 0] == len(reader.n_slots)
        found.add(len(reader.n_slots))
    assert len(found) > 1


@torch.no_grad()
def test_alone_a_token_that_takes_no_thought_is_read_once(dense: DecoderConfig, draw: Draw) -> None:
    """Where processes read in step there are as many passes as ever, and the same comes of it."""
    model = thinker(draw, exact(dense), PRUNED)
    model.get_parameter("thinking.router.bias")[0] = 1e4
    token_B1 = some_tokens(3, 1)
    alone, in_step = Counting(model, in_step=False), Counting(model, in_step=True)
    said = [reader.think(token_B1, past=()) for reader in (alone, in_step)]
    torch.testing.assert_close(said[0].h_BTD, said[1].h_BTD, **EXACT)
    assert (alone.n_slots, in_step.n_slots) == ([3], [3, 3, 3])


def test_thoughts_are_paid_for_where_tokens_count() -> None:
    thinking = PonderLM3(4, PonderLM3Config(n_thoughts=2, penalty=0.5, penalty_warmup=0.2))
    onward_KBT = torch.tensor([[[1.0, 0.5, 0.25]], [[0.5, 0.25, 0.0]]])
    thought = Thought(torch.zeros(1, 3, 4), (), torch.ones(1, 3), onward_KBT)
    hit_BT, counts_BT = torch.ones(1, 3), torch.tensor([[True, False, True]])
    paid = [float(thinking.penalty(thought, hit_BT, counts_BT, Moment(done=done))) for done in (0.0, 0.1, 0.2, 1.0)]
    assert paid == pytest.approx([0.0, 0.4375, 0.875, 0.875])
    assert PonderLM2(PonderLM2Config()).penalty(thought, hit_BT, counts_BT, Moment()) == 0


@torch.no_grad()
@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_a_training_starts_with_more_thoughts_likelier(slope: float) -> None:
    thinking = PonderLM3(4, PonderLM3Config(n_thoughts=2, bias_slope=slope))
    before = {name: tensor.clone() for name, tensor in thinking.state_dict().items()}
    for parameter in thinking.parameters():
        parameter.fill_(0.7)
    thinking.reset(torch.Generator())
    assert all(torch.equal(tensor, before[name]) for name, tensor in thinking.state_dict().items())
    share_K = torch.tensor([0.0, slope, 2 * slope]).softmax(0)
    mass_BTK = thinking.router(torch.randn(1, 1, 4)).exp()
    torch.testing.assert_close(mass_BTK[0, 0], torch.stack([share_K[slot:].sum() for slot in range(3)]))


def test_half_precision_learns_and_speaks(mixture: DecoderConfig, draw: Draw, way: Way) -> None:
    model, tokens_BT = thinker(draw, mixture, way).bfloat16().train(), some_tokens(2, N_TOKENS)
    thought = model.read(tokens_BT, Layout.of(tokens_BT), None, Moment(seed=1))
    assert thought.h_BTD.dtype == torch.bfloat16
    assert thought.onward_KBT is None or thought.onward_KBT.dtype == torch.float32
    model.loss(tokens_BT, tokens_BT.roll(-1, 1), Layout.of(tokens_BT), Moment(seed=1)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0
    assert [len(row) for row in generate(model.eval(), [(7, 3, 50), (4,)], 4)] == [4, 4]


def test_effort_is_that_of_the_papers() -> None:
    one = PonderLM2Config().effort()
    assert (one.training_passes, one.speaking_passes, one.kept) == (8.0, 2.0, 2.0)
    assert (one.training_attended, one.speaking_attended) == (1 + 3.5 * 4, 4.0)
    assert PonderLM2Config(n_thoughts=2, train_sweeps=(3,)).effort().training_passes == 15
    assert PonderLM3Config(train_sweeps=(3,)).effort().training_passes == 22


def test_thinking_that_cannot_be_is_refused() -> None:
    for wrong, message in [
        ({"n_thoughts": -1}, "n_thoughts=-1 must be at least 0"),
        ({"train_sweeps": ()}, r"train_sweeps=\(\): give one number or more"),
        ({"train_sweeps": (2, -1)}, "none below 0"),
        ({"eval_sweeps": -1}, "eval_sweeps=-1 must be at least 0"),
        ({"feed_scale": 0.0}, "feed_scale=0.0 must be above 0"),
        ({"gain_warmup": 2.0}, "gain_warmup=2.0 is a share of the training"),
        ({"prune": 1.0}, "prune=1.0 is compared with probabilities"),
        ({"bias_slope": float("nan")}, "bias_slope=nan is not a finite number"),
        ({"penalty": -1.0}, "penalty=-1.0 must be at least 0"),
        ({"penalty_warmup": -0.1}, "penalty_warmup=-0.1 is a share of the training"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(PonderLM3Config(), **wrong)
