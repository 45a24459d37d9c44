"""Splitting loses nothing, and a fresh mixture is the model it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from innovator.models.decoder import DecoderConfig
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.moe import RouterConfig, SigmoidRouter, SoftmaxRouter
from innovator.weights.ffn import FFN, GELUMatrices, SwiGLUMatrices, read_ffn, split_ffn
from innovator.weights.folder import Folder, save_folder
from innovator.weights.upcycle import (
    Clustered,
    Contiguous,
    Partition,
    Random,
    TiedStart,
    UntiedStart,
    UpcycleSpec,
    average,
    balanced_assignment,
    upcycle,
)

Write = Callable[[DecoderConfig, str], Folder]
N_SOURCES = 3
SIGMOID, NORMALIZED = SigmoidRouter(scale=2.5), SoftmaxRouter(scale=1.5)
STARTS: tuple[tuple[RouterConfig, TiedStart], ...] = (
    (SIGMOID, TiedStart(std=0.3)),
    (SIGMOID, TiedStart(std=0.0)),
    (NORMALIZED, TiedStart(std=0.3)),
    (NORMALIZED, TiedStart(std=0.0)),
    (SoftmaxRouter(normalized=False), TiedStart(std=0.0)),
)
PARTITIONS: tuple[Partition, ...] = (Contiguous(), Random(), Clustered())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(6)


def random_ffn(dim: int = 8, hidden: int = 24) -> SwiGLUMatrices:
    shapes = ((hidden, dim), (hidden, dim), (dim, hidden))
    g = generator()
    return SwiGLUMatrices(*(torch.randn(shape, generator=g) for shape in shapes))


def random_gelu(approximate: str, dim: int = 8, hidden: int = 24) -> GELUMatrices:
    shapes = ((hidden, dim), (hidden,), (dim, hidden), (dim,))
    g = generator()
    up_FD, up_F, down_DF, down_D = (torch.randn(shape, generator=g) for shape in shapes)
    return GELUMatrices(up_FD, up_F, down_DF, down_D, approximate)


every_ffn = pytest.mark.parametrize(
    "ffn", [random_ffn(), random_gelu("none"), random_gelu("tanh")], ids=["swiglu", "gelu", "gelu-tanh"]
)


def mixed(base: Folder, sources: list[Folder], spec: UpcycleSpec, out: Path) -> Folder:
    save_folder(out, spec.config(base.config, len(sources)), upcycle(base, sources, spec, seed=7), tokenizer=None)
    return Folder.open(out)


@torch.no_grad()
def logits(folder: Folder) -> Tensor:
    tokens_BT = torch.randint(61, (3, 20), generator=generator())
    logits_BTV: Tensor = folder.load().eval()(tokens_BT)
    return logits_BTV


def difference(folder: Folder, base: Folder) -> float:
    """The largest difference between two models' logits, relative to the largest logit."""
    truth = logits(base)
    return float((logits(folder) - truth).abs().max() / truth.abs().max())


