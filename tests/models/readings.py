"""Ways to have a thinking decoder read the same text, which must come to the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.layers import GENERAL, PADDING, LayerNormConfig, Layout
from innovator.models.memory import Memories, Memory
from innovator.models.moe import MoEConfig, SoftmaxRouter
from innovator.models.thinking import Effort, Moment, PlainConfig, Reading, Thought
from innovator.models.ways import ThinkingConfig

Draw = Callable[[DecoderConfig, str], Decoder]
EXACT = {"rtol": 0.0, "atol": 1e-10}  # in fp64, of numbers around one, whose sums have another order


def some_tokens(*shape: int, seed: int = 2) -> Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def exact(config: DecoderConfig) -> DecoderConfig:
    """The same model, but without the parts that compute in fp32 whatever a model's type."""
    ffn = replace(config.ffn, router=SoftmaxRouter()) if isinstance(config.ffn, MoEConfig) else config.ffn
    return replace(config, ffn=ffn, norm=LayerNormConfig())


def mixing_over_depth(config: DecoderConfig) -> DecoderConfig:
    """The same model with a third layer, whose values are mixed with those of the layers below."""
    return replace(config, n_layers=3, attention=replace(config.attention, depth=DepthAttention(stride=1)))


def thinker(draw: Draw, config: DecoderConfig, thinking: ThinkingConfig) -> Decoder:
    return draw(replace(config, thinking=thinking), "thinker").double()


def plain(model: Decoder) -> Decoder:
    """The decoder of the same weights that only reads."""
    reader = Decoder(replace(model.config, thinking=PlainConfig())).double().eval()
    state = model.state_dict()
    reader.load_state_dict({name: state[name] for name in reader.state_dict()})
    return reader


def only(layout: Layout, some: slice) -> Layout:
    return Layout(layout.position_BT[:, some], layout.document_BT[:, some], layout.label_BT[:, some])


def packed(lengths: tuple[int, ...]) -> Layout:
    """Documents of these lengths, one behind the other in one row."""
    position_BT = torch.cat([torch.arange(length) for length in lengths])[None]
    document_BT = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    return Layout(position_BT, document_BT, torch.full_like(document_BT, GENERAL))


def left_padded(tokens_BT: Tensor, n_slots: int) -> tuple[Tensor, Layout]:
    """The same rows behind so many slots that hold nothing."""
    layout = Layout.of(tokens_BT)
    empty_BT = torch.zeros(len(tokens_BT), n_slots, dtype=torch.long)
    before = Layout(empty_BT, torch.full_like(empty_BT, PADDING), torch.full_like(empty_BT, GENERAL))
    return torch.cat([empty_BT, tokens_BT], dim=1), before.then(layout)


@torch.no_grad()
def in_goes(model: Decoder, tokens_BT: Tensor, layout: Layout, sizes: Iterable[int]) -> tuple[Tensor, Memories]:
    """What the head reads if a text is read in goes of these sizes, and what is remembered at the end."""
    memories: Memories = ()
    h, start = [], 0
    for size in sizes:
        some = slice(start, start + size)
        thought = model.read(tokens_BT[:, some], only(layout, some), memories)
        memories, start = thought.memories, start + size
        h.append(thought.h_BTD)
    return torch.cat(h, dim=1), memories


class Counting:
    """A reader that notes of each pass how many slots it is given, how many hold something, and what they look at."""

    def __init__(self, decoder: Decoder, *, in_step: bool = True) -> None:
        self.decoder, self.in_step = decoder, in_step
        self.n_slots: list[int] = []
        self.n_held: list[int] = []
        self.n_seen: list[int] = []

    def read_once(self, x_BTD: Tensor, layout: Layout, past: Memory | None, *, remember: bool) -> Reading:
        self.n_slots.append(layout.position_BT.numel())
        self.n_held.append(int(layout.is_text().sum()))
        self.n_seen.append(int(layout.sees(layout if past is None else past.layout.then(layout)).sum()))
        return self.decoder.read_once(x_BTD, layout, past, remember=remember)

    @property
    def embedding_VD(self) -> Tensor:
        return self.decoder.embedding_VD

    @property
    def embed_scale(self) -> float:
        return self.decoder.embed_scale

    @property
    def head_VD(self) -> Tensor:
        return self.decoder.head_VD

    def think(self, tokens_BT: Tensor, layout: Layout | None = None, past: Memories | None = None) -> Thought:
        """The decoder's own way of thinking, through this reader."""
        x_BTD = self.decoder.embedded(tokens_BT)
        thought: Thought = self.decoder.thinking(self, x_BTD, layout or Layout.of(tokens_BT), past, Moment())
        return thought


@torch.no_grad()
def effort(model: Decoder, n_tokens: int) -> Effort:
    """What thinking is seen to cost, against a decoder that only reads; thinking of tokens that all go on."""
    tokens_BT = some_tokens(1, n_tokens)
    at_once, one_more = Counting(model), Counting(model)
    at_once.think(tokens_BT)
    begun = model.read(tokens_BT[:, :-1], Layout.of(tokens_BT[:, :-1]), ())
    last = only(Layout.of(tokens_BT), slice(-1, None))
    memories = one_more.think(tokens_BT[:, -1:], last, begun.memories).memories
    return Effort(
        training_passes=sum(at_once.n_slots) / n_tokens,
        training_attended=sum(at_once.n_seen) / sum(range(n_tokens + 1)),
        speaking_passes=sum(one_more.n_slots),
        speaking_attended=sum(one_more.n_seen) / n_tokens,
        kept=sum(int(memory.layout.is_text().sum()) for memory in memories) / n_tokens,
    )
