"""Every recipe reads, and says the same as when its golden document was last looked at.

INNOVATOR_WRITE_GOLDEN=1 writes the documents anew; then look at what changed in them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from innovator.document import read, resolved
from innovator.graph import Found, Graph
from innovator.recipe import Recipe

HERE = Path(__file__).parent
RECIPES = sorted((HERE.parent / "recipes").glob("*.yaml"))
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@every_recipe
def test_a_recipe_resolves_to_its_golden_document(path: Path) -> None:
    golden = HERE / "golden" / f"{path.stem}.json"
    found = resolved(read(path, [], Recipe))
    if os.environ.get("INNOVATOR_WRITE_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found, encoding="utf8")
    assert golden.is_file(), f"{golden} is missing: INNOVATOR_WRITE_GOLDEN=1 writes it"
    assert found == golden.read_text(encoding="utf8")


@every_recipe
def test_a_golden_document_is_a_recipe_for_the_same(path: Path, tmp_path: Path) -> None:
    recipe = read(path, [], Recipe)
    (tmp_path / "recipe.json").write_text(resolved(recipe), encoding="utf8")
    assert read(tmp_path / "recipe.json", [], Recipe) == recipe


@every_recipe
def test_a_recipe_has_a_graph_that_leads_to_a_report(path: Path) -> None:
    recipe = read(path, [], Recipe)
    graph = Graph.of(recipe, Found.nothing(recipe))
    assert graph.goal.name == "report" and set(recipe.baselines) <= set(graph.models)


def test_no_golden_document_outlives_its_recipe() -> None:
    assert {path.stem for path in (HERE / "golden").glob("*.json")} <= {path.stem for path in RECIPES}
