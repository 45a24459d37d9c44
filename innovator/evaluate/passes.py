"""How long a model thinks about each token of a text, and what speaking so would cost.

Shape suffixes: B rows, T tokens of a row, S = B*T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from innovator.data.mixture import Batch
from innovator.data.tokenizer import Tokenizer
from innovator.models.cost import Cost
from innovator.models.decoder import Decoder
from innovator.models.thinking import Thought

SHOWN = 200
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Passage:
    """The first tokens of a text, and how many passes each took before the next one was predicted."""

    tokens: Sequence[int]
    passes: Sequence[int]

    @classmethod
    def of(cls, batch: Batch, thought: Thought) -> Passage:
        """What rows begin with."""
        tokens_S, passes_S = batch.tokens_BT.flatten()[:SHOWN], thought.passes_BT.flatten()[:SHOWN]
        return cls(tokens_S.tolist(), passes_S.long().tolist())

    @property
    def varies(self) -> bool:
        """Whether some of these tokens were thought about longer than others."""
        return len(set(self.passes)) > 1

    def written(self, tokenizer: Tokenizer) -> dict[str, object]:
        """The passage as text, token by token."""
        return {"pieces": pieces(tokenizer, self.tokens), "passes": list(self.passes)}


@contextmanager
def overheard(model: Decoder) -> Iterator[list[Thought]]:
    """What the model thinks of the texts that it reads meanwhile."""
    heard: list[Thought] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], thought: Thought) -> None:
        heard.append(thought)

    hook = model.thinking.register_forward_hook(note)
    try:
        yield heard
    finally:
        hook.remove()


def pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text; a letter that several tokens make stands with the last of them."""
    found, begun = [], 0
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[begun:end])
        whole = not text.endswith(UNFINISHED)
        found.append(text if whole else "")
        begun = end if whole else begun
    return found


def effort_figures(passes: float, counts: Cost, passages: Mapping[str, Passage], weights: Path) -> dict[str, object]:
    """What speaking takes for each token, with as many passes as were counted; passages only where those vary."""
    varied = {name: passage for name, passage in passages.items() if passage.varies}
    tokenizer = Tokenizer.open(weights) if varied else None
    return {
        "passes": passes,
        "flops_per_token": counts.speaking(passes),
        "bytes_per_token": counts.memory(passes),
        "passages": {name: passage.written(tokenizer) for name, passage in varied.items() if tokenizer is not None},
    }