@every_ffn
@pytest.mark.parametrize("n_parts", [1, 2, 6])
@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
def test_parts_sum_to_the_whole(ffn: FFN, partition: Partition, n_parts: int) -> None:
    x_SD = torch.randn(9, 8, generator=generator())
    parts = split_ffn(ffn, partition.order(ffn, n_parts, generator()), n_parts)
    torch.testing.assert_close(sum(part(x_SD) for part in parts), ffn(x_SD), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
def test_a_split_feed_forward_can_be_put_together_again(partition: Partition) -> None:
    ffn = random_ffn()
    order_F = partition.order(ffn, 4, generator())
    assert sorted(order_F.tolist()) == list(range(24))
    parts = list(split_ffn(ffn, order_F, 4))
    back_F = order_F.argsort()
    assert torch.equal(torch.cat([part.gate_FD for part in parts])[back_F], ffn.gate_FD)
    assert torch.equal(torch.cat([part.up_FD for part in parts])[back_F], ffn.up_FD)
    assert torch.equal(torch.cat([part.down_DF for part in parts], dim=1)[:, back_F], ffn.down_DF)


def test_a_bias_that_belongs_to_no_neuron_is_shared_by_the_parts() -> None:
    ffn = random_gelu("none")
    for part in split_ffn(ffn, torch.arange(24), 4):
        assert isinstance(part, GELUMatrices)
        torch.testing.assert_close(part.down_D, ffn.down_D / 4)


@every_ffn
def test_a_multiple_of_a_feed_forward_has_a_multiple_of_its_output(ffn: FFN) -> None:
    x_SD = torch.randn(9, 8, generator=generator())
    torch.testing.assert_close(ffn.times(0.4)(x_SD), 0.4 * ffn(x_SD))


def test_clustering_finds_neurons_that_look_alike() -> None:
    family_F = torch.arange(24) % 4
    direction_4D = 3 * torch.eye(8)[:4]
    noise_FD = 0.1 * torch.randn(24, 8, generator=generator())
    row_FD = direction_4D[family_F]
    ffn = replace(random_ffn(), gate_FD=row_FD + noise_FD, up_FD=row_FD - noise_FD)
    # k-means may begin with two neurons of one family; of ten beginnings, most are lucky.
    orders = [Clustered().order(ffn, 4, torch.Generator().manual_seed(seed)) for seed in range(10)]
    found = [all(len(part.unique()) == 1 for part in family_F[order_F].view(4, 6)) for order_F in orders]
    assert sum(found) >= 5


def test_clustering_of_biased_neurons_looks_at_their_biases_too() -> None:
    family_F = torch.arange(24) % 2
    noise_FD = 0.1 * torch.randn(24, 8, generator=generator())
    ffn = replace(random_gelu("none"), up_FD=noise_FD, up_F=4.0 * family_F - 2.0)
    order_F = Clustered().order(ffn, 2, generator())
    assert all(len(part.unique()) == 1 for part in family_F[order_F].view(2, 12))


def test_an_assignment_is_balanced_and_leaves_the_nearest_where_there_is_room() -> None:
    part_F = balanced_assignment(torch.rand(30, 5, generator=generator()))
    assert part_F.bincount(minlength=5).tolist() == [6] * 5
    distance_FM = torch.tensor([[0.0, 9.0], [0.1, 9.0], [0.2, 9.0], [9.0, 0.0]])
    assert balanced_assignment(distance_FM).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("n_parts", "doubled"), list(product([1, 2, 4], [False, True])))
@pytest.mark.parametrize(("router", "start"), STARTS, ids=str)
def test_a_fresh_mixture_is_the_dense_model(
    dense: DecoderConfig,
    write: Write,
    tmp_path: Path,
    router: RouterConfig,
    start: TiedStart,
    n_parts: int,
    doubled: bool,
) -> None:
    base = write(dense, "base")
    spec = UpcycleSpec(n_parts=n_parts, top_k=n_parts * (1 + doubled), router=router, start=start)
    # Only the order of fp32 sums may differ.
    assert difference(mixed(base, [base] * N_SOURCES, spec, tmp_path / "mixed"), base) <= 1e-5


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("router", "start"), STARTS[::2], ids=str)
def test_a_fresh_mixture_is_the_stock_model_that_it_was_made_from(
    stock: Path, tmp_path: Path, router: RouterConfig, start: TiedStart, shared: bool
) -> None:
    base = Folder.open(stock)
    spec = UpcycleSpec(n_parts=2, top_k=2, router=router, start=start, shared=shared, partition=Clustered())
    assert difference(mixed(base, [base] * N_SOURCES, spec, tmp_path / "mixed"), base) <= 1e-5


def test_a_mixture_remembers_the_family_it_came_from(stock: Path, tmp_path: Path) -> None:
    base = Folder.open(stock)
    facts = base.facts | {"max_position_embeddings": 77, "eos_token_id": [5, 6]}
    spec = UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID)
    config, tensors = spec.config(base.config, 1), upcycle(base, [base], spec, seed=7)
    save_folder(tmp_path / "mixed", config, tensors, tokenizer=None, facts=facts)
    fresh = Folder.open(tmp_path / "mixed")
    assert fresh.config == config and fresh.facts == facts
    save_folder(tmp_path / "taught", fresh.config, fresh.tensors(), tokenizer=None, facts=fresh.facts)
    assert Folder.open(tmp_path / "taught").facts == facts


@pytest.mark.parametrize("kind", ["dense", "neox"])
@pytest.mark.parametrize("dense_layers", [(0,), (0, 1)])
@pytest.mark.parametrize("shared", [True, False])
def test_layers_that_stay_dense_stay_and_the_shared_expert_may_be_left_out(
    request: pytest.FixtureRequest,
    write: Write,
    tmp_path: Path,
    shared: bool,
    dense_layers: tuple[int, ...],
    kind: str,
) -> None:
    base = write(request.getfixturevalue(kind), "base")
    spec = UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID, shared=shared, dense_layers=dense_layers)
    fresh = mixed(base, [base] * N_SOURCES, spec, tmp_path / "mixed")
    assert torch.equal(fresh.tensor("layers.0.ffn.up_proj.weight"), base.tensor("layers.0.ffn.up_proj.weight"))
    assert ("layers.1.ffn.shared.up_proj.weight" in fresh.shapes) == (shared and 1 not in dense_layers)
    assert difference(fresh, base) <= 1e-5


