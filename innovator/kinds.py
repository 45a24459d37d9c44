"""The kinds of recipes: how a document is told to be one, the steps that it stands for, and the table at their end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from innovator.contest import Contest
from innovator.contest_report import ContestReport, ContestReportSpec, contest_table
from innovator.document import kind, read
from innovator.graph import Found, Graph
from innovator.heats import heats
from innovator.pipeline import Step
from innovator.recipe import Recipe
from innovator.report import Report, table

AnyRecipe = Recipe | Contest


def read_recipe(path: Path, overrides: Sequence[str]) -> AnyRecipe:
    """The document of whichever kind; one that does not say leads to a mixture."""
    said = kind(path)
    if said == "curation":
        raise ValueError(f"{path}: a curation makes corpora, no models: innovator curate {path}")
    if said not in (None, "contest"):
        raise ValueError(f"{path}: kind: {said!r} is unknown; say contest, or leave it out")
    return read(path, overrides, Recipe) if said is None else read(path, overrides, Contest)


def steps_of(recipe: AnyRecipe, found: Found) -> Graph:
    """The steps of a recipe where these things are found."""
    return heats(recipe, found) if isinstance(recipe, Contest) else Graph.of(recipe, found)


def goal_of(path: Path, overrides: Sequence[str]) -> Step:
    """What everything leads to; ValueError for all that stands in the way of it."""
    recipe = read_recipe(path, overrides)
    if problems := recipe.problems():
        raise ValueError("\n".join(f"{path}: {problem}" for problem in problems))
    return steps_of(recipe, Found.look(recipe)).goal


def summary(goal: Step, root: Path) -> Table:
    """What a finished report says, for a terminal."""
    if isinstance(goal.spec, ContestReportSpec):
        return contest_table(ContestReport.open(goal.folder(root)))
    return table(Report.open(goal.folder(root)))
