from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from pico_recipe import Finished, write_recipe

from innovator import cli


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(home)
    with pytest.MonkeyPatch.context() as words:
        words.setattr(sys, "argv", ["innovator", "run", str(recipe), "--root", str(home / "runs")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return Finished(recipe, home / "runs")


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """The finished run once more, for a test that adds to it."""
    shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)
    return Finished(finished.recipe, tmp_path / "runs")
