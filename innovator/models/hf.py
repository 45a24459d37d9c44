"""The decoder as transformers sees it: ships beside exported weights, read with `trust_remote_code=True`.

Shape suffixes: B batch, T new tokens, U slots, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import get_args, get_type_hints

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel, initialization
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

# Some of these names are here only because transformers 4 copies no module that this file does not name.
from .attention import Keys
from .cores import OneByOne  # noqa: F401
from .decoder import Decoder, DecoderConfig
from .depth import DepthAttention  # noqa: F401
from .experts import GELUExperts, SwiGLUExperts
from .fused import FusedSwiGLU  # noqa: F401
from .going import Going  # noqa: F401
from .head import summed_cross_entropy  # noqa: F401
from .initial import Init  # noqa: F401
from .latent import PonderLM2  # noqa: F401
from .latent_cot import LatentCoT  # noqa: F401
from .layers import Layout
from .loops import Loop  # noqa: F401
from .memory import Memories
from .mix import expected_embedding  # noqa: F401
from .moe import Router
from .ponder import PonderLM  # noqa: F401
from .rows import Rows  # noqa: F401
from .seen import layout_after, rows_of_layout, rows_of_memory, without
from .slots import Slots  # noqa: F401
from .spec import Spec
from .thinking import Moment, PlainConfig, Thought
from .ways import ThinkingConfig  # noqa: F401


class InnovatorConfig(PretrainedConfig):
    """`config.json`: under `decoder` the fields of a DecoderConfig, beside it what transformers asks of any model."""

    model_type = "innovator"
    decoder: dict[str, object] | None = None
    vocab_size: int | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> InnovatorConfig:
        """This config; transformers would take the field `decoder` for another."""
        return self

    def spec(self) -> DecoderConfig:
        """What to build; transformers may have changed the size of the vocabulary."""
        spec = read_spec(DecoderConfig, self.decoder)
        if not isinstance(spec, DecoderConfig):
            raise ValueError("config.json: the field decoder, which describes the model, is missing")
        return replace(spec, vocab_size=self.vocab_size or spec.vocab_size)


def read_spec(hint: object, value: object) -> object:
    """The spec that was written as nested dictionaries; `hint` is its type, or a union told apart by `kind`."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, Mapping):
        return value
    kinds = [option for option in get_args(hint) or (hint,) if isinstance(option, type) and issubclass(option, Spec)]
    hints = [(kind, get_type_hints(kind)) for kind in kinds]
    for kind, fields in hints:
        if "kind" not in value or value["kind"] in get_args(fields["kind"]):
            return kind(**{name: read_spec(fields[name], item) for name, item in value.items()})
    raise ValueError(f"config.json: decoder: kind {value['kind']!r} is unknown")


class Remembered(DynamicLayer):
    """All that a decoder remembers, in the place of one layer of a cache of transformers.

    It is as long as the tokens that were read, each of which may own several slots. tokens: where they stand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memories: Memories = ()
        self.tokens: Layout | None = None

    def keep(self, memories: Memories, later: Layout) -> None:
        """Remember this in the place of all before, after the tokens `later` were read too."""
        self.memories = memories
        self.tokens = later if self.tokens is None else self.tokens.then(later)

    def get_seq_length(self) -> int:
        return 0 if self.tokens is None else self.tokens.position_BT.shape[1]

    def reset(self) -> None:
        self.memories, self.tokens = (), None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.tokens is not None:
            self.batch_select_indices(torch.arange(len(self.tokens.position_BT)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.tokens is not None:
            self.tokens = rows_of_layout(self.tokens, indices)
            self.memories = tuple(rows_of_memory(memory, indices) for memory in self.memories)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, whose number is given below 0: their slots hold nothing any more."""
        n_left = self.get_seq_length() - abs(tokens_to_remove)
        if self.tokens is None or n_left <= 0:
            self.reset()
        elif tokens_to_remove:
            gone = self.tokens.last(abs(tokens_to_remove))
            self.memories = tuple(replace(it, layout=without(it.layout, gone)) for it in self.memories)
            left_T = torch.arange(n_left, device=gone.position_BT.device)
            self.tokens = self.tokens.at(left_T.expand(len(gone.position_BT), -1))


