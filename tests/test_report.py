"""The report's figures equal their definitions, and its page stands alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from innovator.report import Effort, Report, ReportSpec, table

DISCIPLINES = ("physics", "chemistry")
BITS = {
    "base": {"general": 1.0, "physics": 2.0, "chemistry": 1.0},
    "innovator": {"general": 1.25, "physics": 1.5, "chemistry": 1.1},
    "stage-3 warm-router": {"general": 1.0, "physics": 1.9, "chemistry": 0.9},
}
PASSES = {"innovator": 2.25}
ROUTING = {
    "corpora": ["general", *DISCIPLINES],
    "disciplines": list(DISCIPLINES),
    "load": [[[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]] * 2,
    "mass": [[[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]] * 2,
    "accuracy": [[None, 1.0, 0.5], [None, 0.8, 0.7]],
}


def write_json(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def scored(folder: Path, model: str, bits: Mapping[str, float]) -> Path:
    content = {
        "model": model,
        "bits_per_byte": bits,
        "n_tokens": dict.fromkeys(bits, 1000),
        "parameters": {"total": 4000, "active": 2000},
        "train_tokens": 0 if model == "base" else 5000,
        "train_flops": 1e9,
        "active_flops_per_token": 4e3,
        "effort": {"passes": PASSES.get(model, 1.0), "flops_per_token": 9e3, "bytes_per_token": 512, "passages": {}},
        "routing": None if model == "base" else ROUTING,
    }
    return write_json(folder / model.replace("/", "-"), "scores.json", content)


def trained(folder: Path, n_steps: int = 3) -> Path:
    folder.mkdir()
    lines = [json.dumps({"step": i, "tokens": 100 * i, "loss": 5.0 - i, "lr": 1e-3}) for i in range(n_steps)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def split(folder: Path) -> Path:
    parts = [{"layer": i, "parts_error": 1e-7} for i in range(2)]
    proof = {"layers": parts, "logits_error": 2e-6, "tolerance": 1e-4, "passed": True, "top_k": 2}
    moved = {"moved": dict.fromkeys(DISCIPLINES, 0.1), "cosine": [[1.0, 0.2], [0.2, 1.0]]}
    layers = [{"layer": i} | moved for i in range(2)]
    write_json(folder, "proof.json", proof)
    return write_json(folder, "induction.json", {"layers": layers, "disciplines": list(DISCIPLINES)})


def run_of(folder: Path, bits: Mapping[str, Mapping[str, float]]) -> dict[str, Path]:
    scores = {f"score/{model}": scored(folder, model, each) for model, each in bits.items()}
    return scores | {"train/base": trained(folder / "train-base"), "split": split(folder / "split")}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    inputs = run_of(tmp_path_factory.mktemp("run"), BITS)
    ReportSpec(title="A <b>run</b> & more", disciplines=DISCIPLINES).run(folder, inputs)
    return folder


def test_gain_is_the_mean_share_of_bits_saved_in_the_disciplines(out: Path) -> None:
    gain = Report.open(out).gain
    assert gain["base"] == 0
    assert gain["innovator"] == pytest.approx((0.25 - 0.10) / 2)
    assert gain["stage-3 warm-router"] == pytest.approx((0.05 + 0.10) / 2)


def test_retention_is_the_bases_general_bits_over_the_models(out: Path) -> None:
    assert Report.open(out).retention == {"base": 1.0, "innovator": 0.8, "stage-3 warm-router": 1.0}


def test_a_win_is_a_discipline_with_fewer_bits_than_the_base(out: Path) -> None:
    assert Report.open(out).win_rate == {"base": 0.0, "innovator": 0.5, "stage-3 warm-router": 1.0}


def test_routing_accuracy_is_a_mean_over_layers_and_over_disciplines(out: Path) -> None:
    routing = Report.open(out).routing
    assert set(routing) == {"innovator", "stage-3 warm-router"}
    assert routing["innovator"].accuracy == pytest.approx(0.75)
    assert routing["innovator"].by_layer == pytest.approx([0.75, 0.75])
    assert routing["innovator"].by_discipline == pytest.approx({"physics": 0.9, "chemistry": 0.6})


def test_costs_and_the_proof_are_reported_as_they_were_measured(out: Path) -> None:
    content = json.loads((out / "report.json").read_text())
    assert content["bits_per_byte"] == BITS
    assert content["tokens"] == {"base": 0, "innovator": 5000, "stage-3 warm-router": 5000}
    assert content["parameters"]["innovator"] == {"total": 4000, "active": 2000}
    assert (content["active_flops"]["base"], content["train_flops"]["base"]) == (4e3, 1e9)
    assert (content["proof"]["passed"], content["proof"]["tolerance"]) == (True, 1e-4)


def test_what_thinking_costs_is_told_of_the_models_that_think(out: Path) -> None:
    report = Report.open(out)
    assert report.efforts == {"innovator": Effort(passes=2.25, flops_per_token=9e3, bytes_per_token=512)}
    page = (out / "report.html").read_text()
    assert page.count("What thinking costs") == 1
    assert re.search(r'"row">innovator</th><td>2.25</td><td>9k</td><td>512</td>', page)
    console = Console(width=110)
    with console.capture() as capture:
        console.print(table(report))
    assert "innovator speaks each token with 2.25 passes, 9k FLOPs and 512 bytes" in capture.get()


def test_of_models_that_do_not_think_nothing_is_told(tmp_path: Path) -> None:
    inputs = {"score/base": scored(tmp_path, "base", BITS["base"])}
    ReportSpec(title="t", disciplines=DISCIPLINES).run(tmp_path, inputs)
    assert Report.open(tmp_path).efforts == {}
    assert "thinking" not in (tmp_path / "report.html").read_text()


def test_every_figure_is_a_file_and_stands_in_the_page(out: Path) -> None:
    names = {"forgetting", "learning", "likeness", "moved"}
    names |= {f"{kind}-{model}" for kind in ("routing", "accuracy") for model in ("innovator", "stage-3-warm-router")}
    assert {path.name for path in (out / "plots").iterdir()} == {f"{name}.png" for name in names}
    assert (out / "report.html").read_text().count("<svg") == len(names)


def test_the_page_asks_nothing_of_the_network(out: Path) -> None:
    page = (out / "report.html").read_text()
    targets = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]*)""", page)
    assert "data:image/png" in page
    assert {target for target in targets if not target.startswith(("#", "data:"))} == set()


