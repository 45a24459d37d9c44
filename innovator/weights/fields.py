"""Reading a `config.json` field by field, and the fields that say how positions turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from innovator.models.attention import LinearRope, Llama3Rope, PlainRope, Rope

Json = dict[str, object]


@dataclass(frozen=True)
class Fields:
    """A `config.json` that is read field by field; ValueError names the file and the field."""

    content: Mapping[str, object]
    path: Path

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{self.path}: {key} should be a whole number, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{self.path}: {key} should be a number, not {value!r}")
        return float(value)

    def whole_or_null(self, key: str, default: int | None) -> int | None:
        """A whole number, or None where the file says null; `default` where it says nothing."""
        return None if self.content.get(key, default) is None else self.whole(key, default)

    def truth(self, key: str, default: bool = False) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {key} should be true or false, not {value!r}")
        return value

    def only(self, key: str, *taken: object) -> None:
        """ValueError unless the field is absent, null or one of `taken`."""
        if (value := self.content.get(key)) is not None and value not in taken:
            raise ValueError(f"{self.path}: {key}={value!r} is not supported")

    def part(self, key: str) -> Fields:
        """The fields below another."""
        value = self.content.get(key)
        return Fields(value if isinstance(value, dict) else {}, self.path)

    def _get(self, key: str, default: object) -> object:
        value = self.content.get(key)
        return default if value is None else value


def read_rope(fields: Fields, theta_key: str = "rope_theta") -> Rope:
    """transformers 4 writes a base frequency and `rope_scaling`, transformers 5 writes `rope_parameters`."""
    rope = fields.part("rope_parameters")
    scaling = rope if rope.content else fields.part("rope_scaling")
    theta = rope.number("rope_theta", fields.number(theta_key, 10_000.0))
    kind = scaling.content.get("rope_type", scaling.content.get("type", "default"))
    if kind == "default":
        return PlainRope(theta=theta)
    if kind == "linear":
        return LinearRope(theta=theta, factor=scaling.number("factor"))
    if kind == "llama3":
        return Llama3Rope(
            theta=theta,
            factor=scaling.number("factor"),
            low_freq_factor=scaling.number("low_freq_factor"),
            high_freq_factor=scaling.number("high_freq_factor"),
            original_context=scaling.whole("original_max_position_embeddings"),
        )
    raise ValueError(f"{fields.path}: rope_type={kind!r} is not supported, only default, linear and llama3")


def write_rope(rope: Rope) -> Json:
    """Rotary positions as transformers 4 and later, vLLM and SGLang read them."""
    written: Json = {"rope_theta": rope.theta}
    if isinstance(rope, LinearRope):
        written["rope_scaling"] = {"rope_type": "linear", "factor": rope.factor}
    elif isinstance(rope, Llama3Rope):
        written["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_context,
        }
    return written
