"""A card says what the folders of a run say, in their figures, and of what they do not say it says nothing."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pico import CORPORA, DISCIPLINES, GENERAL
from pico_recipe import Finished, write_recipe
from ruamel.yaml import YAML

from innovator.document import read
from innovator.export.card import Origin, card
from innovator.export.verdict import Checked, Exported, Verdict
from innovator.graph import SPLIT, Found, Graph
from innovator.models.cost import cost
from innovator.models.decoder import DecoderConfig
from innovator.pipeline import run
from innovator.recipe import Recipe
from innovator.report import Report
from innovator.weights.folder import Folder

Writer = Callable[[DecoderConfig, str], Folder]
LICENCES = "licences={general: CC-BY-4.0, botany: MIT}"
CHECKED = Checked(
    logits_error=2.5e-7, share=1.0, identical=False, tolerance=1e-5, n_tokens=96, loader="transformers 5.0"
)
EXPORTED = Exported(
    target="qwen2_moe",
    stored="bf16",
    verdicts={
        "transformers": Verdict("exact"),
        "vllm": Verdict("exact", launch="--trust-remote-code"),
        "sglang": Verdict("approximate", "the biases are left out"),
        "llama.cpp": Verdict("impossible", "use gguf"),
    },
    checked=CHECKED,
)
NOWHERE = dict.fromkeys(EXPORTED.verdicts, Verdict("impossible"))
BARE = ("What it was taught", "What it kept and what it learnt", "How it became a mixture")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run with one baseline, in which two corpora of five have a licence."""
    made = Finished(write_recipe(home := tmp_path_factory.mktemp("card")), home / "runs")
    recipe = recipe_of(made.recipe, LICENCES)
    run(Graph.of(recipe, Found.look(recipe)).goal, made.root)
    return made


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """The run once more, for a test that changes it."""
    return Finished(finished.recipe, shutil.copytree(finished.root, tmp_path / "runs", symlinks=True))


def recipe_of(path: Path, *overrides: str) -> Recipe:
    return read(path, ["baselines=[dense-equal-tokens]", *overrides], Recipe)


def written(finished: Finished, step: str = "integrate", exported: Exported = EXPORTED) -> str:
    return card(Folder.open(finished.step(step) / "weights"), exported)


def front_matter(text: str) -> dict[str, object]:
    _, front, _ = text.split("---\n", 2)
    found: dict[str, object] = YAML(typ="safe", pure=True).load(front)
    return found


def rows(text: str) -> dict[str, list[str]]:
    """Every row of the card's tables, by its first cell."""
    cells = (re.split(r" *(?<!\\)\| *", line)[1:-1] for line in text.splitlines() if line.startswith("|"))
    return {first: others for first, *others in cells}


def report_again(finished: Finished, root: Path, **changes: object) -> None:
    """The run's report once more under `root`, newer and with other contents."""
    again = shutil.copytree(finished.step("report"), root / "report-again")
    report = json.loads((again / "report.json").read_text())
    (again / "report.json").write_text(json.dumps({**report, **changes}))
    os.utime(again / "DONE")


def test_corpora_have_the_counts_of_their_manifests(finished: Finished) -> None:
    for corpus in CORPORA:
        splits = json.loads((finished.step(f"tokens-{corpus}") / "manifest.json").read_text())["splits"]
        held_out = splits["validation"]["documents"] + splits["test"]["documents"]
        counts = (splits["train"]["documents"], splits["train"]["tokens"], held_out)
        assert rows(written(finished))[corpus][:3] == [f"{n:,}" for n in counts]


def test_the_recipe_is_told_in_its_order(finished: Finished) -> None:
    stages = ("base", *(f"induce-{name}" for name in DISCIPLINES), "warm-router", "integrate")
    text = written(finished)
    table = [name for name in rows(text) if name in {finished.step(stage).name for stage in stages}]
    assert table == [finished.step(stage).name for stage in stages]
    recipe = recipe_of(finished.recipe)
    course, share = recipe.induce.course, recipe.induce.general_share
    told = [f"{course.tokens:,}", f"{course.optim.lr:g}", f"botany {1 - share:.0%}, {GENERAL} {share:.0%}"]
    assert rows(text)[finished.step("induce-botany").name][:3] == told


def test_the_table_of_forgetting_has_the_figures_of_the_report(finished: Finished) -> None:
    report, table = Report.open(finished.step("report")), rows(written(finished))
    names = {"base": "base", "innovator": "**innovator** (this model)", "dense-equal-tokens": "dense-equal-tokens"}
    for model, name in names.items():
        bits = [f"{report.bits_per_byte[model][corpus]:.3f}" for corpus in CORPORA]
        assert table[name] == [*bits, f"{report.retention[model]:.1%}", f"{report.gain[model]:+.1%}"]
    assert not [name for name in table if name.startswith("stage-")]


def test_a_stage_that_is_exported_has_its_own_row(finished: Finished) -> None:
    table = rows(written(finished, "split"))
    assert list(table).index("**stage-2-split** (this model)") == list(table).index("base") + 1
    assert "innovator" in table and "stage-3-warm-router" not in table