def test_the_same_run_gives_the_same_page(out: Path, tmp_path: Path) -> None:
    inputs = run_of(tmp_path / "run", BITS)
    ReportSpec(title="A <b>run</b> & more", disciplines=DISCIPLINES).run(tmp_path, inputs)
    assert (tmp_path / "report.html").read_bytes() == (out / "report.html").read_bytes()


def test_the_headline_names_gain_retention_and_wins(out: Path) -> None:
    headline = re.search(r'<p class="headline">(.*?)</p>', (out / "report.html").read_text(), re.DOTALL)
    assert headline is not None
    assert [figure in headline[1] for figure in ("7.5% fewer", "80.0%", "1 of 2")] == [True] * 3


def test_names_are_escaped_in_the_page_and_plain_in_the_figures(out: Path, tmp_path: Path) -> None:
    assert "A &lt;b&gt;run&lt;/b&gt; &amp; more" in (out / "report.html").read_text()
    inputs = run_of(tmp_path / "run", BITS | {"$x^2$ <script> & [red]": BITS["innovator"]})
    ReportSpec(title="t", disciplines=DISCIPLINES).run(tmp_path, inputs)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    # Once as a row of the table and once as a label of the scatter, where it is text and not mathematics.
    assert page.count("$x^2$ &lt;script&gt; &amp; [red]") == 2


def test_without_training_and_split_the_report_is_the_scores_alone(tmp_path: Path) -> None:
    inputs = {"score/base": scored(tmp_path, "base", BITS["base"])}
    ReportSpec(title="t", disciplines=DISCIPLINES).run(tmp_path, inputs)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["forgetting.png"]
    assert Report.open(tmp_path).proof is None


def test_a_report_without_the_base_is_refused(tmp_path: Path) -> None:
    inputs = {"score/innovator": scored(tmp_path, "innovator", BITS["innovator"])}
    with pytest.raises(ValueError, match="compares with the base, but only these were scored: innovator"):
        ReportSpec(title="t", disciplines=DISCIPLINES).run(tmp_path, inputs)


def test_a_model_that_was_not_scored_on_a_discipline_is_refused(tmp_path: Path) -> None:
    inputs = {"score/base": scored(tmp_path, "base", {"general": 1.0, "physics": 1.0})}
    with pytest.raises(ValueError, match=r"base/scores.json: no bits per byte for chemistry"):
        ReportSpec(title="t", disciplines=DISCIPLINES).run(tmp_path, inputs)


def test_a_broken_line_of_metrics_is_named_by_file_line_and_field(tmp_path: Path) -> None:
    inputs = run_of(tmp_path, BITS)
    lines = '{"tokens": 1, "loss": 2.0}\n{"tokens": 2, "loss": "high"}\n'
    (inputs["train/base"] / "metrics.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: loss: "):
        ReportSpec(title="t", disciplines=DISCIPLINES).run(tmp_path, inputs)


@pytest.mark.parametrize("n_disciplines", [4, 9])
def test_the_table_fits_a_terminal_of_110_columns(tmp_path: Path, n_disciplines: int) -> None:
    disciplines = [f"astronomy-{i}" for i in range(n_disciplines)]
    same = dict.fromkeys(["general", *disciplines], 1.234)
    bits = {"base": same, "stage-3 warm-router": same}
    inputs = {f"score/{model}": scored(tmp_path, model, each) for model, each in bits.items()}
    ReportSpec(title="t", disciplines=tuple(disciplines)).run(tmp_path, inputs)
    console = Console(width=400, record=True, quiet=True)
    assert console.measure(table(Report.open(tmp_path))).maximum <= 110
