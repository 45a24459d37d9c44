"""Large model alignment: an assessor that grades as the pairs do, and says how far it agrees with those held out.

Every assessor can be aligned, which writes `alignment.json` and what it learned to a folder, and opened from there as a
grader. An assessor below the bar of its recipe ends in a ValueError, after `alignment.json` is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from innovator.curate.alignment import Alignment, Examined, Grader, Grades, aligned
from innovator.curate.judge import Judge
from innovator.curate.linear import Linear, fit_preferences
from innovator.curate.pairs import Pairs
from innovator.files import fingerprint

STRENGTH = 10.0
MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class LanguageModel(Examined):
    """Any causal language model's folder for which transformers has a ranking head; trained whole, in fp32.

    It is trained until it reaches the bar, or for `most_epochs`; of a text in training it reads `max_tokens`.
    """

    kind: Literal["lm"] = "lm"
    model: str
    learning_rate: float = 2e-5
    batch: int = 16
    most_epochs: int = 3
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.batch, self.most_epochs, self.max_tokens) < 1:
            raise ValueError("batch, most_epochs and max_tokens must be at least 1")

    def at(self, root: Path | None) -> LanguageModel:
        """The same with relative paths taken from `root`."""
        return replace(self, model=str((root or Path()) / Path(self.model).expanduser()))

    def fingerprint(self) -> str:
        """What the model's folder holds; ValueError if it is none."""
        folder = Path(self.model)
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is no model: it has no config.json")
        return fingerprint(sorted(path for path in folder.rglob("*") if path.is_file()), folder)

    def align(self, pairs: Pairs, rubric: str, out: Path) -> Alignment:
        """Train, save a Hugging Face folder, and say how far it agrees; ValueError if that is below the bar."""
        from innovator.curate.ranking import Course, Ranker  # here because torch is slow to load

        ranker = Ranker.open(Path(self.model), self.max_tokens, self.seed)
        course = Course(self.learning_rate, self.batch, self.most_epochs, self.bar, self.seed)
        alignment = course.run(ranker, pairs)[-1]
        alignment.write(out / "alignment.json")
        ranker.save(out / MODEL)
        self.hold(alignment)
        return alignment

    def grader(self, rubric: str, out: Path) -> Grader:
        """The model that was saved."""
        from innovator.curate.ranking import Ranker  # here because torch is slow to load

        return Ranker.open(out / MODEL, self.max_tokens)


@dataclass(frozen=True, kw_only=True)
class LinearAssessor(Examined):
    """Hashed words and surface figures, for small machines; it cannot know more than how a text looks."""

    kind: Literal["linear"] = "linear"

    def align(self, pairs: Pairs, rubric: str, out: Path) -> Alignment:
        """Fit, save, and say how far it agrees; ValueError if that is below the bar."""
        names = sorted({name for pair in pairs.train for name in (pair.better, pair.worse)})
        place = {name: number for number, name in enumerate(names)}
        model = fit_preferences(
            [pairs.texts[name] for name in names],
            [place[pair.better] for pair in pairs.train],
            [place[pair.worse] for pair in pairs.train],
            [pair.weight for pair in pairs.train],
            strength=STRENGTH,
        )
        model.save(out / MODEL)
        alignment = aligned(LinearGrader(model), pairs.texts, pairs.held_out)
        alignment.write(out / "alignment.json")
        self.hold(alignment)
        return alignment

    def grader(self, rubric: str, out: Path) -> Grader:
        """The model that was saved."""
        return LinearGrader(Linear.open(out / MODEL))


@dataclass(frozen=True)
class LinearGrader:
    """Grades by the one score of a model that was fitted on pairs."""

    model: Linear

    def grade(self, texts: Sequence[str]) -> Grades:
        """One number for each text."""
        return self.model.scores(texts)[:, 0]


Assessor = LanguageModel | Judge | LinearAssessor