def test_tokens_and_arithmetic_are_those_of_the_score(finished: Finished) -> None:
    score = json.loads((finished.step("evaluate-innovator") / "scores.json").read_text())
    said = f"{score['train_tokens']:,} tokens, {score['train_flops']:.2e} floating-point operations"
    assert said in written(finished)


def test_the_model_has_the_shape_of_its_config(finished: Finished) -> None:
    counts = cost(Folder.open(finished.step("integrate") / "weights").config, seq_len=1)
    text = " ".join(written(finished).split())
    assert f"{counts.total:,} parameters, of which {counts.active:,} are at work" in text
    assert "8 experts per layer, each 16 wide, 2 per token, beside a shared expert 32 wide" in text
    assert f"4, with 2 experts each: {', '.join(DISCIPLINES)}" in text


def test_the_proof_is_that_of_the_split(finished: Finished) -> None:
    proof = json.loads((finished.step("split") / "proof.json").read_text())
    parts = max(layer["parts_error"] for layer in proof["layers"])
    said = ("cutting changes nothing", *(f"{x:.1e}" for x in (proof["logits_error"], proof["tolerance"], parts)))
    assert not [words for words in said if words not in written(finished)]


def test_versions_are_those_that_the_step_was_made_with(finished: Finished) -> None:
    step = finished.step("integrate")
    machine = json.loads((step / "machine.json").read_text())
    facts = [step.name, *(machine[name] for name in ("started", "innovator", "torch", "commit"))]
    assert not [fact for fact in facts if fact and fact not in written(finished)]


def test_a_corpus_without_a_licence_is_not_stated(finished: Finished) -> None:
    text = written(finished)
    said = {corpus: rows(text)[corpus][-1] for corpus in CORPORA}
    assert said == dict.fromkeys(CORPORA, "not stated") | {GENERAL: "CC-BY-4.0", "botany": "MIT"}
    assert front_matter(text)["license"] == "other"


def test_a_licence_makes_only_the_report_anew(finished: Finished) -> None:
    recipes = recipe_of(finished.recipe), recipe_of(finished.recipe, LICENCES)
    before, after = (Graph.of(it, Found.look(it)).goal.upstream() for it in recipes)
    assert [step.name for step in after if step not in before] == ["report"]


def test_one_licence_of_all_is_the_models(copied: Finished) -> None:
    report_again(copied, copied.root, licences=dict.fromkeys(CORPORA, "Apache-2.0"))
    assert front_matter(written(copied))["license"] == "apache-2.0"


def test_the_report_that_was_made_last_counts(copied: Finished) -> None:
    older = copied.step("report")
    report_again(copied, copied.root, title="Newer")
    assert "# Newer\n" in written(copied)
    os.utime(older / "DONE")
    assert "# Pico\n" in written(copied)


def test_without_a_report_there_is_no_table_and_the_step_gives_the_name(copied: Finished) -> None:
    shutil.rmtree(copied.step("report"))
    text = written(copied)
    assert BARE[1] not in text and "since the base" not in text
    assert f"# {copied.step('integrate').name}\n" in text
    assert {rows(text)[corpus][-1] for corpus in CORPORA} == {"not stated"}
    assert BARE[0] in text and BARE[2] in text


def test_a_model_that_was_not_scored_has_no_table(finished: Finished) -> None:
    text = written(finished, "aim-router")
    assert BARE[1] not in text and "# Pico\n" in text


def test_steps_that_are_gone_are_named_and_their_licence_is_unknown(copied: Finished) -> None:
    report_again(copied, copied.root, licences=dict.fromkeys(CORPORA, "MIT"))
    gone = copied.step("tokens-dance")
    shutil.rmtree(gone)
    text = written(copied)
    assert gone.name in text and "dance" not in rows(text)
    assert front_matter(text)["license"] == "other"


def test_a_plain_folder_has_a_short_card(mixture: DecoderConfig, write: Writer) -> None:
    text = card(write(mixture, "plain"), EXPORTED)
    assert "# plain\n" in text and "6 experts per layer, each 12 wide, 2 per token" in text
    assert "in all layers but 0" in text
    assert not [section for section in BARE if section in text]
    assert front_matter(text).keys() == {"library_name", "pipeline_tag", "tags"}


def test_a_dense_folder_has_no_experts(dense: DecoderConfig, write: Writer) -> None:
    text = card(write(dense, "dense"), EXPORTED)
    assert "A dense language model" in text and "expert" not in text.split("## Citation")[0]


def test_front_matter_is_what_the_hub_reads(finished: Finished) -> None:
    loaded = {"library_name": "transformers", "pipeline_tag": "text-generation", "license": "other"}
    assert front_matter(written(finished)) == {**loaded, "tags": ["moe", "arxiv:2507.18671", *DISCIPLINES]}


