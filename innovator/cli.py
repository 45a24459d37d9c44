"""The command line: one subcommand per thing a person wants of a recipe or a model folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve each other on busy cores

import typer

from innovator.abreast import run_abreast
from innovator.contest import Contest
from innovator.curate_commands import curate, installed, label
from innovator.data.tokenizer import Tokenizer
from innovator.document import schema
from innovator.ends import INTERRUPTED, ending
from innovator.engine.parallel import Engine, Recompute
from innovator.engine.processes import leave
from innovator.export.export import export as write_export
from innovator.export.export import plan_table
from innovator.export.gguf_tensors import Stored
from innovator.export.subject import Subject
from innovator.export.targets import TARGETS, Gguf, choose, usual
from innovator.export.verdict import Exported, Runtime
from innovator.graph import OURS, Found, Graph
from innovator.kinds import goal_of, read_recipe, summary
from innovator.launch import SHARED, Command, Slurm, preview, submit
from innovator.models.generate import generate as speak
from innovator.pipeline import Step, Work, follow
from innovator.pipeline import run as run_steps
from innovator.plan import print_plan
from innovator.recipe import Recipe
from innovator.say import say, show
from innovator.train.loop import REQUEUE
from innovator.train.mesh import Machines
from innovator.weights.folder import Folder

app = typer.Typer(
    help="Give a language model new sciences without making it forget: dense in, mixture of science experts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(curate)
app.command()(label)
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATH=VALUE]...", help="Fields to change, such as integrate.course.tokens=100000."),
]
To = Literal["auto", "dense", "glm4_moe", "qwen2_moe", "granitemoeshared", "gguf", "hf"]
Root = Annotated[Path, typer.Option(help="The folder that holds the steps' results.")]
Replicate = Annotated[int, typer.Option(min=1, help="Groups of processes that hold all weights.")]
Experts = Annotated[int, typer.Option(min=1, help="Among how many processes of a group the experts stand.")]
Recomputed = Annotated[Recompute, typer.Option(help="What the backward pass computes again instead of keeping.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the blocks of the model.")]


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    only: Annotated[str | None, typer.Option(help="Make this one step; what it reads must be made already.")] = None,
    replicate: Replicate = 1,
    experts: Experts = 1,
    recompute: Recomputed = "none",
    compile: Compile = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Save and stop after so long, with exit code 75.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Steps made at a time, each on its share of the cores and a GPU of its own.")
    ] = 1,
) -> None:
    """Make everything that a recipe asks for and is not made yet; the same command again goes on where it stopped.

    All GPUs on one step after the other: torchrun --nproc-per-node 8 -m innovator run RECIPE.

    Each GPU on a step of its own (disciplines, baselines, seeds): innovator run RECIPE --jobs 8.
    """
    if jobs > 1 and "RANK" in os.environ:
        raise ValueError("--jobs makes steps side by side, torchrun each step on all processes: take one of the two")
    goal = goal_of(recipe, overrides or [])
    stop_at = None if minutes is None else time.time() + 60 * minutes
    engine = Engine(replicate=replicate, experts=experts, recompute=recompute, compile=compile, stop_at=stop_at)
    if os.environ.get("RANK", "0") != "0":
        follow(goal, root, only, partial(_do, engine), SHARED)
        return
    if jobs > 1:
        run_abreast(goal, root, only, partial(_do, engine), jobs)
    else:
        run_steps(goal, root, only, partial(_do, engine))
    if only is None:
        _show(goal, root)


def _do(engine: Engine, work: Work, out: Path, inputs: Mapping[str, Path]) -> None:
    """A step's work: on all the processes of this run if it can be shared, else by itself."""
    if isinstance(work, SHARED):
        work.run(out, inputs, engine)
    else:
        work.run(out, inputs)


@app.command()
def launch(
    recipe: RecipePath,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    slurm: Annotated[bool, typer.Option("--slurm", help="As jobs of Slurm, one for each step.")] = False,
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes training, aiming and scoring take.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="How many GPUs each of them has.")] = 8,
    minutes: Annotated[int, typer.Option(min=1, help="The time limit of a job.")] = 240,
    reserve: Annotated[
        int, typer.Option(min=0, help="Minutes of it in which a training starts, ends its last step and is saved.")
    ] = 15,
    partition: Annotated[str | None, typer.Option(help="Where jobs are to run.")] = None,
    account: Annotated[str | None, typer.Option(help="Who pays for them.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="One more option of every job, such as --sbatch=--constraint=h100.")
    ] = None,
    replicate: Replicate = 1,
    experts: Experts = 1,
    recompute: Recomputed = "none",
    compile: Compile = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the files and how they are submitted.")] = False,
) -> None:
    """Let a cluster make everything that a recipe asks for: jobs that wait for each other and go on when stopped."""
    if not slurm:
        raise ValueError("name the scheduler: --slurm; on one machine there is none: see innovator run --help")
    named = {"partition": partition, "account": account}
    options = (*(f"--{name}={value}" for name, value in named.items() if value is not None), *(sbatch or []))
    engine = Engine(replicate=replicate, experts=experts, recompute=recompute, compile=compile)
    asked = Slurm(
        nodes=nodes, gpus_per_node=gpus_per_node, minutes=minutes, reserve=reserve, options=options, engine=engine
    )
    command = Command(recipe, tuple(overrides or []), root)
    goal = goal_of(recipe, overrides or [])
    if dry_run:
        typer.echo(preview(goal, command, asked))
    else:
        submit(goal, command, asked)


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    tflops: Annotated[
        float | None, typer.Option(min=0.0, help="What the machines that will run it reach together, for the times.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many GPUs will run it; shows what fits there.")] = None,
    gpu_memory: Annotated[float, typer.Option(min=1.0, help="GiB of each GPU.")] = 80.0,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="How many GPUs experts may be divided among.")] = 8,
    utilisation: Annotated[float, typer.Option(min=0.01, max=1.0, help="Model FLOPs of what GPUs can do.")] = 0.4,
    gpu_tflops: Annotated[float, typer.Option(min=0.1, help="What each GPU can do.")] = 400.0,
) -> None:
    """Show what a run would make and what is made already, parameters, tokens, FLOPs and time; does no work.

    With --gpus also how each training step is best spread over them, and its memory on each.
    """
    machines = None
    if gpus is not None:
        machines = Machines(
            n_gpus=gpus, memory=gpu_memory, per_node=gpus_per_node, utilisation=utilisation, tflops=gpu_tflops
        )
    print_plan(read_recipe(recipe, overrides or []), root, tflops, machines)


