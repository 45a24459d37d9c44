"""How much memory a training step takes on each process, known before anything is launched.

What is counted, and where it comes from:
  weights, gradients, optimizer: fp32 master weights, and of what learns fp32 gradients and AdamW's two averages; all
    divided among the processes of a replica.
  gathered: what FSDP2 puts together to compute with: embedding and head for the whole step, the block at work and what
    is fetched next, and gradients until they are summed and divided again.
  activations: what autograd keeps of one micro-batch, and what the backward pass needs for a moment beside it
    (innovator/train/activations.py).
tests/train/test_memory.py compares all of it with the allocations of real training steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from innovator.engine.parallel import Engine
from innovator.train.activations import Activations
from innovator.train.lesson import FP32, Lesson


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on one process at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def footprint(lesson: Lesson, engine: Engine, n_processes: int) -> Footprint:
    """Memory of a step on each of `n_processes` that an engine spreads it over, at the worst of three moments."""
    activations, gathered = Activations(lesson, engine), Gathered(lesson, engine.experts)
    moments = (
        (gathered.at_head(), activations.at_head()),
        (gathered.at_block(), activations.at_block()),
        (gathered.at_earlier_block(), activations.at_block(n_done=1)),
    )
    return _worst(lesson, n_processes // engine.replicate, moments)


def alone(lesson: Lesson) -> Footprint:
    """Memory of a step on a process that is not one of several: nothing is gathered, gradients are added one by one."""
    activations = Activations(lesson, Engine(), added=lesson.width)
    return _worst(lesson, 1, ((0, activations.at_head()), (0, activations.at_block())))


def _worst(lesson: Lesson, n_shards: int, moments: tuple[tuple[int, int], ...]) -> Footprint:
    everything, trained = (
        sum(-(-lesson.sizes[name] // n_shards) for name in names) for names in (lesson.sizes, lesson.trained)
    )
    gathered, activations = max(moments, key=sum)
    return Footprint(
        weights=FP32 * everything,
        gradients=FP32 * trained,
        optimizer=2 * FP32 * trained,
        gathered=gathered,
        activations=activations,
    )


@dataclass(frozen=True)
class Gathered:
    """Bytes of whole weights and gradients; of the experts, those of one process of the `divided` that share them."""

    lesson: Lesson
    divided: int

    def at_head(self) -> int:
        """Embedding and head; the gradient of the head is in the making (Activations.head), blocks are put away."""
        return self.lesson.width * self._root(self.lesson.sizes)

    def at_block(self) -> int:
        """Embedding and head, their gradients, the last block and its gradients, the next one without its experts."""
        following = self._block(name for name in self.lesson.sizes if ".experts." not in name)
        own = self._block(self.lesson.sizes) + self._block(self.lesson.trained)
        root = self._root(self.lesson.sizes) + self._root(self.lesson.trained)
        return self.lesson.width * (root + own + following)

    def at_earlier_block(self) -> int:
        """The same, while the gradients of the block before are on their way between processes, in fp32."""
        return self.at_block() + FP32 * self._block(self.lesson.trained)

    def _root(self, names: Iterable[str]) -> int:
        return self._count(name for name in names if not name.startswith("layers."))

    def _block(self, names: Iterable[str]) -> int:
        """Numbers of the largest block's parameters among these."""
        chosen = tuple(names)
        blocks = (f"layers.{layer}." for layer in range(self.lesson.config.n_layers))
        return max(self._count(name for name in chosen if name.startswith(block)) for block in blocks)

    def _count(self, names: Iterable[str]) -> int:
        return sum(self.lesson.sizes[name] // (self.divided if ".experts." in name else 1) for name in names)
