"""The subcommands for texts: `innovator curate` makes corpora of raw documents, `innovator label` asks experts.

What they need is imported when they are called: it is an extra, `pip install "innovator[curate]"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from innovator.pipeline import run as run_steps
from innovator.say import say, show

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A curation, such as recipes/curate.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Fields to change, such as n_tasks=32.")
]


def curate(
    recipe: RecipePath,
    overrides: Overrides = None,
    root: Annotated[Path, typer.Option(help="The folder that holds the steps' results.")] = Path("curations"),
    only: Annotated[str | None, typer.Option(help="Make this one step; what it reads must be made already.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show the steps, and which are made; do no work.")] = False,
) -> None:
    """Make clean corpora by discipline of raw documents; the same command again goes on where it stopped.

    Every step keeps what it dropped, with the reason, and accounts for all it changed. The last line is what a
    training recipe says to read the corpora.
    """
    with installed():
        from innovator.curation_report import curation_table, gather
        from innovator.curation_steps import do, goal_of, plan_table, report_inputs

    root = root.resolve()  # tasks may run in other folders
    curation, goal = goal_of(recipe, overrides or [])
    if plan:
        show(plan_table(curation, goal, root))
        return
    run_steps(goal, root, only, partial(do, curation.executor))
    if only is None:
        inputs = report_inputs(goal, root)
        show(curation_table(gather(curation.title, inputs)))
        say(f"page: {goal.folder(root) / 'account.html'}")
        names = (curation.general, *curation.disciplines)
        lines = (f"  {name}: {{kind: curated, path: {inputs['corpora']}, corpus: {name}}}" for name in names)
        say("\n".join(["for a training recipe:", "corpora:", *lines]))


def label(
    documents: Annotated[Path, typer.Argument(help="Documents: JSON Lines, a folder of them, or a curation's step.")],
    rubric: Annotated[
        Path | None, typer.Option(help="What is asked of the documents; without it, the rubric for science.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of judgements, one file for each annotator.")] = Path("labels"),
    annotator: Annotated[str | None, typer.Option(help="Who judges; not needed with --agreement.")] = None,
    mode: Annotated[
        Literal["pairs", "grades"], typer.Option(help="Which of two is better, or a grade for one.")
    ] = "pairs",
    n: Annotated[int, typer.Option(min=1, help="How many judgements of each criterion.")] = 50,
    double: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that all annotators are asked.")] = 0.3,
    seed: Annotated[int, typer.Option(help="What the draws depend on.")] = 0,
    terminal: Annotated[bool, typer.Option("--terminal", help="Ask here instead of on a local web page.")] = False,
    port: Annotated[int, typer.Option(min=0, help="Of the page; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
    agreement: Annotated[bool, typer.Option("--agreement", help="Only show how far annotators agree.")] = False,
) -> None:
    """Let experts rank or grade documents with the rubric beside them, and show how far they agree."""
    with installed():
        from innovator.curate.labelling import agreement_table
        from innovator.curate.labelling import label as ask
        from innovator.curate.rubric import SCIENCE

    criteria = rubric or SCIENCE
    if not agreement:
        if annotator is None:
            raise ValueError("say who judges: --annotator NAME")
        ask(documents, criteria, out, annotator, mode, n, double, seed, terminal, port, browser)
    show(agreement_table(out, criteria))


@contextmanager
def installed() -> Iterator[None]:
    """ValueError that says how to install what is imported inside, if it is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(
            f'{error.name} is not installed: curation needs `pip install "innovator[curate]"`, and [pdf] for PDF'
        ) from error
