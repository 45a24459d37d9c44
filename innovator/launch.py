"""A recipe as jobs of a cluster: one for each step that is not made yet, each waiting for the steps it reads."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from innovator.engine.parallel import Engine
from innovator.evaluate.bits import EvaluateSpec
from innovator.models.spec import Spec
from innovator.pipeline import Step
from innovator.say import say
from innovator.train.aim import AimSpec
from innovator.train.loop import REQUEUE
from innovator.train.spec import TrainSpec

SHARED = (TrainSpec, AimSpec, EvaluateSpec)  # what all processes of a run work on together


@dataclass(frozen=True)
class Job:
    """A step to be made, and those of the steps it reads that are to be made before."""

    step: Step
    after: tuple[Step, ...]

    @property
    def shared(self) -> bool:
        """Whether all processes of a run work on it together."""
        return isinstance(self.step.spec, SHARED)


@dataclass(frozen=True)
class Command:
    """The `innovator run` that jobs give, from the folder in which they were asked for."""

    recipe: Path
    overrides: tuple[str, ...]
    root: Path

    def words(self, step: Step) -> list[str]:
        """What follows the name of the program, for one step."""
        recipe, root = str(self.recipe.resolve()), str(self.root.resolve())
        return ["-m", "innovator", "run", recipe, *self.overrides, "--root", root, "--only", step.name]

    def file(self, step: Step, ending: str) -> Path:
        """A file of a step's job."""
        return self.root.resolve() / "launch" / f"{_key(step)}.{ending}"


@dataclass(frozen=True, kw_only=True)
class Slurm(Spec):
    """What jobs ask of a cluster: whole nodes, all of these for a step that passes text through a model, else one.

    minutes: the time limit of a job. reserve: how many of them a training leaves for its start, its last step and
    saving. options: more options of sbatch.
    """

    nodes: int = 1
    gpus_per_node: int = 8
    minutes: int = 240
    reserve: int = 15
    options: tuple[str, ...] = ()
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        replicate, experts = self.engine.replicate, self.engine.experts
        if self.n_gpus % (replicate * experts):
            raise ValueError(f"{self.n_gpus} GPUs do not divide into replicate={replicate} groups by experts={experts}")
        if self.reserve >= self.minutes:
            raise ValueError(f"reserve={self.reserve} leaves nothing of a job's minutes={self.minutes}")

    @property
    def n_gpus(self) -> int:
        """All of them."""
        return self.nodes * self.gpus_per_node

    def script(self, job: Job, command: Command) -> str:
        """The file that sbatch is given; ValueError if the step's batch does not divide among the GPUs."""
        if isinstance(job.step.spec, TrainSpec):
            self._check(job.step.name, job.step.spec)
        loader = FileSystemLoader(Path(__file__).parent)
        pages = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
        return pages.get_template("launch.sbatch.jinja").render(
            options=[shlex.quote(option) for option in self._options(job, command.file(job.step, "log"))],
            folder=shlex.quote(str(Path.cwd())),
            program=shlex.quote(sys.executable),
            shared=job.shared,
            slurm=self,
            run=shlex.join([*command.words(job.step), *(self._spread() if job.shared else [])]),
            requeue=REQUEUE,
        )

    def _options(self, job: Job, log: Path) -> tuple[str, ...]:
        nodes, gpus = (self.nodes, self.gpus_per_node) if job.shared else (1, 1)
        return (
            f"--job-name={_key(job.step)}",
            f"--output={str(log).replace('%', '%%')}",
            "--open-mode=append",
            f"--nodes={nodes}",
            "--ntasks-per-node=1",
            f"--gpus-per-node={gpus}",
            "--exclusive",
            "--mem=0",
            f"--time={self.minutes}",
            "--requeue",
            *self.options,
        )

    def _check(self, name: str, spec: TrainSpec) -> None:
        if spec.batch.rows % self.n_gpus:
            raise ValueError(f"{name}: batch.rows={spec.batch.rows} do not divide among {self.n_gpus} GPUs")

    def _spread(self) -> list[str]:
        """The engine, and when to stop, as options of `innovator run`."""
        engine = self.engine
        words = [f"--replicate={engine.replicate}", f"--experts={engine.experts}", f"--recompute={engine.recompute}"]
        return [*words, *(["--compile"] if engine.compile else []), f"--minutes={self.minutes - self.reserve}"]


def jobs(goal: Step, root: Path) -> list[Job]:
    """What is not made yet of all that leads to a goal, every step after those it reads."""
    absent = {_key(step): step for step in goal.upstream() if not step.found(root)}
    return [
        Job(step, tuple({_key(parent): parent for _, parent in step.inputs if _key(parent) in absent}.values()))
        for step in absent.values()
    ]


def submission(job: Job, command: Command, ids: Mapping[str, str]) -> list[str]:
    """The sbatch command of a job, when the jobs it waits for have these numbers.

    singleton: a job of the same name that was submitted before, and is still waiting or running, ends first.
    """
    after = ":".join(["afterok", *(ids[_key(parent)] for parent in job.after)])
    dependency = ",".join([*([after] if job.after else []), "singleton"])
    words = ["sbatch", "--parsable", f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
    return [*words, str(command.file(job.step, "sbatch"))]


def preview(goal: Step, command: Command, slurm: Slurm) -> str:
    """Every file, and the commands that would submit them, with the name of its step for the number of a job."""
    todo = jobs(goal, command.root)
    names = {_key(job.step): job.step.name for job in todo}
    files = [f"# {command.file(job.step, 'sbatch')}\n{slurm.script(job, command)}" for job in todo]
    return "\n".join([*files, *(shlex.join(submission(job, command, names)) for job in todo)])


def submit(goal: Step, command: Command, slurm: Slurm) -> None:
    """Write every file and submit them in order; ValueError if Slurm is not there or refuses one."""
    if shutil.which("sbatch") is None:
        raise ValueError("sbatch is not found: give this command where Slurm is, or look at the jobs with --dry-run")
    todo = jobs(goal, command.root)
    scripts = [slurm.script(job, command) for job in todo]
    ids: dict[str, str] = {}
    for job, script in zip(todo, scripts, strict=True):
        file = command.file(job.step, "sbatch")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script, encoding="utf8")
        ids[_key(job.step)] = _submitted(submission(job, command, ids))
        after = f", after {', '.join(ids[_key(parent)] for parent in job.after)}" if job.after else ""
        say(f"submitted {_key(job.step)} as {ids[_key(job.step)]}{after}")
    if not todo:
        say(f"everything is made: {goal.folder(command.root)}")


def _submitted(words: list[str]) -> str:
    """The number that Slurm gives a job."""
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ValueError(f"{shlex.join(words)}: {answer.stderr.strip()}")
    return answer.stdout.strip().partition(";")[0]


def _key(step: Step) -> str:
    return f"{step.name}-{step.digest}"
