"""The command line: one subcommand per thing a person wants of a recipe or a model folder."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve each other on busy cores

import typer

from innovator.data.tokenizer import Tokenizer
from innovator.document import read, schema
from innovator.export.export import export as write_export
from innovator.export.export import plan_table
from innovator.export.gguf_tensors import Stored
from innovator.export.subject import Subject
from innovator.export.targets import TARGETS, Gguf, choose, usual
from innovator.export.verdict import Exported, Runtime
from innovator.graph import Found, Graph
from innovator.models.generate import generate as speak
from innovator.pipeline import run as run_steps
from innovator.plan import print_plan
from innovator.recipe import Recipe
from innovator.report import Report, table
from innovator.say import say, show
from innovator.weights.folder import Folder

BAD_INPUT, DISK_FULL, INTERRUPTED = 2, 3, 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    help="Give a language model new sciences without making it forget: dense in, mixture of science experts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATH=VALUE]...", help="Fields to change, such as integrate.course.tokens=100000."),
]
To = Literal["auto", "dense", "glm4_moe", "qwen2_moe", "granitemoeshared", "gguf", "hf"]
Root = Annotated[Path, typer.Option(help="The folder that holds the steps' results.")]


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    only: Annotated[str | None, typer.Option(help="Make this one step; what it reads must be made already.")] = None,
) -> None:
    """Make everything that a recipe asks for and is not made yet; Ctrl-C and run again goes on where it stopped."""
    document = read(recipe, overrides or [], Recipe)
    if problems := document.problems():
        raise ValueError("\n".join(f"{recipe}: {problem}" for problem in problems))
    goal = Graph.of(document, Found.look(document)).goal
    made = run_steps(goal, root, only)
    if only is None:
        _show(made)


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    root: Root = Path("runs"),
    tflops: Annotated[
        float | None, typer.Option(min=0.0, help="What the machines that will run it reach together, for the times.")
    ] = None,
) -> None:
    """Show what a run would make and what is made already, parameters, tokens, FLOPs and time; does no work."""
    print_plan(read(recipe, overrides or [], Recipe), root, tflops)


@app.command()
def report(recipe: RecipePath, overrides: Overrides = None, root: Root = Path("runs")) -> None:
    """Show the table of a finished run again, and where its page is."""
    document = read(recipe, overrides or [], Recipe)
    goal = Graph.of(document, Found.look(document)).goal
    if not goal.found(root):
        raise ValueError(f"{goal.folder(root)} is not made yet: innovator run {recipe} makes it")
    _show(goal.folder(root))


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
    if pre_tokenizer is not None and isinstance(target, Gguf):
        target = Gguf(pre_tokenizer)
    _say_exported(write_export(folder, out, target, dtype or usual(folder), check), out)


@app.command(name="schema")
def print_schema() -> None:
    """Print the JSON Schema of recipes, for editors to complete and check them."""
    typer.echo(json.dumps(schema(Recipe), indent=2))


def main() -> None:
    """Run the command line; wrong input is one sentence and exit code 2, an interruption exit code 130."""
    try:
        app()
    except ValueError as error:
        say(f"error: {error}")
        sys.exit(BAD_INPUT)
    except OSError as error:
        if error.errno not in FULL:
            raise
        say("error: the disk is full; nothing half-written has a name. Make room and give the same command again")
        sys.exit(DISK_FULL)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer has already turned KeyboardInterrupt into this
            say("stopped; the same command goes on from the last checkpoint")
        raise


def _subject(model: Path) -> Subject:
    """What is, or will be, to be exported."""
    if model.suffix not in (".yaml", ".yml"):
        return Subject.of(Folder.open(model))
    recipe = read(model, [], Recipe)
    config = recipe.split.config(recipe.base.config(), len(recipe.disciplines))
    return Subject.planned(config, recipe.split)


def _say_exported(exported: Exported, out: Path) -> None:
    checked = exported.checked
    if checked is None:
        say("not compared with our own logits")
    else:
        share = "all" if checked.share == 1 else "half"
        said = (
            "are ours, bit for bit" if checked.identical else f"differ from ours by at most {checked.logits_error:.1e}"
        )
        say(f"{checked.loader}: the logits of {share} of {checked.n_tokens} random tokens {said}")
    say(f"made   {out}")


def _show(made: Path) -> None:
    show(table(Report.open(made)))
    say(f"page: {made / 'report.html'}")
