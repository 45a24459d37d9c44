"""What a step did to its documents: how many, and how much of them, went into and came out of every rule, and samples.

Every task of a step keeps an account of its own; together they make the step's.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path

from innovator.curate.rule import Dropped, Facts, Kept, Outcome
from innovator.files import write_json

N_SAMPLES = 4
SHOWN = 600
BEFORE_CHANGE = 200
UNKNOWN = "-"


@dataclass
class Flow:
    """Documents, UTF-8 bytes and tokens into a rule and out of it.

    changed: documents whose text it changed. count: places that it mended in them.
    """

    documents_in: int = 0
    bytes_in: int = 0
    tokens_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0
    tokens_out: int = 0
    changed: int = 0
    count: int = 0

    @classmethod
    def sum(cls, flows: Iterable[Flow]) -> Flow:
        """All of them together."""
        whole = cls()
        for flow in flows:
            whole.add(flow)
        return whole

    def add(self, other: Flow) -> None:
        """Take another's figures in."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Sample:
    """A document as a rule met it and as it left it, or why it dropped it; where texts are long, the part that changed.

    draw: what decides whether it is kept as a sample, so that samples do not depend on how documents were dealt out.
    """

    draw: str
    id: str
    before: str
    after: str
    reason: str

    @property
    def kind(self) -> str:
        """Which side of the rule it was found on."""
        if self.reason:
            return "dropped"
        return "changed" if self.before != self.after else "kept"


@dataclass
class RuleAccount:
    """One rule's figures, by source and discipline, its reasons and its samples."""

    flows: dict[str, dict[str, Flow]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    @property
    def whole(self) -> Flow:
        """All sources and disciplines together."""
        return Flow.sum(flow for by_discipline in self.flows.values() for flow in by_discipline.values())

    def flow(self, source: str, discipline: str) -> Flow:
        """The figures of one source and discipline."""
        return self.flows.setdefault(source, {}).setdefault(discipline, Flow())

    def keep(self, sample: Sample) -> None:
        """Keep a sample if it is among the few whose draw is lowest."""
        kept = self.samples.setdefault(sample.kind, [])
        kept.append(sample)
        kept.sort(key=lambda one: one.draw)
        del kept[N_SAMPLES:]


class Account:
    """What every rule of a step did, in the order of the rules; JSON on disk."""

    def __init__(self) -> None:
        self.rules: dict[str, RuleAccount] = {}

    @property
    def documents(self) -> int:
        """How many documents came out of the last rule."""
        return list(self.rules.values())[-1].whole.documents_out if self.rules else 0

    def note(self, rule: str, id: str, facts: Facts, text: str, outcome: Outcome, tokens: tuple[int, int]) -> None:
        """Count what a rule made of a document. text: as it came; tokens: in it, and in what came out of the rule."""
        account = self.rules.setdefault(rule, RuleAccount())
        flow = account.flow(str(facts.get("source", UNKNOWN)), str(facts.get("discipline", UNKNOWN)))
        flow.documents_in += 1
        flow.bytes_in += len(text.encode())
        flow.tokens_in += tokens[0]
        if isinstance(outcome, Kept):
            flow.documents_out += 1
            flow.bytes_out += len(outcome.text.encode())
            flow.tokens_out += tokens[1]
            flow.changed += outcome.text != text
            flow.count += outcome.count
        else:
            account.reasons[outcome.reason] = account.reasons.get(outcome.reason, 0) + 1
        self._sample(account, rule, id, text, outcome)

    def add(self, other: Account) -> None:
        """Take another's figures and samples in."""
        for name, theirs in other.rules.items():
            ours = self.rules.setdefault(name, RuleAccount())
            ours.reasons = dict(Counter(ours.reasons) + Counter(theirs.reasons))
            for source, by_discipline in theirs.flows.items():
                for discipline, flow in by_discipline.items():
                    ours.flow(source, discipline).add(flow)
            for samples in theirs.samples.values():
                for sample in samples:
                    ours.keep(sample)

    def plain(self) -> dict[str, object]:
        """As JSON holds it."""
        return {name: asdict(rule) for name, rule in self.rules.items()}

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_json(path, self.plain())

    @classmethod
    def open(cls, path: Path) -> Account:
        """The account that a step or a task wrote."""
        account = cls()
        for name, rule in json.loads(path.read_text(encoding="utf-8")).items():
            account.rules[name] = RuleAccount(
                {
                    source: {discipline: Flow(**flow) for discipline, flow in by_discipline.items()}
                    for source, by_discipline in rule["flows"].items()
                },
                rule["reasons"],
                {kind: [Sample(**sample) for sample in samples] for kind, samples in rule["samples"].items()},
            )
        return account

    @classmethod
    def sum(cls, paths: Iterable[Path]) -> Account:
        """The accounts of all tasks as one."""
        whole = cls()
        for path in paths:
            whole.add(cls.open(path))
        return whole

    def _sample(self, account: RuleAccount, rule: str, id: str, text: str, outcome: Outcome) -> None:
        draw = hashlib.blake2b(f"{rule}\n{id}".encode(), digest_size=8).hexdigest()
        after, reason = ("", outcome.reason) if isinstance(outcome, Dropped) else (outcome.text, "")
        kind = Sample(draw, id, text, after, reason).kind
        kept = account.samples.get(kind, [])
        if len(kept) < N_SAMPLES or draw < kept[-1].draw:
            start = _first_change(text, after) if kind == "changed" else 0
            account.keep(Sample(draw, id, _shown(text, start), _shown(after, start), reason))


def _first_change(before: str, after: str) -> int:
    """Where a sample of two texts should begin: a little before they differ."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    return max(0, same - BEFORE_CHANGE)


def _shown(text: str, start: int) -> str:
    return ("…" if start else "") + text[start : start + SHOWN] + ("…" if len(text) > start + SHOWN else "")
