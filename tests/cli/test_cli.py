"""The command line makes a run whole, finds it again, and shows what it made."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pico import CORPORA, DISCIPLINES
from pico_recipe import BASELINES, Command, Finished, folders, sentence, write_recipe

from innovator.say import Advance
from innovator.train import loop

MODELS = ["base", "stage-2-split", "stage-3-warm-router", "innovator", *BASELINES]
SHORT = ("baselines=[]",)


def test_a_run_reports_every_stage_and_every_baseline(finished: Finished) -> None:
    report = finished.report()
    for figure in ("bits_per_byte", "retention", "gain", "tokens", "train_flops", "parameters"):
        assert list(report[figure]) == MODELS, figure
    assert (finished.step("report") / "report.html").stat().st_size > 10_000


def test_the_base_keeps_all_it_has(finished: Finished) -> None:
    report = finished.report()
    assert report["retention"]["base"] == 1.0 and report["gain"]["base"] == 0.0
    assert report["tokens"]["base"] == 0 and report["train_flops"]["base"] == 0.0


def test_every_model_is_scored_on_every_corpus(finished: Finished) -> None:
    for bits in finished.report()["bits_per_byte"].values():
        assert isinstance(bits, dict) and set(bits) == set(CORPORA)
        assert all(0.0 < value < 20.0 for value in bits.values())


def test_the_split_is_proven_and_the_induction_measured(finished: Finished) -> None:
    proof = json.loads((finished.step("split") / "proof.json").read_text("utf8"))
    assert proof["passed"] and proof["logits_error"] <= proof["tolerance"]
    induction = json.loads((finished.step("split") / "induction.json").read_text("utf8"))
    assert induction["disciplines"] == list(DISCIPLINES)


def test_equal_tokens_are_equal_and_equal_flops_nearly(finished: Finished) -> None:
    """A run cannot be cut within a step of 128 tokens."""
    tokens, flops = finished.report()["tokens"], finished.report()["train_flops"]
    for name in set(BASELINES) - {"dense-equal-flops"}:
        assert abs(tokens[name] - tokens["innovator"]) <= 128
    assert flops["dense-equal-flops"] == pytest.approx(flops["innovator"], rel=0.03)


def test_a_second_run_makes_nothing(finished: Finished, innovator: Command) -> None:
    before = folders(finished.root)
    answer = innovator("run", finished.recipe, "--root", finished.root)
    assert answer.code == 0 and folders(finished.root) == before
    assert "making" not in answer.err and answer.err.count("found ") == len(before)


def test_a_change_of_stage_four_makes_only_what_follows(copied: Finished, innovator: Command) -> None:
    before = folders(copied.root)
    answer = innovator("run", copied.recipe, *SHORT, "integrate.course.tokens=256", "--root", copied.root)
    made = {name.rpartition("-")[0] for name in folders(copied.root) - before}
    assert answer.code == 0 and made == {"integrate", "evaluate-innovator", "report"}


def test_an_interrupted_run_goes_on_where_it_stopped(
    copied: Finished, innovator: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", copied.recipe, *SHORT, "integrate.course.tokens=512", "--root", copied.root)
    with monkeypatch.context() as terminal:
        terminal.setattr(loop, "progress", ctrl_c)
        stopped = innovator(*command)
    assert stopped.code == 130 and "stopped; the same command goes on from the last checkpoint" in stopped.err
    answer = innovator(*command)
    assert answer.code == 0 and "goes on from step 1 of 4" in answer.err


def test_steps_made_at_a_time_have_the_bytes_of_steps_made_in_turn(
    finished: Finished, innovator: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many threads in each process as there are here."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    answer = innovator("run", finished.recipe, "--root", tmp_path, "--jobs", "2")
    assert answer.code == 0 and "retention" in answer.err
    assert weights_and_scores(tmp_path) == weights_and_scores(finished.root)


def weights_and_scores(root: Path) -> dict[str, bytes]:
    files = [*root.glob("*/weights/*.safetensors"), *root.glob("*/scores.json")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def test_jobs_under_torchrun_are_refused(tmp_path: Path, innovator: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    said = sentence(innovator("run", write_recipe(tmp_path), "--root", tmp_path / "runs", "--jobs", "2"))
    assert "--jobs" in said and "torchrun" in said and not (tmp_path / "runs").exists()


@contextmanager
def ctrl_c(description: str, total: int, unit: str) -> Iterator[Advance]:
    """A terminal at which Ctrl-C is pressed after the first step."""

    def advance(n: int, **figures: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    yield advance


def test_the_report_is_shown_again(finished: Finished, innovator: Command) -> None:
    answer = innovator("report", finished.recipe, "--root", finished.root)
    assert answer.code == 0 and "retention" in answer.err and "report.html" in answer.err
    assert all(name in answer.err for name in ("base", "innovator", "btx"))


def test_a_report_that_is_not_made_is_not_shown(finished: Finished, innovator: Command, tmp_path: Path) -> None:
    said = sentence(innovator("report", finished.recipe, "--root", tmp_path / "runs"))
    assert "is not made yet" in said and not (tmp_path / "runs").exists()


def test_a_plan_shows_totals_and_makes_nothing(tmp_path: Path, innovator: Command) -> None:
    answer = innovator("plan", write_recipe(tmp_path), "--root", tmp_path / "runs")
    assert answer.code == 0 and not (tmp_path / "runs").exists()
    assert all(name in answer.err for name in MODELS)
    assert re.search(r"innovator +. +[\d.]+ k +. +[\d.]+ k +. +3\.58 k", answer.err)
    assert "to make" in answer.err and "found" not in answer.err and "not ready" not in answer.err


def test_a_plan_knows_what_is_made(finished: Finished, innovator: Command) -> None:
    answer = innovator("plan", finished.recipe, "--root", finished.root)
    assert "found" in answer.err and "to make" not in answer.err


def test_a_plan_says_what_is_missing(tmp_path: Path, innovator: Command) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "botany.jsonl").unlink()
    answer = innovator("plan", recipe, "--root", tmp_path / "runs")
    assert answer.code == 0 and "not ready: corpora.botany: no corpus at" in answer.err


@pytest.mark.parametrize("name", ["base", "integrate"])
def test_a_model_continues_a_prompt(finished: Finished, innovator: Command, name: str) -> None:
    answer = innovator("generate", finished.step(name) / "weights", "abc", "--tokens", "3")
    assert answer.code == 0 and answer.out.startswith("abc")
    assert answer.out == innovator("generate", finished.step(name) / "weights", "abc", "--tokens", "3").out


def test_the_schema_is_json_and_knows_the_fields(innovator: Command) -> None:
    answer = innovator("schema")
    assert answer.code == 0 and {"title", "corpora", "split"} <= json.loads(answer.out)["properties"].keys()


def test_the_kinds_of_schema_are_what_documents_may_say(innovator: Command) -> None:
    answer = innovator("schema", "--kind", "contest")
    assert answer.code == 0 and json.loads(answer.out)["properties"]["kind"]["const"] == "contest"
    assert "kind" not in json.loads(innovator("schema").out)["properties"]
    refused = innovator("schema", "--kind", "innovator")
    assert refused.code == 2 and "'innovator' is not" in refused.err