def remembered(cache: Cache) -> Remembered:
    """What a cache holds of ours; an empty one begins to hold it."""
    for layer in cache.layers:
        if isinstance(layer, Remembered):
            return layer
    if not isinstance(cache, DynamicCache) or cache.offloading or cache.get_seq_length():
        raise ValueError(
            "a static cache is not supported, nor a quantized or offloaded one; transformers' default, which grows, is"
        )
    layer = Remembered()
    cache.layers = [layer]
    return layer


class InnovatorForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model: logits, their loss against labels, and transformers' ways to generate.

    Where it thinks it does so as after its training. A loss here is cross-entropy alone, without what thinking costs.
    """

    config_class = InnovatorConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _tied_weights_keys = {"decoder.unembed.weight": "decoder.embed.weight"}  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["ffn.router"]  # noqa: RUF012
    _skip_keys_device_placement = ["reader"]  # noqa: RUF012  accelerate would move a whole decoder

    def __init__(self, config: InnovatorConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config.spec())
        # Thinking puts head and embedding together with what the last block wrote: they must stand on one device.
        is_plain = isinstance(self.decoder.config.thinking, PlainConfig)
        self._no_split_modules = ["Block", "ParallelBlock"] if is_plain else ["Decoder"]
        self.gradient_checkpointing = False
        for block in self.decoder.layers:
            vars(block)["forward"] = partial(self._pass, block.forward)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.decoder.embed = value

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.unembed

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.decoder.unembed = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        x_BTD = self.decoder.embed(input_ids) if inputs_embeds is None else inputs_embeds
        remembers = self.config.use_cache and not self.training if use_cache is None else use_cache
        cache = DynamicCache() if remembers and past_key_values is None else past_key_values
        h_BTD = self._read(x_BTD * self.decoder.embed_scale, attention_mask, position_ids, cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.decoder.unembed(h_BTD[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTV, labels, vocab_size=logits_BTV.shape[-1], **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits_BTV, past_key_values=cache)

    def _read(self, x_BTD: Tensor, mask_BU: Tensor | None, position_BT: Tensor | None, cache: Cache | None) -> Tensor:
        """What the head reads; a cache goes on to hold what was remembered."""
        past = None if cache is None else remembered(cache)
        layout = layout_after(None if past is None else past.tokens, x_BTD, mask_BU, position_BT)
        memories = None if past is None else past.memories
        self.decoder.in_step = torch.distributed.is_available() and torch.distributed.is_initialized()
        thought: Thought = self.decoder.thinking(
            reader=self.decoder, x_BTD=x_BTD, layout=layout, past=memories, moment=Moment()
        )
        if past is not None:
            past.keep(thought.memories, layout)
        return thought.h_BTD

    def _pass(self, forward: Callable[..., tuple[Tensor, Keys]], *slots: object) -> tuple[Tensor, Keys]:
        """One block, which the backward pass computes again if that is asked for."""
        if not self.gradient_checkpointing:
            return forward(*slots)
        passed: tuple[Tensor, Keys] = self._gradient_checkpointing_func(forward, *slots)
        return passed

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what no checkpoint holds; transformers makes a model without its numbers."""
        super()._init_weights(module)
        if isinstance(module, Router):
            for tensor in (module.weight, *module.buffers()):
                nn.init.zeros_(tensor)
        elif isinstance(module, SwiGLUExperts | GELUExperts):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.02)
        for name, part in self.decoder.thinking.named_modules():
            if part is module:
                fresh = self.decoder.config.thinking.build(self.decoder.config.dim)
                fresh.reset(torch.default_generator)
                values = fresh.get_submodule(name).parameters(recurse=False)
                for own, value in zip(part.parameters(recurse=False), values, strict=True):
                    initialization.copy_(own, value)
