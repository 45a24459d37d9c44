"""The steps that a contest stands for: each contestant taught with each of its seeds, scored, and compared."""

from __future__ import annotations

from dataclasses import replace

from innovator.contest import Contest
from innovator.contest_report import ContestReportSpec
from innovator.graph import Found, Graph, Library
from innovator.models.cost import cost
from innovator.pipeline import Step
from innovator.stages import FreshSpec, Model, learn
from innovator.train.spec import TrainSpec


def heats(contest: Contest, found: Found) -> Graph:
    """The steps of a contest where these things are found."""
    library = Library(contest, found)
    models, scores = {}, []
    for name in contest.contestants:
        for seed in contest.seeds_of(name):
            heat = f"{name}-seed-{seed}"
            models[heat] = _taught(contest, library, name, seed)
            scores.append((f"score/{name}/{seed}", library.score(heat, models[heat])))
    work = ContestReportSpec(
        title=contest.title,
        corpora=tuple(contest.corpora),
        contestants=tuple(contest.contestants),
        licences=contest.licences,
    )
    return Graph(models, Step("report", work, tuple(scores)))


def tokens_of(contest: Contest, name: str) -> int:
    """How many tokens a contestant reads: those of the course, or as many as cost what another's training costs."""
    tokens, rival = contest.base.course.tokens, contest.contestants[name].flops_of
    if rival is None:
        return tokens
    return round(tokens * _training_flops(contest, rival) / _training_flops(contest, name))


def _training_flops(contest: Contest, name: str) -> float:
    decoder = contest.contestants[name].decoder(contest.base.decoder)
    return cost(decoder, contest.batch.seq_len, contest.trainable).training


def _taught(contest: Contest, library: Library, name: str, seed: int) -> Model:
    contestant = contest.contestants[name]
    decoder = contestant.decoder(contest.base.decoder)
    fresh = FreshSpec(decoder=decoder, seed=seed, init=contest.base.init)
    start = Step(f"fresh-{name}-seed-{seed}", fresh, (("tokenizer", library.tokenizer),))
    spec = TrainSpec(
        course=replace(contest.base.course, tokens=tokens_of(contest, name)),
        batch=contest.batch,
        mixture=contest.weights,
        disciplines=contest.disciplines,
        trainable=contest.trainable,
        losses=contestant.losses,
        precision=contest.precision,
        seed=seed,
    )
    return learn(f"{name}-seed-{seed}", Model(start, decoder), spec, library.corpora)
