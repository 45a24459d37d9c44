"""The proof measures what it claims to, and does not pass what is not so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from innovator.models.decoder import DecoderConfig
from innovator.models.moe import RouterConfig, SigmoidRouter, SoftmaxRouter
from innovator.weights.folder import Folder, save_folder
from innovator.weights.proof import LayerProof, Proof, induction, prove
from innovator.weights.upcycle import Clustered, Random, TiedStart, UntiedStart, UpcycleSpec

Write = Callable[[DecoderConfig, str], Folder]
SIGMOID = SigmoidRouter(scale=2.5)
SPECS = (
    UpcycleSpec(n_parts=2, top_k=2, router=SIGMOID),
    UpcycleSpec(n_parts=4, top_k=8, router=SoftmaxRouter(), partition=Random(), shared=False),
    UpcycleSpec(n_parts=3, top_k=3, router=SIGMOID, partition=Clustered(), dense_layers=(0,)),
    UpcycleSpec(n_parts=2, top_k=4, router=SoftmaxRouter(normalized=False), start=TiedStart(std=0.0)),
)


def moved(base: Folder, changes: dict[str, Tensor], out: Path) -> Folder:
    """The base, some tensors changed by an addend."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in base.tensors():
            yield name, tensor + changes[name] if name in changes else tensor

    save_folder(out, base.config, tensors(), tokenizer=None)
    return Folder.open(out)


@pytest.mark.parametrize("kind", ["dense", "neox"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_tied_start_is_proved(request: pytest.FixtureRequest, write: Write, spec: UpcycleSpec, kind: str) -> None:
    config = request.getfixturevalue(kind)
    base, sources = write(config, "base"), [write(config, name) for name in ("physics", "biology")]
    proof = prove(base, sources, spec, seed=3)
    assert proof.passed
    assert [layer.layer for layer in proof.layers] == [0, 1]
    assert 0 < proof.logits_error <= 1e-5 and all(layer.parts_error <= 1e-5 for layer in proof.layers)


@pytest.mark.parametrize("router", [SIGMOID, SoftmaxRouter()], ids=str)
def test_an_untied_start_is_not(dense: DecoderConfig, write: Write, router: RouterConfig) -> None:
    base = write(dense, "base")
    spec = UpcycleSpec(n_parts=2, top_k=2, router=router, start=UntiedStart(std=0.3))
    proof = prove(base, [base, base], spec, seed=3)
    assert not proof.passed and proof.logits_error > 1e-3
    assert all(layer.parts_error <= 1e-5 for layer in proof.layers)  # the parts are right; they are not chosen together


def test_every_family_is_proved(stock: Path) -> None:
    base = Folder.open(stock)
    assert prove(base, [base, base], SPECS[0], seed=3).passed


def test_one_bad_layer_is_enough_to_fail() -> None:
    good, bad = LayerProof(0, parts_error=0.0), LayerProof(1, parts_error=2e-5)
    assert Proof((good,), logits_error=0.0).passed
    assert not Proof((good, bad), logits_error=0.0).passed
    assert not Proof((good,), logits_error=2e-5).passed
    assert not Proof((good,), logits_error=float("nan")).passed
    assert not Proof((LayerProof(0, parts_error=float("nan")),), logits_error=0.0).passed


def test_a_discipline_whose_teaching_diverged_is_not_proved(dense: DecoderConfig, write: Write, tmp_path: Path) -> None:
    base = write(dense, "base")
    diverged = moved(base, {"layers.0.ffn.up_proj.weight": torch.tensor(float("nan"))}, tmp_path / "diverged")
    assert not prove(base, [base, diverged], SPECS[0], seed=3).passed


def test_the_same_seed_gives_the_same_proof(dense: DecoderConfig, write: Write) -> None:
    base = write(dense, "base")
    one, same = (prove(base, [base, base], SPECS[0], seed=3) for _ in range(2))
    assert one == same


def test_induction_measures_how_far_each_discipline_moved_and_whereto(
    dense: DecoderConfig, write: Write, tmp_path: Path
) -> None:
    base = write(dense, "base")
    name = "layers.1.ffn.up_proj.weight"
    step = torch.zeros(24, 16)
    step[0, 0] = 0.5
    sources = {
        "physics": moved(base, {name: step}, tmp_path / "physics"),
        "biology": moved(base, {name: -2 * step}, tmp_path / "biology"),
        "chemistry": moved(base, {name: step.roll(1)}, tmp_path / "chemistry"),
        "history": base,
    }
    found = induction(base, sources, layer=1)
    parts = [base.tensor(f"layers.1.ffn.{part}_proj.weight") for part in ("gate", "up", "down")]
    size = float(torch.cat([part.flatten() for part in parts]).norm())
    shares = {"physics": 0.5 / size, "biology": 1.0 / size, "chemistry": 0.5 / size, "history": 0.0}
    assert found.layer == 1 and found.moved == pytest.approx(shares, rel=1e-4)
    expected = torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(torch.tensor(found.cosine), expected, rtol=0, atol=1e-5)
    assert set(induction(base, sources, layer=0).moved.values()) == {0.0}
