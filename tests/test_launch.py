"""A recipe becomes jobs that wait for each other as its steps do, written as files that bash can read."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pico_recipe import write_recipe

from innovator.document import read
from innovator.engine.parallel import Engine
from innovator.evaluate.bits import EvaluateSpec
from innovator.graph import Found, Graph
from innovator.launch import Command, Job, Slurm, jobs, preview, submission
from innovator.pipeline import Step
from innovator.recipe import Recipe
from innovator.train.aim import AimSpec
from innovator.train.spec import TrainSpec

SLURM = Slurm(nodes=2, gpus_per_node=4, engine=Engine(experts=2, recompute="full"), options=("--constraint=a b",))


@pytest.fixture
def command(tmp_path: Path) -> Command:
    home = tmp_path / "it's here"
    home.mkdir()
    return Command(write_recipe(home), ("title=A $1 `title`",), home / "100% runs")


@pytest.fixture
def goal(command: Command) -> Step:
    recipe = read(command.recipe, list(command.overrides), Recipe)
    return Graph.of(recipe, Found.look(recipe)).goal


def make(step: Step, root: Path) -> None:
    step.folder(root).mkdir(parents=True)
    (step.folder(root) / "DONE").touch()


def named(found: list[Job], name: str) -> Job:
    (job,) = [job for job in found if job.step.name == name]
    return job


def test_every_step_has_one_job_that_waits_for_what_it_reads(command: Command, goal: Step) -> None:
    found = jobs(goal, command.root)
    assert [job.step.name for job in found] == [step.name for step in goal.upstream()]
    for job in found:
        assert {parent.name for parent in job.after} == {parent.name for _, parent in job.step.inputs}


def test_a_name_means_one_step(goal: Step) -> None:
    names = [step.name for step in goal.upstream()]
    assert len(set(names)) == len(names)


def test_stage_one_waits_for_no_other_discipline(command: Command, goal: Step) -> None:
    for job in jobs(goal, command.root):
        if job.step.name.startswith("induce-"):
            assert not [parent.name for parent in job.after if parent.name.startswith("induce-")]


def test_what_is_made_has_no_job_and_is_not_waited_for(command: Command, goal: Step) -> None:
    for job in jobs(goal, command.root):
        if job.step.name == "base" or job.step.name.startswith("tokens-"):
            make(job.step, command.root)
    found = jobs(goal, command.root)
    assert named(found, "induce-botany").after == ()
    assert [parent.name for parent in named(found, "integrate").after] == ["warm-router"]
    assert not [job for job in found if job.step.name == "base" or job.step.name.startswith("tokens-")]


def test_a_job_is_submitted_behind_the_numbers_of_those_it_waits_for(command: Command, goal: Step) -> None:
    job = named(jobs(goal, command.root), "fresh")
    (parent,) = job.after
    words = submission(job, command, {f"{parent.name}-{parent.digest}": "17"})
    assert words[0] == "sbatch" and "--dependency=afterok:17,singleton" in words
    assert words[-1] == str(command.root / "launch" / f"fresh-{job.step.digest}.sbatch")


def test_bash_can_read_every_file(command: Command, goal: Step) -> None:
    for job in jobs(goal, command.root):
        subprocess.run(["bash", "-n"], input=SLURM.script(job, command), text=True, check=True)


def test_what_reads_text_with_a_model_takes_all_gpus_and_anything_else_one(command: Command, goal: Step) -> None:
    """It may be one that no single GPU can hold."""
    for job in jobs(goal, command.root):
        shared = isinstance(job.step.spec, TrainSpec | AimSpec | EvaluateSpec)
        script = SLURM.script(job, command)
        assert f"#SBATCH --nodes={2 if shared else 1}\n" in script
        assert f"#SBATCH --gpus-per-node={4 if shared else 1}\n" in script
        assert ("--nnodes=2 --nproc-per-node=4" in script) == shared
        assert ("--replicate=1 --experts=2 --recompute=full --minutes=225\n" in script) == shared


def test_options_of_the_cluster_and_odd_paths_are_quoted(command: Command, goal: Step) -> None:
    script = SLURM.script(jobs(goal, command.root)[0], command)
    assert "#SBATCH '--constraint=a b'\n" in script
    assert re.search(r"#SBATCH '--output=.*/100%% runs/launch/tokenizer-\w{8}\.log'\n", script)


def test_a_script_runs_its_step_with_the_same_words(
    command: Command, goal: Step, cluster: Path, bash: Callable[[str], int]
) -> None:
    (cluster / "srun").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {cluster}/words\n')
    assert bash(SLURM.script(named(jobs(goal, command.root), "integrate"), command)) == 0
    words = (cluster / "words").read_text().splitlines()
    run = ["run", str(command.recipe), "title=A $1 `title`", "--root", str(command.root), "--only", "integrate"]
    assert words[words.index("run") :][: len(run)] == run
    assert "--rdzv-endpoint=head-node:10007" in words and "--rdzv-id=20007" in words


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (75, True), (143, False)])
def test_only_a_job_that_stopped_in_time_is_queued_again(
    command: Command, goal: Step, cluster: Path, bash: Callable[[str], int], code: int, requeued: bool
) -> None:
    (cluster / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
    assert bash(SLURM.script(named(jobs(goal, command.root), "integrate"), command)) == code
    assert (cluster / "requeued").exists() == requeued


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Programs of a cluster of two nodes; a test says what its srun does."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    scontrol = f'#!/bin/bash\nif [ "$1" = show ]; then printf "head-node\\nnext\\n"; else touch {folder}/requeued; fi\n'
    for name, text in {"scontrol": scontrol, "srun": ""}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def bash(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Run a script as a job on that cluster; its exit code."""
    monkeypatch.setenv("PATH", str(cluster), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "20007")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "nodes[1-2]")
    return lambda script: subprocess.run(["bash"], input=script, text=True, check=False).returncode


def test_a_preview_shows_every_file_and_every_submission(command: Command, goal: Step) -> None:
    shown, found = preview(goal, command, SLURM), jobs(goal, command.root)
    assert all(SLURM.script(job, command) in shown for job in found)
    assert shown.count("\nsbatch --parsable --dependency=") == len(found)
    assert not command.root.exists()


def test_a_batch_that_does_not_divide_is_named(command: Command, goal: Step) -> None:
    with pytest.raises(ValueError, match=r"^base: batch\.rows=8 do not divide among 3 GPUs$"):
        preview(goal, command, Slurm(gpus_per_node=3))


def test_gpus_that_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match="8 GPUs do not divide into replicate=1 groups by experts=3"):
        Slurm(engine=Engine(experts=3))


def test_a_reserve_must_leave_time_to_learn() -> None:
    with pytest.raises(ValueError, match="reserve=15 leaves nothing of a job's minutes=15"):
        Slurm(minutes=15)


@pytest.mark.parametrize(("ended", "code"), [("raise SystemExit(75)", 75), ("os.kill(os.getpid(), 9)", 137)])
def test_torchrun_ends_with_the_code_of_its_processes(tmp_path: Path, ended: str, code: int) -> None:
    """The second process would wait for ever: it is ended with the first."""
    script = tmp_path / "work.py"
    script.write_text(f"import os, time\nif os.environ['RANK'] == '0':\n    {ended}\ntime.sleep(1000)\n")
    words = ["-m", "innovator.torchrun", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()
