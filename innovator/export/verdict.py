"""What is said of an export: before it is made, whether it can be the model; afterwards, whether it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Runtime = Literal["transformers", "vllm", "sglang", "llama.cpp"]
RUNTIMES: tuple[Runtime, ...] = ("transformers", "vllm", "sglang", "llama.cpp")
Grade = Literal["exact", "approximate", "impossible"]


@dataclass(frozen=True)
class Verdict:
    """Whether a target, loaded by a runtime, computes what our model computes; `why` it does not, or what to know.

    exact: the same function, up to the rounding of the arithmetic. approximate: another function, near enough to use.
    launch: what to add to the runtime's command line.
    """

    grade: Grade
    why: str = ""
    launch: str = ""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How a written export compares with our model, read again by its own loader in a fresh process.

    logits_error: largest difference of a token's logits, relative to the largest logit, for this share of the tokens:
    all of them in fp32, half in coarser types, where a rounded score may send a token to another expert.
    identical: whether every bit agrees. n_tokens: over how many random tokens. loader: its name and version.
    """

    logits_error: float
    share: float
    identical: bool
    tolerance: float
    n_tokens: int
    loader: str

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; not a number is not."""
        return self.logits_error <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: the target, the type of its numbers, its verdicts, and its comparison if one was made."""

    target: str
    stored: str
    verdicts: Mapping[Runtime, Verdict]
    checked: Checked | None
