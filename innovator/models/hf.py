"""The decoder as transformers sees it: ships beside exported weights, read with `trust_remote_code=True`.

Shape suffixes: B batch, T new slots, U slots seen by now (remembered and new), D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args, get_type_hints

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .attention import Keys
from .decoder import Decoder, DecoderConfig
from .experts import GELUExperts, SwiGLUExperts
from .generate import PADDING
from .layers import GENERAL, Layout
from .moe import Router
from .spec import Spec


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


@dataclass(frozen=True)
class CachedKeys:
    """One layer's keys in a cache of transformers, which grows by what is read after them."""

    cache: Cache
    layer: int

    def then(self, own: Keys) -> Keys:
        """The cached keys, and after them one's own."""
        return Keys(*self.cache.update(own.k_BGUH, own.v_BGUH, self.layer))


def layout_of(mask_BU: Tensor, position_BT: Tensor | None) -> Layout:
    """Where the slots seen by now stand: padding is a document of its own, text begins a document at position 0.

    The positions of the last slots may be given; those of text are otherwise counted.
    """
    is_text_BU = mask_BU.bool()
    position_BU = is_text_BU.cumsum(1) - 1
    if position_BT is not None:
        past_BU = position_BU[:, : -position_BT.shape[1]]
        position_BU = torch.cat([past_BU, position_BT.expand(len(mask_BU), -1)], dim=1)
    document_BU = ((position_BU == 0) & is_text_BU).cumsum(1)
    return Layout(position_BU, document_BU.where(is_text_BU, PADDING), torch.full_like(position_BU, GENERAL))


class InnovatorPreTrainedModel(PreTrainedModel):
    """What transformers must know of the decoder whether or not it has its head."""

    config_class = InnovatorConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _input_embed_layer = "embed"
    _keep_in_fp32_modules_strict = ["router"]  # noqa: RUF012
    _no_split_modules = ["Block", "ParallelBlock"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what no checkpoint holds; transformers makes a model without its numbers."""
        super()._init_weights(module)
        if isinstance(module, Router):
            for tensor in (module.weight, *module.buffers()):
                nn.init.zeros_(tensor)
        elif isinstance(module, SwiGLUExperts | GELUExperts):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.02)


class InnovatorModel(InnovatorPreTrainedModel):
    """A Decoder under its own names, which remembers in a cache of transformers and may replay its blocks."""

    _tied_weights_keys = {"unembed.weight": "embed.weight"}  # noqa: RUF012

    def __init__(self, config: InnovatorConfig) -> None:
        super().__init__(config)
        decoder = Decoder(config.spec())
        self.attention = decoder.config.attention
        self.embed, self.layers = decoder.embed, decoder.layers
        self.norm, self.unembed = decoder.norm, decoder.unembed
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> BaseModelOutputWithPast:
        x_BTD = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        remembers = self.config.use_cache and not self.training if use_cache is None else use_cache
        cache = DynamicCache(config=self.config) if remembers and past_key_values is None else past_key_values
        seen = layout_of(self._mask(x_BTD, attention_mask, cache), position_ids)
        return BaseModelOutputWithPast(last_hidden_state=self._read(x_BTD, seen, cache), past_key_values=cache)

    def _mask(self, x_BTD: Tensor, attention_mask: Tensor | None, cache: Cache | None) -> Tensor:
        if cache is not None and cache.is_compileable:
            raise ValueError("a static cache is not supported; one that grows, transformers' default, is")
        n_past = 0 if cache is None else cache.get_seq_length()
        shape = (x_BTD.shape[0], n_past + x_BTD.shape[1])
        if attention_mask is None:
            return torch.ones(shape, dtype=torch.bool, device=x_BTD.device)
        if attention_mask.shape != shape:
            raise ValueError(f"attention_mask is {list(attention_mask.shape)}, the slots seen by now are {list(shape)}")
        return attention_mask

    def _read(self, x_BTD: Tensor, seen: Layout, cache: Cache | None) -> Tensor:
        layout = seen.last(x_BTD.shape[1])
        sight = self.attention.sight(layout, seen, x_BTD.dtype)
        for layer, block in enumerate(self.layers):
            if cache is not None:
                x_BTD, _ = block(x_BTD, layout, sight, CachedKeys(cache, layer))
            elif self.gradient_checkpointing:
                x_BTD, _ = self._gradient_checkpointing_func(block, x_BTD, layout, sight)
            else:
                x_BTD, _ = block(x_BTD, layout, sight)
        return self.norm(x_BTD)


class InnovatorForCausalLM(InnovatorPreTrainedModel, GenerationMixin):
    """The language model: logits, their loss against labels, and transformers' ways to generate."""

    def __init__(self, config: InnovatorConfig) -> None:
        super().__init__(config)
        self.decoder = InnovatorModel(config)
        self.post_init()

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
        read = self.decoder(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.decoder.unembed(read.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTV, labels, vocab_size=logits_BTV.shape[-1], **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits_BTV, past_key_values=read.past_key_values)
