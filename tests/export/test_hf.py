"""transformers reads our own architecture, and says and learns what our decoder does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hf_models import KINDS, write_own
from torch import Tensor
from transformers.dynamic_module_utils import get_relative_imports

import innovator.models
from innovator.models.decoder import IGNORE, Decoder, DecoderConfig
from innovator.models.generate import generate
from innovator.models.hf import InnovatorConfig, InnovatorForCausalLM, read_spec
from innovator.models.layers import Layout
from innovator.weights.folder import Folder

Draw = Callable[[DecoderConfig, str], Decoder]
Write = Callable[[DecoderConfig, str], Folder]
MODELS = Path(innovator.models.__path__[0])
PROMPTS = [[5, 17, 3, 44, 9, 28, 31], [12, 7, 50], [33, 2, 19, 60, 8]]
N_NEW = 6


@pytest.fixture(params=KINDS)
def decoder(request: pytest.FixtureRequest, dense: DecoderConfig, mixture: DecoderConfig, draw: Draw) -> Decoder:
    return draw(KINDS[request.param](dense, mixture), request.param)


@pytest.fixture
def model(decoder: Decoder, tmp_path: Path) -> InnovatorForCausalLM:
    """The same decoder, as transformers loads it."""
    return load(write_own(decoder, tmp_path / "own"))


@pytest.fixture
def plain(mixture: DecoderConfig, draw: Draw) -> Decoder:
    """One decoder, for laws that do not depend on its kind."""
    return draw(mixture, "plain")


@pytest.fixture
def plain_model(plain: Decoder, tmp_path: Path) -> InnovatorForCausalLM:
    return load(write_own(plain, tmp_path / "own"))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> InnovatorForCausalLM:
    return InnovatorForCausalLM.from_pretrained(folder, dtype=dtype)


def tokens(n_rows: int, n_slots: int) -> Tensor:
    return torch.randint(61, (n_rows, n_slots), generator=torch.Generator().manual_seed(n_slots))


def left_padded() -> dict[str, Tensor]:
    """The prompts flush right, padded with a token that also stands in the texts."""
    longest = max(map(len, PROMPTS))
    rows = [[17] * (longest - len(prompt)) + prompt for prompt in PROMPTS]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def new_tokens(model: InnovatorForCausalLM, **options: object) -> list[list[int]]:
    settings = {"do_sample": False, "max_new_tokens": N_NEW, **options}
    return model.generate(**left_padded(), **settings)[:, -N_NEW:].tolist()


def test_every_spec_survives_json(decoder: Decoder) -> None:
    assert read_spec(DecoderConfig, json.loads(json.dumps(asdict(decoder.config)))) == decoder.config


def test_an_unknown_kind_is_named(dense: DecoderConfig) -> None:
    damaged = {**asdict(dense), "norm": {"kind": "batch"}}
    with pytest.raises(ValueError, match="'batch'"):
        read_spec(DecoderConfig, damaged)


def test_a_config_that_describes_no_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder"):
        InnovatorForCausalLM(InnovatorConfig(vocab_size=61))


def test_logits_are_the_decoders(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(3, 11)
    assert torch.equal(model(tokens_BT).logits, decoder(tokens_BT))


def test_greedy_continuations_of_a_padded_batch_are_our_own(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    assert new_tokens(model) == generate(decoder, PROMPTS, N_NEW)


def test_the_cache_changes_no_token(model: InnovatorForCausalLM) -> None:
    assert new_tokens(model) == new_tokens(model, use_cache=False) == new_tokens(model, prefill_chunk_size=3)


def test_beams_carry_the_scores_of_what_they_say(model: InnovatorForCausalLM) -> None:
    inputs = left_padded()
    spoken = model.generate(
        **inputs,
        num_beams=4,
        do_sample=False,
        max_new_tokens=N_NEW,
        length_penalty=0.0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    mask_BT = F.pad(inputs["attention_mask"], (0, N_NEW), value=1)
    log_p_BTV = model(spoken.sequences, attention_mask=mask_BT).logits.log_softmax(-1)[:, -N_NEW - 1 : -1]
    score_B = log_p_BTV.gather(-1, spoken.sequences[:, -N_NEW:, None]).sum((1, 2))
    # The same sums, added up in another order in fp32.
    assert torch.allclose(spoken.sequences_scores, score_B, atol=1e-4)


def test_samples_are_drawn_from_the_same_numbers_with_and_without_cache(plain_model: InnovatorForCausalLM) -> None:
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        drawn.append(new_tokens(plain_model, do_sample=True, temperature=2.0, use_cache=use_cache))
    assert drawn[0] == drawn[1] != new_tokens(plain_model)


def test_reading_in_pieces_is_reading_at_once(model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 9)
    past, logits = None, []
    for piece_BT in tokens_BT.split([4, 3, 1, 1], dim=1):
        read = model(piece_BT, past_key_values=past, use_cache=True)
        past, logits = read.past_key_values, [*logits, read.logits]
    # Products of other shapes round differently in fp32.
    assert torch.allclose(torch.cat(logits, 1), model(tokens_BT).logits, atol=1e-5)


def test_padding_on_the_right_changes_nothing_before_it(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    tokens_BT, mask_BT = tokens(2, 10), torch.ones(2, 10, dtype=torch.long)
    mask_BT[1, 6:] = 0
    padded = model(tokens_BT, attention_mask=mask_BT).logits
    assert torch.allclose(padded[0], decoder(tokens_BT)[0], atol=1e-5)
    assert torch.allclose(padded[1, :6], decoder(tokens_BT[1:, :6])[0], atol=1e-5)
    assert torch.allclose(model(tokens_BT).logits[1, :6], padded[1, :6], atol=1e-5)


def test_a_gap_in_the_mask_is_not_there(plain: Decoder, plain_model: InnovatorForCausalLM) -> None:
    tokens_1T, mask_1T = tokens(1, 10), torch.ones(1, 10, dtype=torch.long)
    mask_1T[0, 3:5] = 0
    position_1T = torch.tensor([[0, 1, 2, 0, 0, 3, 4, 5, 6, 7]])
    text_1T = torch.cat([tokens_1T[:, :3], tokens_1T[:, 5:]], dim=1)
    for positions in (None, position_1T):
        logits = plain_model(tokens_1T, attention_mask=mask_1T, position_ids=positions).logits
        assert torch.allclose(logits[:, 5:], plain(text_1T)[:, 3:], atol=1e-5)


def test_what_is_read_is_remembered_unless_somebody_learns(plain_model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 7)
    assert plain_model(tokens_BT).past_key_values.get_seq_length() == 7
    assert plain_model.train()(tokens_BT).past_key_values is None
    plain_model.eval().config.use_cache = False
    assert plain_model(tokens_BT).past_key_values is None


def test_packed_documents_do_not_see_each_other(plain: Decoder, plain_model: InnovatorForCausalLM) -> None:
    tokens_1T, position_1T = tokens(1, 9), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    logits = plain_model(tokens_1T, position_ids=position_1T).logits
    alone = torch.cat([plain(tokens_1T[:, :4]), plain(tokens_1T[:, 4:])], dim=1)
    assert torch.allclose(logits, alone, atol=1e-5)


def test_a_mask_that_forgets_the_past_is_refused(plain_model: InnovatorForCausalLM) -> None:
    past = plain_model(tokens(2, 5), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"\[2, 3\].*\[2, 8\]"):
        plain_model(tokens(2, 3), past_key_values=past, attention_mask=torch.ones(2, 3))


def test_a_cache_that_does_not_grow_is_refused(plain_model: InnovatorForCausalLM) -> None:
    with pytest.raises(ValueError, match="static cache"):
        new_tokens(plain_model, cache_implementation="static")


def test_only_the_logits_asked_for_are_made(plain: Decoder, plain_model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 7)
    logits = plain(tokens_BT)
    assert torch.allclose(plain_model(tokens_BT, logits_to_keep=2).logits, logits[:, -2:], atol=1e-6)
    assert torch.allclose(plain_model(tokens_BT, logits_to_keep=torch.tensor([1, 4])).logits, logits[:, [1, 4]])


def test_embedded_tokens_are_read_as_tokens(plain: Decoder, plain_model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 7)
    assert torch.equal(plain_model(inputs_embeds=plain.embed(tokens_BT)).logits, plain(tokens_BT))


def test_the_loss_and_its_gradients_are_the_decoders(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 9)
    label_BT = tokens_BT.clone()
    label_BT[0, 5:] = IGNORE
    target_BT = F.pad(label_BT[:, 1:], (0, 1), value=IGNORE)
    n_targets = (target_BT != IGNORE).sum()
    loss = decoder.train().loss(tokens_BT, target_BT, Layout.of(tokens_BT))
    read = model.train()(tokens_BT, labels=label_BT)
    assert read.loss.item() == pytest.approx(loss.item() / n_targets.item(), rel=1e-6)
    assert model(tokens_BT, labels=label_BT, num_items_in_batch=n_targets * 3).loss.item() == pytest.approx(
        loss.item() / n_targets.item() / 3, rel=1e-6
    )
    (loss / n_targets).backward()
    read.loss.backward()
    assert gradients(model.decoder).keys() == gradients(decoder).keys()
    for name, grad in gradients(decoder).items():
        assert torch.allclose(gradients(model.decoder)[name], grad, atol=1e-5), name


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_replayed_blocks_give_the_same_gradients(plain_model: InnovatorForCausalLM) -> None:
    tokens_BT = tokens(2, 9)
    plain_model.train()(tokens_BT, labels=tokens_BT).loss.backward()
    kept = gradients(plain_model)
    plain_model.zero_grad()
    plain_model.gradient_checkpointing_enable()
    calls = count_calls(plain_model.decoder.layers[0].ffn)
    read = plain_model(tokens_BT, labels=tokens_BT)
    read.loss.backward()
    assert len(calls) == 2
    assert read.past_key_values is None
    assert all(torch.equal(grad, kept[name]) for name, grad in gradients(plain_model).items())


def count_calls(module: torch.nn.Module) -> list[object]:
    calls: list[object] = []
    module.register_forward_pre_hook(lambda *call: calls.append(call))
    return calls


def test_what_is_saved_is_what_was_loaded(model: InnovatorForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved").state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_a_larger_vocabulary_is_saved_and_read(plain_model: InnovatorForCausalLM, tmp_path: Path) -> None:
    plain_model.resize_token_embeddings(70)
    plain_model.save_pretrained(tmp_path / "saved")
    tokens_BT = tokens(2, 7)
    assert torch.equal(load(tmp_path / "saved")(tokens_BT).logits, plain_model(tokens_BT).logits)


def test_half_precision_is_the_folders(mixture: DecoderConfig, write: Write, draw: Draw, tmp_path: Path) -> None:
    tokens_BT = tokens(2, 9)
    ours = write(mixture, "ours").load(torch.bfloat16)
    model = load(write_own(draw(mixture, "ours"), tmp_path / "own"), torch.bfloat16)
    router = model.decoder.layers[1].ffn.router
    assert (router.weight.dtype, router.selection_bias.dtype) == (torch.float32, torch.float32)
    assert torch.equal(router.selection_bias, draw(mixture, "ours").layers[1].ffn.router.selection_bias)
    assert model.decoder.embed.weight.dtype == torch.bfloat16
    assert torch.equal(model(tokens_BT).logits, ours(tokens_BT))


def test_head_and_embedding_are_one_matrix_only_if_tied(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == decoder.config.tied


def test_the_attention_that_torch_has_may_be_asked_for(plain: Decoder, tmp_path: Path) -> None:
    folder = write_own(plain, tmp_path / "own")
    model = InnovatorForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    assert torch.equal(model(tokens(2, 7)).logits, plain(tokens(2, 7)))
    with pytest.raises(ValueError, match="flex_attention"):
        InnovatorForCausalLM.from_pretrained(folder, attn_implementation="flex_attention")


def test_it_names_every_module_that_it_needs() -> None:
    """transformers 4 copies only what the file itself imports."""
    named, todo = set(), {"hf"}
    while todo := todo - named:
        named |= todo
        todo = {other for module in todo for other in get_relative_imports(MODELS / f"{module}.py")}
    assert named - {"hf"} == set(get_relative_imports(MODELS / "hf.py"))


def test_loading_leaves_no_number_undefined(model: InnovatorForCausalLM, tmp_path: Path) -> None:
    _, report = InnovatorForCausalLM.from_pretrained(tmp_path / "own", output_loading_info=True)
    assert not any(report.values())
    loads = [buffer for name, buffer in model.named_buffers() if name.endswith("router.load")]
    assert all(load.eq(0).all() for load in loads)


def test_a_fresh_model_knows_nothing_yet(decoder: Decoder, model: InnovatorForCausalLM) -> None:
    fresh = InnovatorForCausalLM(model.config).eval()
    tokens_BT = tokens(4, 12)
    # Weights of 0.02 give logits near zero: the loss of guessing evenly, but for a few hundredths of a nat.
    assert fresh(tokens_BT, labels=tokens_BT).loss.item() == pytest.approx(math.log(61), abs=0.1)
