"""Every recipe reads, and says the same as when its golden document was last looked at.

INNOVATOR_WRITE_GOLDEN=1 writes the documents anew; then look at what changed in them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from innovator.document import kind, resolved
from innovator.graph import Found
from innovator.kinds import read_recipe, steps_of
from innovator.recipe import Recipe

HERE = Path(__file__).parent
DOCUMENTS = sorted((HERE.parent / "recipes").glob("*.yaml"))
RECIPES = [path for path in DOCUMENTS if kind(path) not in ("curation", "rubric")]  # tests/curate looks at those
QWEN2_5 = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def _offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's cache on a machine without network that has seen the base of the Hub recipe."""
    model = tmp_path / "hub" / "models--Qwen--Qwen2.5-0.5B"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40, encoding="utf8")
    (model / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (model / "snapshots" / ("0" * 40) / "config.json").write_text(json.dumps(QWEN2_5), encoding="utf8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@every_recipe
def test_a_recipe_resolves_to_its_golden_document(path: Path) -> None:
    golden = HERE / "golden" / f"{path.stem}.json"
    found = resolved(read_recipe(path, []))
    if os.environ.get("INNOVATOR_WRITE_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found, encoding="utf8")
    assert golden.is_file(), f"{golden} is missing: INNOVATOR_WRITE_GOLDEN=1 writes it"
    assert found == golden.read_text(encoding="utf8")


@every_recipe
def test_a_golden_document_is_a_recipe_for_the_same(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path, [])
    (tmp_path / "recipe.json").write_text(resolved(recipe), encoding="utf8")
    assert read_recipe(tmp_path / "recipe.json", []) == recipe


@every_recipe
def test_a_recipe_has_a_graph_that_leads_to_a_report(path: Path) -> None:
    recipe = read_recipe(path, [])
    graph = steps_of(recipe, Found.nothing(recipe))
    assert graph.goal.name == "report"
    assert not isinstance(recipe, Recipe) or set(recipe.baselines) <= set(graph.models)


def test_no_golden_document_outlives_its_recipe() -> None:
    assert {path.stem for path in (HERE / "golden").glob("*.json")} <= {path.stem for path in DOCUMENTS}