def test_a_tied_and_biased_model_is_kept_too(dense: DecoderConfig, write: Write, tmp_path: Path) -> None:
    base = write(replace(dense, tied=True, attention=replace(dense.attention, qkv_bias=True)), "base")
    spec = UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID)
    assert difference(mixed(base, [base] * N_SOURCES, spec, tmp_path / "mixed"), base) <= 1e-5


def test_an_untied_start_is_another_model(dense: DecoderConfig, write: Write, tmp_path: Path) -> None:
    base = write(dense, "base")
    spec = UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID, start=UntiedStart(std=0.3))
    assert difference(mixed(base, [base] * N_SOURCES, spec, tmp_path / "mixed"), base) > 1e-2


def test_each_discipline_s_experts_hold_what_it_was_taught(dense: DecoderConfig, write: Write, tmp_path: Path) -> None:
    base, sources = write(dense, "base"), [write(dense, name) for name in ("physics", "biology", "chemistry")]
    fresh = mixed(base, sources, UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID), tmp_path / "mixed")
    gate_up_EPD = fresh.tensor("layers.1.ffn.experts.gate_up_proj")
    for number, source in enumerate(sources):
        gate_FD, up_FD, _ = read_ffn(source, 1).tensors
        for half, rows in enumerate((slice(0, 12), slice(12, 24))):
            assert torch.equal(gate_up_EPD[2 * number + half], torch.cat([gate_FD[rows], up_FD[rows]]))
    assert torch.equal(fresh.tensor("layers.1.ffn.shared.up_proj.weight"), base.tensor("layers.1.ffn.up_proj.weight"))
    assert torch.equal(fresh.tensor("layers.1.attn.q_proj.weight"), base.tensor("layers.1.attn.q_proj.weight"))


def test_each_discipline_s_biases_are_its_own(neox: DecoderConfig, write: Write, tmp_path: Path) -> None:
    base, sources = write(neox, "base"), [write(neox, name) for name in ("physics", "biology", "chemistry")]
    spec = UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID)
    fresh = mixed(base, sources, spec, tmp_path / "mixed")
    up_EF, down_ED = (fresh.tensor(f"layers.1.ffn.experts.{part}_bias") for part in ("up", "down"))
    for number, source in enumerate(sources):
        assert torch.equal(up_EF[2 * number :][:2].flatten(), source.tensor("layers.1.ffn.up_proj.bias"))
        together_D = down_ED[2 * number :][:2].sum(dim=0) / spec.routed_factor(3)
        torch.testing.assert_close(together_D, source.tensor("layers.1.ffn.down_proj.bias"))


def test_averaging_is_the_mean(dense: DecoderConfig, write: Write) -> None:
    one, other = write(dense, "one"), write(dense, "other")
    name = "layers.0.attn.q_proj.weight"
    torch.testing.assert_close(average([one, other], name), (one.tensor(name) + other.tensor(name)) / 2)


def test_only_a_dense_model_can_be_upcycled(mixture: DecoderConfig) -> None:
    with pytest.raises(ValueError, match="the base is already a mixture"):
        UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID).config(mixture, N_SOURCES)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"thinking": LatentCoTConfig()},
            r"only a model that reads plainly can be proved to be its parts: it thinks \(latent-cot\)",
        ),
        ({"embed_scale": 2.0}, "its embedded tokens are multiplied by 2"),
    ],
)
def test_what_thinks_is_not_upcycled(dense: DecoderConfig, more: dict[str, object], sentence: str) -> None:
    """Its parts would be compared by single readings, which are not what it does."""
    with pytest.raises(ValueError, match=sentence):
        UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID).config(replace(dense, **more), N_SOURCES)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (UpcycleSpec(n_parts=5, top_k=5, router=SIGMOID), "hidden width 24 .* does not divide into n_parts=5"),
        (UpcycleSpec(n_parts=2, top_k=8, router=SIGMOID), "top_k=8 must lie in 1..n_experts=6"),
        (UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID, dense_layers=(1, 2)), r"dense_layers \[2\] do not exist"),
    ],
)
def test_a_split_that_does_not_fit_the_model_is_refused(dense: DecoderConfig, spec: UpcycleSpec, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        spec.config(dense, N_SOURCES)


def test_a_split_that_cannot_keep_the_function_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k=3 is not a multiple of n_parts=2"):
        UpcycleSpec(n_parts=2, top_k=3, router=SIGMOID)
    with pytest.raises(ValueError, match=r"keeps the function only from start.std = 0"):
        UpcycleSpec(n_parts=2, top_k=2, router=SoftmaxRouter(normalized=False), start=TiedStart(std=0.02))
