"""What has been made is found again, and what has not been made never passes for it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from innovator.models.spec import Spec
from innovator.pipeline import Step, StepError, run


@dataclass(frozen=True, kw_only=True)
class Word(Spec):
    """Writes a word after what its inputs hold; counts in `tries` how often it was asked to."""

    text: str
    weights: Mapping[str, float] | None = None
    places: tuple[Path, ...] = ()

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        with (out / "tries").open("a") as tries:
            tries.write("x")
        before = [(folder / "text").read_text() for folder in inputs.values()]
        (out / "text").write_text(" ".join([*before, self.text]))


@dataclass(frozen=True, kw_only=True)
class Halting(Spec):
    """Refuses until the file `ready` is there, leaving half of its work behind."""

    ready: Path

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        if (out / "half").exists() and self.ready.exists():
            (out / "text").write_text("resumed")
            return
        (out / "half").touch()
        raise ValueError("the ink has run out")


@dataclass(frozen=True, kw_only=True)
class Broken(Spec):
    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        raise ZeroDivisionError


def diamond(first: str = "one") -> Step:
    top = Step("top", Word(text=first))
    left = Step("left", Word(text="two"), (("above", top),))
    right = Step("right", Word(text="three"), (("above", top),))
    return Step("bottom", Word(text="four"), (("left", left), ("right", right)))


def tries(root: Path, step: Step) -> int:
    return len((step.folder(root) / "tries").read_text())


def test_a_goal_is_made_from_all_it_needs(tmp_path: Path) -> None:
    folder = run(diamond(), tmp_path)
    assert (folder / "text").read_text() == "one two one three four"


def test_parents_come_before_their_children_and_each_step_once() -> None:
    assert [step.name for step in diamond().upstream()] == ["top", "left", "right", "bottom"]


def test_steps_that_differ_in_name_alone_are_both_made(tmp_path: Path) -> None:
    a, b = Step("a", Word(text="x")), Step("b", Word(text="x"))
    run(Step("both", Word(text="y"), (("a", a), ("b", b))), tmp_path)
    assert a.found(tmp_path) and b.found(tmp_path)


def test_a_finished_step_is_found(tmp_path: Path) -> None:
    run(diamond(), tmp_path)
    run(diamond(), tmp_path)
    assert [tries(tmp_path, step) for step in diamond().upstream()] == [1, 1, 1, 1]


def test_what_is_found_and_made_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step = Step("top", Word(text="one"))
    run(step, tmp_path)
    run(step, tmp_path)
    name = step.folder(tmp_path).name
    assert re.search(rf"made   {name}  \d+\.\d s\nfound  {name}\n", capfd.readouterr().err)


def test_a_change_upstream_changes_every_folder_below_it() -> None:
    changed = zip(diamond().upstream(), diamond("uno").upstream(), strict=True)
    assert all(one.digest != other.digest for one, other in changed)


def said_of(capfd: pytest.CaptureFixture[str]) -> str:
    """The line about a step that is there with other fields."""
    lines = [line for line in capfd.readouterr().err.splitlines() if "stays as it is" in line]
    return lines[0] if lines else ""


def test_other_weights_make_another_step_from_its_beginning_and_are_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = Step("blend", Word(text="x", weights={"general": 0.5, "botany": 0.5}))
    after = Step("blend", Word(text="x", weights={"general": 0.25, "botany": 0.5}))
    old = run(before, tmp_path)
    assert said_of(capfd) == ""
    files = {path: path.read_bytes() for path in old.iterdir()}
    new = run(after, tmp_path)
    assert said_of(capfd) == f"blend: {old.name} stays as it is; this one is made for weights.general 0.5 -> 0.25"
    assert {path: path.read_bytes() for path in old.iterdir()} == files
    assert new != old and tries(tmp_path, after) == 1


def test_a_half_made_step_with_other_weights_stays_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    half = Step("slow", Halting(ready=tmp_path / "ready"))
    with pytest.raises(StepError):
        run(half, tmp_path)
    capfd.readouterr()
    with pytest.raises(StepError):
        run(Step("slow", Halting(ready=tmp_path / "other")), tmp_path)
    assert f"{half.folder(tmp_path).name} stays as it is" in said_of(capfd)
    with pytest.raises(StepError):
        run(half, tmp_path)
    assert said_of(capfd) == ""  # nothing is new when a step is entered again


def test_of_a_step_made_anew_by_what_is_upstream_the_input_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def pair(text: str) -> tuple[Step, Step]:
        top = Step("top", Word(text=text))
        return top, Step("below", Word(text="same"), (("above", top),))

    (one, below), (two, anew) = pair("one"), pair("two")
    run(below, tmp_path)
    capfd.readouterr()
    run(anew, tmp_path)
    names = [step.folder(tmp_path).name for step in (one, two)]
    assert f'made for inputs.above "{names[0]}" -> "{names[1]}"\n' in capfd.readouterr().err


def test_a_step_is_compared_with_the_newest_of_its_name_and_with_no_longer_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("word", "one"), ("word", "two"), ("word-long", "three")):
        run(Step(name, Word(text=text)), tmp_path)
    capfd.readouterr()
    run(Step("word", Word(text="four")), tmp_path)
    assert said_of(capfd).endswith('text "two" -> "four"')


def test_few_of_many_changes_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for weight in (1.0, 2.0):
        run(Step("word", Word(text="x", weights=dict.fromkeys("abcdef", weight))), tmp_path)
    assert said_of(capfd).endswith("weights.d 1.0 -> 2.0 and 2 more")


@pytest.mark.parametrize(
    "other",
    [
        Word(text="y"),
        Word(text="x", weights={"b": 2.0, "a": 1.0}),
        Word(text="x", weights={"a": 1.0, "b": 2.0}),
        Word(text="x", places=(Path("a/b"),)),
    ],
)
def test_a_change_of_the_spec_changes_the_digest(other: Word) -> None:
    assert Step("s", other).digest != Step("s", Word(text="x", weights={"a": 1.0})).digest


def test_the_role_of_an_input_is_part_of_the_digest() -> None:
    top, word = Step("top", Word(text="one")), Word(text="two")
    assert Step("s", word, (("a", top),)).digest != Step("s", word, (("b", top),)).digest


def test_the_digest_is_the_same_in_every_process() -> None:
    word = Word(text="x", weights={"b": 0.1, "a": 1e-9}, places=(Path("a/b"), Path("c")))
    assert Step("s", word).digest == "5cb0187b"


def test_the_record_names_the_spec_and_the_inputs(tmp_path: Path) -> None:
    goal = diamond()
    record = json.loads((run(goal, tmp_path) / "spec.json").read_text())
    assert record["work"] == "Word"
    assert record["spec"] == {"text": "four", "weights": None, "places": []}
    assert record["inputs"] == {role: parent.folder(tmp_path).name for role, parent in goal.inputs}


def test_the_machine_is_recorded(tmp_path: Path) -> None:
    machine = json.loads((run(diamond(), tmp_path) / "machine.json").read_text())
    assert machine["python"].startswith("3.") and machine["torch"] and machine["n_cpus"] == os.cpu_count()


def test_a_step_that_fails_is_not_found_and_is_named(tmp_path: Path) -> None:
    step = Step("slow", Halting(ready=tmp_path / "ready"))
    with pytest.raises(StepError, match=r"^slow: the ink has run out$"):
        run(step, tmp_path)
    assert not step.found(tmp_path)


def test_a_half_made_step_is_entered_again(tmp_path: Path) -> None:
    step = Step("slow", Halting(ready=tmp_path / "ready"))
    with pytest.raises(StepError):
        run(step, tmp_path)
    (tmp_path / "ready").touch()
    assert (run(step, tmp_path) / "text").read_text() == "resumed"


def test_an_error_that_is_not_the_users_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(Step("broken", Broken()), tmp_path)


def test_only_the_named_step_is_made(tmp_path: Path) -> None:
    goal = diamond()
    top, left, right, bottom = goal.upstream()
    assert run(goal, tmp_path, only="top") == top.folder(tmp_path)
    assert run(goal, tmp_path, only="left") == left.folder(tmp_path)
    assert not right.found(tmp_path) and not bottom.found(tmp_path)


def test_a_step_is_not_made_before_its_parents(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"^left: needs top-[0-9a-f]{8}, not made yet"):
        run(diamond(), tmp_path, only="left")


def test_a_step_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no step 'middle'; the steps are top, left, right, bottom"):
        run(diamond(), tmp_path, only="middle")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "two words"])
def test_a_step_stays_inside_its_root(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a folder"):
        Step(name, Word(text="x"))


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    step = Step("top", Word(text="one"))
    step.folder(tmp_path).mkdir()
    with (step.folder(tmp_path) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StepError, match="another process is making"):
            run(step, tmp_path)
    assert run(step, tmp_path) == step.folder(tmp_path)


KILLED = """
import os, signal, sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from innovator.models.spec import Spec
from innovator.pipeline import Step, run

@dataclass(frozen=True, kw_only=True)
class Word(Spec):
    text: str
    weights: Mapping[str, float] | None = None
    places: tuple[Path, ...] = ()
    def run(self, out, inputs):
        (out / "tries").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)

run(Step("top", Word(text="one")), Path(sys.argv[1]))
"""


def test_a_killed_step_leaves_no_lock_and_is_made_again(tmp_path: Path) -> None:
    step = Step("top", Word(text="one"))
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert step.folder(tmp_path).exists() and not step.found(tmp_path)
    run(step, tmp_path)
    assert step.found(tmp_path) and tries(tmp_path, step) == 2
