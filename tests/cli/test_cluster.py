"""What is launched on a cluster is made to its end by the jobs themselves, and is what a plain run makes."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pico_recipe import Command, Finished, folders, sentence, write_recipe

CHANGED = ("baselines=[]", "integrate.course.tokens=512")
GPUS = ("--slurm", "--gpus-per-node", "2")
SBATCH = """#!/bin/bash
# A cluster of one machine: a job runs when it is submitted, again and again while it asks to be queued again.
cd "$(dirname "$0")"
id=$((100 + $(ls | wc -l)))
for word; do case "$word" in --dependency=*) after=$word ;; esac; done
for parent in $(grep -oE ':[0-9]+' <<< "$after" | tr -d :); do
  [ "$(cat "$parent.code")" = 0 ] || { echo "$parent was not made" >&2; exit 1; }
done
export SLURM_JOB_ID=$id SLURM_JOB_NODELIST=here
until bash "$word" >> "$id.log" 2>&1; code=$?; [ ! -e "$id.again" ]; do rm "$id.again"; done
echo "$code" > "$id.code"
echo "$id;cluster"
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
case "$1" in show) echo localhost ;; requeue) touch "$(dirname "$0")/$2.again" ;; esac
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def test_jobs_make_what_a_plain_run_makes(copied: Finished, innovator: Command, cluster: Path, tmp_path: Path) -> None:
    """Stage 4 and what follows it; two processes sum in another order than one."""
    shutil.rmtree(copied.step("integrate"))
    shutil.rmtree(copied.step("evaluate-innovator"))
    shutil.rmtree(copied.step("report"))
    plain = replace(copied, root=tmp_path / "plain")
    shutil.copytree(copied.root, plain.root, symlinks=True)
    assert innovator("run", copied.recipe, *CHANGED, "--root", plain.root).code == 0

    answer = innovator("launch", copied.recipe, *CHANGED, *GPUS, "--root", copied.root)
    logs = "".join(path.read_text() for path in cluster.glob("*.log"))
    assert answer.code == 0, answer.err + logs
    jobs = re.findall(r"submitted ([\w-]+)-\w{8} as (\d+)(?:, after ([\d, ]+))?", answer.err)
    names = {number: name for name, number, _ in jobs}
    after = {name: [names[number] for number in waits.split(", ") if number] for name, _, waits in jobs}
    assert after == {
        "integrate": [],
        "evaluate-innovator": ["integrate"],
        "report": ["evaluate-innovator", "integrate"],
    }
    assert folders(copied.root) - {"launch"} == folders(plain.root), logs
    ours, theirs = copied.report()["bits_per_byte"], plain.report()["bits_per_byte"]
    assert ours.keys() == theirs.keys()
    for model in ours:
        assert ours[model] == pytest.approx(theirs[model], rel=1e-4), model


def test_a_launch_again_has_nothing_to_do(finished: Finished, innovator: Command, cluster: Path) -> None:
    answer = innovator("launch", finished.recipe, *GPUS, "--root", finished.root)
    assert answer.code == 0 and "everything is made" in answer.err and "submitted" not in answer.err


def test_a_dry_run_submits_nothing(tmp_path: Path, innovator: Command, cluster: Path) -> None:
    recipe, root = write_recipe(tmp_path), tmp_path / "runs"
    options = ("--partition", "gpu", "--account", "us", "--sbatch=--constraint=h100", "--compile", "--dry-run")
    answer = innovator("launch", recipe, *GPUS, *options, "--root", root)
    assert answer.code == 0 and not root.exists() and not list(cluster.glob("*.code"))
    for option in ("--partition=gpu", "--account=us", "--constraint=h100"):
        assert answer.out.count(f"#SBATCH {option}\n") == answer.out.count("#!/bin/bash\n") > 20
    assert "--compile --minutes=225" in answer.out


def test_without_slurm_it_says_so(tmp_path: Path, innovator: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    recipe, root = write_recipe(tmp_path), tmp_path / "runs"
    assert "sbatch is not found" in sentence(innovator("launch", recipe, *GPUS, "--root", root))
    assert "name the scheduler" in sentence(innovator("launch", recipe, "--root", root))
    assert not root.exists()


def test_a_refusal_of_slurm_is_passed_on(tmp_path: Path, innovator: Command, cluster: Path) -> None:
    (cluster / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2\nexit 1\n")
    answer = innovator("launch", write_recipe(tmp_path), *GPUS, "--root", tmp_path / "runs")
    assert sentence(answer).endswith("invalid partition")
