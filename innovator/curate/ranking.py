"""A causal language model with a head that gives a text one number, trained on pairs of which one is better.

The loss is Bradley and Terry's, weighted pair by pair, which is why the loop is here and not a library's: TRL's reward
trainer takes no weights. A folder that was trained is a sequence classifier with one label to transformers.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from innovator.curate.alignment import Alignment, Grades, aligned
from innovator.curate.pairs import Pair, Pairs
from innovator.say import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_PIECES = 4
SHARE_OF_WARM_UP = 0.05
LARGEST_NORM = 1.0
GRADED_AT_ONCE = 16


@dataclass(frozen=True)
class Ranker:
    """The model, its tokenizer, and how many tokens it reads at once."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    @classmethod
    def open(cls, folder: Path, max_tokens: int, seed: int = 0) -> Ranker:
        """A causal language model's folder, whose head is drawn by the seed, or one that was trained and saved.

        ValueError if there is none, or transformers has no such head for its family.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # here because it takes seconds
        from transformers.utils import logging

        logging.set_verbosity_error()  # it would warn that the head is new
        logging.disable_progress_bar()
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no model: there is no config.json")
        with _seeded(seed):
            try:
                model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
            except (KeyError, ValueError) as error:
                raise ValueError(f"transformers cannot put a ranking head on {folder}: {error}") from error
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        return cls(model.to(_device()), tokenizer, min(max_tokens, model.config.max_position_embeddings))

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder, whole or not at all."""
        draft = folder.with_name(f"{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        self.model.save_pretrained(draft)
        self.tokenizer.save_pretrained(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)

    def grade(self, texts: Sequence[str]) -> Grades:
        """The mean grade of the pieces of a text: all that it has, or a few at equal distances if it is long."""
        pieces = [(number, piece) for number, text in enumerate(texts) for piece in self._pieces(text)]
        pieces.sort(key=lambda one: len(one[1]))
        sums, counts = np.zeros(len(texts)), np.zeros(len(texts))
        self.model.eval()
        for start in range(0, len(pieces), GRADED_AT_ONCE):
            batch = pieces[start : start + GRADED_AT_ONCE]
            with torch.inference_mode():
                grades = self.scores([piece for _, piece in batch]).tolist()
            for (number, _), grade in zip(batch, grades, strict=True):
                sums[number] += grade
                counts[number] += 1
        return sums / counts

    def tokens(self, text: str) -> list[int]:
        """The text in tokens, as many as it has; at least one."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return ids or [self.tokenizer.eos_token_id]

    def scores(self, ids: Sequence[list[int]]) -> Tensor:
        """One number for each row of tokens."""
        longest = max(map(len, ids))
        pad = self.tokenizer.pad_token_id
        ids_BT = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids], device=self.model.device)
        mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=self.model.device)
        return self.model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, 0].float()

    def _pieces(self, text: str) -> Iterator[list[int]]:
        ids = self.tokens(text)
        n = min(MOST_PIECES, math.ceil(len(ids) / self.max_tokens))
        for start in np.linspace(0, max(len(ids) - self.max_tokens, 0), n).astype(int).tolist():
            yield ids[start : start + self.max_tokens]


@dataclass(frozen=True)
class Course:
    """How a ranker learns. batch: pairs in a step. until: the agreement at which it stops before `most_epochs`."""

    learning_rate: float
    batch: int
    most_epochs: int
    until: float
    seed: int

    def run(self, ranker: Ranker, pairs: Pairs) -> list[Alignment]:
        """Train in place; agreement with the held-out pairs after every epoch.

        Whether to stop is decided on the held-out pairs, so the last figure is a little flattered by the choice.
        """
        rows = {name: ranker.tokens(pairs.texts[name])[: ranker.max_tokens] for name in _names(pairs.train)}
        n_batches = math.ceil(len(pairs.train) / self.batch)
        optimizer = torch.optim.AdamW(ranker.model.parameters(), lr=self.learning_rate, weight_decay=0.0)
        n_warm = math.ceil(SHARE_OF_WARM_UP * n_batches * self.most_epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / n_warm))
        generator = torch.Generator().manual_seed(self.seed)
        history: list[Alignment] = []
        with progress("assessor", self.most_epochs * n_batches, "steps") as advance, _seeded(self.seed):
            while len(history) < self.most_epochs and not (history and history[-1].whole.value >= self.until):
                ranker.model.train()
                order = torch.randperm(len(pairs.train), generator=generator)
                for numbers in order.split(self.batch):
                    loss = _step(ranker, [pairs.train[number] for number in numbers], rows, optimizer)
                    schedule.step()
                    advance(1, loss=loss, **({"agreement": history[-1].whole.value} if history else {}))
                history.append(aligned(ranker, pairs.texts, pairs.held_out))
        return history


def _step(ranker: Ranker, pairs: Sequence[Pair], rows: dict[str, list[int]], optimizer: torch.optim.Optimizer) -> float:
    """Learn from some pairs; a text that is in several of them is read once."""
    names = _names(pairs)
    score_N = ranker.scores([rows[name] for name in names])
    place = {name: number for number, name in enumerate(names)}
    better, worse = (
        [place[name] for name in side] for side in zip(*((one.better, one.worse) for one in pairs), strict=True)
    )
    weight_P = torch.tensor([pair.weight for pair in pairs], device=score_N.device)
    lost_P = -torch.nn.functional.logsigmoid(score_N[better] - score_N[worse])
    loss = (weight_P * lost_P).sum() / weight_P.sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(ranker.model.parameters(), LARGEST_NORM)
    optimizer.step()
    return loss.item()


def _names(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(name for pair in pairs for name in (pair.better, pair.worse)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of layers that take no generator, such as new heads and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