@pytest.fixture(scope="module")
def theirs(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The split of a base that others have made, and a report of it which says its licence."""
    home = tmp_path_factory.mktemp("theirs")
    shutil.copytree(finished.step("base") / "weights", home / "their-model")
    base = f"base={{kind: folder, path: {home / 'their-model'}}}"
    recipe = recipe_of(finished.recipe, base, "tokenizer={kind: base}", "induce=null", "licences={base: MIT}")
    split = Graph.of(recipe, Found.look(recipe)).models[SPLIT].step
    run(split, home / "runs")
    report_again(finished, home / "runs", licences={"base": "MIT"})
    report = {"work": "ReportSpec", "spec": {}, "inputs": {"split": f"split-{split.digest}"}}
    (home / "runs" / "report-again" / "spec.json").write_text(json.dumps(report))
    return Finished(finished.recipe, home / "runs")


def test_a_base_of_others_is_named_and_its_licence_counts(theirs: Finished) -> None:
    text = written(theirs, "split")
    assert (front_matter(text)["base_model"], front_matter(text)["license"]) == ("their-model", "mit")
    assert "- Base: their-model, licence: MIT\n" in text


def test_a_base_of_others_without_a_licence_is_not_stated(theirs: Finished, tmp_path: Path) -> None:
    unsaid = Finished(theirs.recipe, shutil.copytree(theirs.root, tmp_path / "runs", symlinks=True))
    shutil.rmtree(unsaid.step("report"))
    assert front_matter(written(unsaid, "split"))["license"] == "other"
    assert "- Base: their-model, licence: not stated\n" in written(unsaid, "split")


def test_a_base_in_the_hubs_cache_is_known_by_its_name_there() -> None:
    assert Origin.at("/hub/models--Qwen--Qwen2.5-0.5B/snapshots/060db6") == Origin("Qwen/Qwen2.5-0.5B", "060db6")
    assert Origin.at("/models/Qwen2.5-0.5B") == Origin("Qwen2.5-0.5B")


@pytest.mark.parametrize(
    ("checked", "said"),
    [
        (None, "**Not compared:**"),
        (replace(CHECKED, logits_error=0.0, identical=True), "Loaded by transformers 5.0, the logits agree"),
        (
            CHECKED,
            "all of 96 random tokens differ from the model's by at most 2.5e-07 of the largest; up to 1.0e-05 is",
        ),
        (
            replace(CHECKED, share=0.5, tolerance=0.1),
            "half of 96 random tokens differ from the model's by at most 2.5e-07",
        ),
        (replace(CHECKED, logits_error=0.3), "loaded by transformers 5.0, they differ by 3.0e-01 of the largest"),
        (replace(CHECKED, logits_error=math.nan), "loaded by transformers 5.0, they differ by nan of the largest"),
    ],
)
def test_the_comparison_is_said_as_it_came_out(finished: Finished, checked: Checked | None, said: str) -> None:
    text = " ".join(written(finished, exported=replace(EXPORTED, checked=checked)).split())
    sentences = ("**Not compared:**", "the logits agree", "by at most", "**Not the model's logits:**")
    assert said in text
    assert sum(sentence in text.partition("## The export")[2] for sentence in sentences) == 1


def test_verdicts_and_their_reasons_are_said(finished: Finished) -> None:
    for runtime, verdict in EXPORTED.verdicts.items():
        launch = f"`{verdict.launch}`" if verdict.launch else ""
        assert rows(written(finished))[runtime] == [verdict.grade, launch, verdict.why]


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if "FOLDER" in line and "`" not in line]


def test_it_says_how_to_load_it_where_it_can_be_loaded(finished: Finished) -> None:
    assert commands(written(finished)) == [
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto")',
        "vllm serve FOLDER --trust-remote-code",
        "python -m sglang.launch_server --model-path FOLDER",
    ]


def test_a_gguf_file_is_for_llama_cpp_alone(finished: Finished) -> None:
    exported = replace(EXPORTED, target="gguf", stored="q8_0", verdicts={**NOWHERE, "llama.cpp": Verdict("exact")})
    text = written(finished, exported=exported)
    assert front_matter(text)["library_name"] == "gguf"
    assert commands(text) == ["llama-cli --model FOLDER/model-q8_0.gguf"]


def test_our_own_code_is_loaded_with_trust(finished: Finished) -> None:
    trust = Verdict("exact", launch="trust_remote_code=True")
    text = written(finished, exported=replace(EXPORTED, verdicts={**NOWHERE, "transformers": trust}))
    assert 'from_pretrained("FOLDER", dtype="auto", trust_remote_code=True)' in text


def test_a_title_means_nothing_to_markdown(copied: Finished) -> None:
    report_again(copied, copied.root, title="A <b>run</b> | of *two*")
    assert r"# A \<b\>run\</b\> \| of \*two\*" in written(copied)


@pytest.mark.parametrize("name", ["geology", "base"])
def test_a_licence_of_what_is_not_there_is_refused(finished: Finished, name: str) -> None:
    with pytest.raises(ValueError, match=f"licences: there is no corpus '{name}'"):
        recipe_of(finished.recipe, f"licences={{{name}: MIT}}")
