"""What every frozen specification of the project inherits."""

from __future__ import annotations

from typing import ClassVar


class Spec:
    """A frozen, keyword-only dataclass that a document can be read into; unknown fields and loose types are errors.

    Alternatives are a union of specs told apart by a literal field `kind`.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}
