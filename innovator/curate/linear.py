"""A model of texts cheap enough for every document: hashed words, pairs of words and surface figures, times weights.

It is fitted on labelled texts (then its scores are logits of the labels), on graded texts, or on pairs of texts of
which one is better (then it has one score), and is the same whenever it is fitted on the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from innovator.curate.surface import NAMES, surface
from innovator.files import write_json

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

N_HASHED = 1 << 18
LONGEST = 30_000
SPREADS, LEAST_SPREAD = 5.0, 1e-6
TOKEN = r"(?u)\w+|[^\w\s]|\n\n"
Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Linear:
    """Scores of texts, one for each name."""

    names: tuple[str, ...]
    weights_FN: NDArray[np.float32]
    bias_N: NDArray[np.float32]

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """One row for each text, one column for each name."""
        counts, figures = _counts_and_figures(texts)
        hashed = counts @ self.weights_FN[:N_HASHED]  # both are fp32: mixed types would be copied for every text
        return np.asarray(hashed + figures @ self.weights_FN[N_HASHED:] + self.bias_N, dtype=np.float64)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of each name, of a model that was fitted on labels; every row sums to one."""
        scores = self.scores(texts)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def save(self, folder: Path) -> None:
        """Write `weights.npz` and, last, `linear.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / "draft.npz"
        np.savez_compressed(draft, weights=self.weights_FN, bias=self.bias_N)
        draft.replace(folder / "weights.npz")
        write_json(folder / "linear.json", {"names": self.names, "n_hashed": N_HASHED, "surface": NAMES})

    @classmethod
    def open(cls, folder: Path) -> Linear:
        """What was saved; ValueError if it was made of other features than these."""
        file = folder / "linear.json"
        said = json.loads(file.read_text(encoding="utf-8"))
        if (said["n_hashed"], said["surface"]) != (N_HASHED, list(NAMES)):
            raise ValueError(f"{file} was fitted on other features by another version: make it again")
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            return cls(tuple(said["names"]), arrays["weights"], arrays["bias"])


def fit_labels(texts: Sequence[str], labels: Sequence[str], *, strength: float, balanced: bool) -> Linear:
    """Logistic regression on labels. strength: how far data move it from indifference (scikit-learn's C).

    balanced: whether every label counts the same however often it occurs; if not, probabilities are calibrated to
    the labels' own frequencies.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        raise ValueError(f"there is nothing to tell apart: all {len(labels)} texts are {', '.join(names) or 'missing'}")
    scaled = _Scaled.of(texts)
    model = _regression(strength, balanced, intercept=True)
    model.fit(scaled.rows, np.array([names.index(label) for label in labels]))
    weights_FN, bias_N = model.coef_.T, model.intercept_
    if len(names) == 2:
        weights_FN, bias_N = np.hstack([0 * weights_FN, weights_FN]), np.array([0.0, *bias_N])
    return scaled.model(tuple(names), weights_FN, bias_N)


def fit_preferences(
    texts: Sequence[str], better: Indices, worse: Indices, weights: Sequence[float], *, strength: float
) -> Linear:
    """Bradley and Terry's model: the log-odds that a text is preferred are the difference of the two scores.

    better, worse: places in `texts`, one of each for every pair.
    """
    scaled = _Scaled.of(texts)
    signs = np.where(np.arange(len(better)) % 2, 1.0, -1.0)
    from scipy.sparse import diags  # here because scipy is slow to load

    rows = diags(signs) @ (scaled.rows[np.asarray(better)] - scaled.rows[np.asarray(worse)])
    model = _regression(strength, balanced=False, intercept=False)
    model.fit(rows, signs > 0, sample_weight=np.asarray(weights))
    return scaled.model(("preference",), model.coef_.T, np.zeros(1))


def fit_grades(texts: Sequence[str], grades: NDArray[np.float64], *, strength: float) -> Linear:
    """Ridge regression on grades, of which there is one for each text."""
    from sklearn.linear_model import Ridge  # here because it is slow to load

    scaled = _Scaled.of(texts)
    model = Ridge(alpha=1 / strength, solver="sparse_cg", tol=1e-4, max_iter=500).fit(scaled.rows, grades)
    return scaled.model(("grade",), model.coef_.reshape(-1, 1), np.array([model.intercept_]))


def expit(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of log-odds."""
    return np.asarray(0.5 * (1 + np.tanh(log_odds / 2)))


def excerpt(text: str, longest: int = LONGEST) -> str:
    """The text, or where it is longer its beginning, middle and end."""
    if len(text) <= longest:
        return text
    part, middle = longest // 3, len(text) // 2
    return "\n\n".join((text[:part], text[middle - part // 2 : middle + part // 2], text[-part:]))


def _counts_and_figures(texts: Sequence[str]) -> tuple[csr_matrix, NDArray[np.float64]]:
    """A row for each text: roots of the counts of hashed words and pairs, of length one; and the surface figures."""
    shown = [excerpt(text) for text in texts]
    counts = _hasher().transform(shown)
    n_in_row = np.repeat(np.asarray(counts.sum(axis=1)).ravel(), np.diff(counts.indptr))
    counts.data = np.sqrt(counts.data / n_in_row)
    return counts, np.array([surface(text) for text in shown])


@dataclass(frozen=True)
class _Scaled:
    """Rows of the features that occur at all, the surface figures without their means and divided by their spreads."""

    rows: csr_matrix
    used: NDArray[np.int64]
    center_S: NDArray[np.float64]
    scale_S: NDArray[np.float64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Scaled:
        from scipy.sparse import csr_matrix, hstack  # here because scipy is slow to load

        counts, figures = _counts_and_figures(texts)
        used = np.unique(counts.indices)
        center_S, scale_S = figures.mean(axis=0), SPREADS * (figures.std(axis=0) + LEAST_SPREAD)
        rows = hstack([counts[:, used], csr_matrix((figures - center_S) / scale_S)], format="csr")
        return cls(rows, used, center_S, scale_S)

    def model(self, names: tuple[str, ...], weights_FN: NDArray[np.float64], bias_N: NDArray[np.float64]) -> Linear:
        """Weights for all features as they come, of weights for these rows."""
        hashed_FN = np.zeros((N_HASHED, len(names)))
        hashed_FN[self.used] = weights_FN[: len(self.used)]
        surface_SN = weights_FN[len(self.used) :] / self.scale_S[:, None]
        bias_N = bias_N - self.center_S @ surface_SN
        return Linear(names, np.vstack([hashed_FN, surface_SN]).astype(np.float32), bias_N.astype(np.float32))


def _regression(strength: float, balanced: bool, intercept: bool) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression  # here because it is slow to load

    weight = "balanced" if balanced else None
    return LogisticRegression(C=strength, max_iter=500, tol=1e-4, class_weight=weight, fit_intercept=intercept)


@cache
def _hasher() -> HashingVectorizer:
    from sklearn.feature_extraction.text import HashingVectorizer  # here because it is slow to load

    return HashingVectorizer(
        n_features=N_HASHED, token_pattern=TOKEN, ngram_range=(1, 2), norm=None, alternate_sign=False, dtype=np.float32
    )
