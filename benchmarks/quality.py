"""The chain of quality control: constructed pairs, an assessor, a student; how far each agrees, and how fast it is.

Half of the documents make the pairs. The other half, two thirds of them with damage of random kind and severity, is the
corpus that the assessor grades and the student learns to grade.

python benchmarks/quality.py [FOLDER OF JSON LINES] [--model FOLDER] [--documents 900] [--longest 2000] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from rich.table import Table

from innovator.curate.alignment import Alignment, Grades, Share
from innovator.curate.assessor import LanguageModel, LinearAssessor
from innovator.curate.damage import DAMAGES
from innovator.curate.pairs import Pairs
from innovator.curate.seeds import Seeds, passage
from innovator.curate.student import Distil
from innovator.curate.student_report import StudentReport
from innovator.curate.tiers import TIERS, tier_of
from innovator.data.records import Rejects
from innovator.data.sources import Document, FilesSource, InstalledDocsSource
from innovator.say import say, show

MANUALS = ("python", "numpy", "scipy", "scikit-learn", "sympy", "torch", "transformers")
CLEAN = 1 / 3


def main() -> None:
    """Measure and print."""
    asked = _asked()
    out = Path(asked.out or tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    documents = read(asked.folder, asked.documents, out)
    half = len(documents) // 2
    pairs = Seeds(n_documents=half, longest=asked.longest).pairs(documents[:half])
    say(f"{half} documents: {len(pairs.texts)} texts, {len(pairs.train)} pairs, {len(pairs.held_out)} held out")
    texts, severities = corpus(documents[half:], asked.longest)
    for assessor in assessors(asked):
        grades = measured_assessor(assessor, pairs, texts, out / assessor.kind)
        report = measured_student(assessor.kind, texts, grades, out / assessor.kind / "student")
        show(by_severity(assessor.kind, severities, grades, report))


def assessors(asked: argparse.Namespace) -> list[LinearAssessor | LanguageModel]:
    """The linear one, and the language model if there is a folder of one."""
    chosen: list[LinearAssessor | LanguageModel] = [LinearAssessor(below_bar="go-on")]
    if asked.model:
        course = {"learning_rate": asked.learning_rate, "most_epochs": asked.epochs, "max_tokens": asked.tokens}
        chosen.append(LanguageModel(model=asked.model, below_bar="go-on", **course))
    return chosen


def read(folder: str | None, n: int, out: Path) -> list[Document]:
    """Some documents of every file of a folder, or of installed manuals, in random order."""
    rejects, rng = Rejects(out / "rejects.jsonl"), Random(0)
    if folder is None:
        found = [list(InstalledDocsSource(distributions=MANUALS).documents(rejects))]
    else:
        files = sorted(Path(folder).rglob("train.jsonl*")) or sorted(Path(folder).rglob("*.jsonl*"))
        found = [list(FilesSource(path=str(file)).at(Path.cwd()).documents(rejects)) for file in files]
        found = [
            [Document(f"{file.parent.name}/{document.id}", document.text) for document in some]
            for file, some in zip(files, found, strict=True)
        ]
    drawn = [document for some in found for document in rng.sample(some, min(len(some), n // len(found)))]
    return rng.sample(drawn, len(drawn))


def corpus(documents: Sequence[Document], longest: int) -> tuple[list[str], list[float]]:
    """Four passages of each document, a third of them clean, and the severities of their damage."""
    rng, texts, severities = Random(1), [], []
    for document in documents * 4:
        text, severity = passage(document.text, longest, rng), 0.0
        if rng.random() > CLEAN:
            severity = rng.random()
            text, n_places = DAMAGES[rng.choice(Seeds().damages)].plant(text, severity, rng)
            severity *= n_places > 0
        texts.append(text)
        severities.append(severity)
    return texts, severities


def measured_assessor(
    assessor: LinearAssessor | LanguageModel, pairs: Pairs, texts: Sequence[str], out: Path
) -> Grades:
    """Align it, show how far it agrees, and grade the corpus."""
    out.mkdir(exist_ok=True)
    start = time.perf_counter()
    show(agreement(assessor.kind, assessor.align(pairs, "", out)))
    say(f"  {assessor.kind}: aligned in {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    grades = assessor.grader("", out).grade(texts)
    say(f"  {assessor.kind}: {len(texts) / (time.perf_counter() - start):.0f} texts/s graded")
    return grades


def measured_student(kind: str, texts: Sequence[str], grades: Grades, out: Path) -> StudentReport:
    """Distil the grades, and show how far the student agrees."""
    report = Distil().train(texts, grades, out)
    table = Table("assessor \\ student", *TIERS, title=f"student of the {kind} assessor")
    for tier in TIERS:
        table.add_row(tier, *(str(report.confusion[tier][theirs]) for theirs in TIERS))
    show(table)
    say(
        f"  agreement {report.agreement:.1%} of {report.n}, kappa {report.kappa:.2f}, calibration error "
        f"{report.calibration_error:.3f}; {report.documents_per_second:.0f} documents/s, "
        f"{report.megabytes_per_second:.2f} MB/s of one core"
    )
    say(
        "  reliability: "
        + ", ".join(f"{one.predicted:.2f}: {one.observed:.2f} ({one.n})" for one in report.reliability)
    )
    return report


def agreement(kind: str, alignment: Alignment) -> Table:
    """Agreement with held-out pairs by kind of damage and gap of severity."""
    gaps = sorted(alignment.by_gap)
    table = Table("damage", *(f"gap {gap}" for gap in gaps), "all", title=f"{kind}: agreement with held-out pairs")
    for about, shares in alignment.by_both.items():
        table.add_row(about, *(_percent(shares.get(gap)) for gap in gaps), str(alignment.by_about[about]))
    table.add_row("all", *(_percent(alignment.by_gap[gap]) for gap in gaps), str(alignment.whole))
    return table


def by_severity(kind: str, severities: Sequence[float], grades: Grades, report: StudentReport) -> Table:
    """In which tier the assessor puts passages of which severity."""
    table = Table("severity", *TIERS, title=f"tiers of the {kind} assessor by planted severity")
    for low, high in ((0.0, 0.0), (0.0, 0.1), (0.1, 0.3), (0.3, 1.0)):
        chosen = [
            grade for severity, grade in zip(severities, grades.tolist(), strict=True) if _within(severity, low, high)
        ]
        tiers = [tier_of(grade, *report.bounds) for grade in chosen]
        table.add_row(f"{low:g} to {high:g}", *(f"{tiers.count(tier) / max(len(tiers), 1):.0%}" for tier in TIERS))
    return table


def _within(severity: float, low: float, high: float) -> bool:
    return severity == 0 if high == 0 else low < severity <= high


def _percent(share: Share | None) -> str:
    return "" if share is None else f"{share.value:.1%}"


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--documents", type=int, default=900)
    parser.add_argument("--longest", type=int, default=2000)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