@app.command()
def report(recipe: RecipePath, overrides: Overrides = None, root: Root = Path("runs")) -> None:
    """Show the table of a finished run again, and where its page is."""
    goal = goal_of(recipe, overrides or [])
    if not goal.found(root):
        raise ValueError(f"{goal.folder(root)} is not made yet: innovator run {recipe} makes it")
    _show(goal, root)


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(help="A model folder: a Hugging Face one, or a step's weights.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens at most.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="What the draws depend on.")] = 0,
) -> None:
    """Let a model continue a prompt."""
    tokenizer = Tokenizer.open(folder)
    model = Folder.open(folder).load().eval()
    ids = [tokenizer.prefix_id, *tokenizer.encode_batch([prompt])[0]]
    stop = tokenizer.eos_id
    spoken = speak(model, [ids], tokens, temperature=temperature, seed=seed, stop=stop)[0]
    typer.echo(prompt + tokenizer.decode(spoken))


@app.command()
def export(
    model: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A model folder, such as a step's weights; with --plan also a recipe."),
    ],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="The folder to write; it must not exist.")] = None,
    to: Annotated[To, typer.Option(help="What to write; auto takes the first that is exact.")] = "auto",
    runtime: Annotated[
        Runtime | None, typer.Option(help="What will load it; auto then takes what is exact there.")
    ] = None,
    dtype: Annotated[Stored | None, typer.Option(help="How numbers are stored; without it as they are.")] = None,
    pre_tokenizer: Annotated[
        str | None, typer.Option(help="For gguf: llama.cpp's name of an unusual tokenizer's rule.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Read it again in a fresh process and compare the logits.")] = True,
    plan: Annotated[bool, typer.Option("--plan", help="Only show which target is exact where; write nothing.")] = False,
) -> None:
    """Write a model for others to load: as a stock mixture if one is the same function, as GGUF, or with its code."""
    if plan:
        show(plan_table(_subject(model), str(model)))
        return
    if out is None:
        raise ValueError(f"name the folder to write: innovator export {model} OUT")
    folder = Folder.open(model)
    target = choose(Subject.of(folder), runtime) if to == "auto" else next(t for t in TARGETS if t.name == to)
    verdict = target.verdict(Subject.of(folder), runtime or "transformers")
    if runtime is not None and verdict.grade == "impossible":
        raise ValueError(f"{target.name} is impossible for {runtime}: {verdict.why}")
    if pre_tokenizer is not None and isinstance(target, Gguf):
        target = Gguf(pre_tokenizer)
    _say_exported(write_export(folder, out, target, dtype or usual(folder), check), out)


@app.command(name="schema")
def print_schema(
    kind: Annotated[
        Literal["contest", "curation"] | None,
        typer.Option(help="Of recipes that say so in `kind`; else of those that say nothing."),
    ] = None,
) -> None:
    """Print the JSON Schema of recipes, for editors to complete and check them."""
    of: dict[str | None, type[object]] = {None: Recipe, "contest": Contest}
    if kind == "curation":
        with installed():
            from innovator.curation import Curation
        of[kind] = Curation
    typer.echo(json.dumps(schema(of[kind]), indent=2))


def main() -> None:
    """Run the command line; wrong input is one sentence and exit code 2, Ctrl-C exit code 130, SIGTERM 75."""
    try:
        with ending():
            app()
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, REQUEUE):
            say("stopped; the same command goes on from the last checkpoint")
        if not ended.code:
            leave()  # in any other case processes may wait that are no more
        raise


def _subject(model: Path) -> Subject:
    """What is, or will be, to be exported."""
    if model.suffix not in (".yaml", ".yml"):
        return Subject.of(Folder.open(model))
    recipe = read_recipe(model, [])
    if isinstance(recipe, Contest):
        raise ValueError(f"{model}: a contest makes many models: give the folder of one, a step's weights")
    graph = Graph.of(recipe, Found.nothing(recipe))
    return Subject.planned(graph.models[OURS].config, recipe.split)


def _say_exported(exported: Exported, out: Path) -> None:
    checked = exported.checked
    for runtime, verdict in exported.verdicts.items():
        if verdict.grade == "approximate":
            say(f"only approximate in {runtime}: {verdict.why}")
    if checked is None:
        say("not compared with our own logits")
    else:
        share = "all" if checked.share == 1 else "half"
        said = (
            "are ours, bit for bit" if checked.identical else f"differ from ours by at most {checked.logits_error:.1e}"
        )
        say(f"{checked.loader}: the logits of {share} of {checked.n_tokens} random tokens {said}")
    say(f"made   {out}")


def _show(goal: Step, root: Path) -> None:
    show(summary(goal, root))
    say(f"page: {goal.folder(root) / 'report.html'}")
