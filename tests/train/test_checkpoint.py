"""A run goes on from the last thing that was surely saved, on another number of ranks too."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from pico import CORPORA, World, folder, texts
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from innovator.data.mixture import Mixture
from innovator.data.tokens import TokenFile
from innovator.train.checkpoint import KEPT, Cadence, Checkpoints, Progress, saved
from innovator.train.skipped import Skipped, record

N_FEATURES = 33  # does not divide among two ranks
RUN = "this one"


class Learner:
    """A model with an optimizer, and a frozen part."""

    def __init__(self, seed: int = 0, *, sharded: bool = False) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(8, N_FEATURES), nn.Linear(N_FEATURES, 8), nn.Linear(8, 8))
        self.model[2].requires_grad_(False)
        if sharded:
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            fully_shard(self.model[0], mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        matrices = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.requires_grad and p.ndim == 1]
        # More groups where it is sharded, as there are where parameters are on several meshes.
        groups = [[p] for p in (*matrices, *vectors)] if sharded else [matrices, vectors]
        self.optimizer = AdamW([{"params": group, "factor": 1.0} for group in groups], lr=1e-2, fused=True)

    def learn(self, step: int) -> None:
        self.model(torch.full((4, 8), float(step))).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, where: Path, step: int, skipped: int = 0) -> None:
        Checkpoints(where, RUN, aside=False).save(Progress(step, skipped), self.model, self.optimizer)

    def load(self, where: Path) -> Progress:
        return Checkpoints(where, RUN, aside=False).load(self.model, self.optimizer)

    def tensors(self) -> dict[str, Tensor]:
        """What learns, and the optimizer's state, whole."""
        learning = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        found = {name: parameter.detach() for name, parameter in learning.items()}
        for name, parameter in learning.items():
            found |= {f"{name} {key}": value for key, value in self.optimizer.state[parameter].items()}
        return {name: t.full_tensor() if isinstance(t, DTensor) else t.clone() for name, t in found.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def history(tmp_path: Path) -> dict[int, dict[str, Tensor]]:
    """What the learner was when each of three checkpoints was saved in `tmp_path`."""
    learner, states = Learner(), {}
    for step in (1, 2, 3):
        learner.learn(step)
        learner.save(tmp_path, step, skipped=step - 1)
        states[step] = learner.tensors()
    return states


def spoil(checkpoint: Path) -> None:
    """Flip one bit in the middle of the data."""
    (data,) = checkpoint.glob("*.distcp")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """No file may become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(where: Path) -> set[str]:
    return {path.name for path in where.iterdir()}


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path, history: dict[int, dict[str, Tensor]]) -> None:
    learner = Learner()
    assert learner.load(tmp_path) == Progress(3, 2)
    assert same(learner.tensors(), history[3])


def test_the_last_checkpoints_are_kept(tmp_path: Path, history: dict[int, dict[str, Tensor]]) -> None:
    assert names(tmp_path) == {"00000002", "00000003"} and KEPT == 2


def test_a_run_without_checkpoints_begins(tmp_path: Path) -> None:
    assert Learner().load(tmp_path / "none") == Progress()


def delete_data(checkpoint: Path) -> None:
    (data,) = checkpoint.glob("*.distcp")
    data.unlink()


def cut(checkpoint: Path) -> None:
    (data,) = checkpoint.glob("*.distcp")
    data.write_bytes(data.read_bytes()[:-1])


def delete_sums(checkpoint: Path) -> None:
    (checkpoint / "checksums.json").unlink()


def spoil_index(checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(b"")


@pytest.mark.parametrize("harm", [spoil, delete_data, cut, delete_sums, spoil_index])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    tmp_path: Path,
    history: dict[int, dict[str, Tensor]],
    capfd: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
) -> None:
    harm(tmp_path / "00000003")
    learner = Learner()
    assert learner.load(tmp_path) == Progress(2, 1) and same(learner.tensors(), history[2])
    assert names(tmp_path) == {"00000002", "damaged-00000003"}
    said = capfd.readouterr().err
    assert "00000003 is damaged (" in said and "set aside as damaged-00000003" in said


def test_the_damaged_file_is_named(
    tmp_path: Path, history: dict[int, dict[str, Tensor]], capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(tmp_path / "00000003")
    Learner().load(tmp_path)
    assert "(__0_0.distcp is not what was written)" in capfd.readouterr().err


def test_with_all_damaged_the_run_begins_and_says_so(
    tmp_path: Path, history: dict[int, dict[str, Tensor]], capfd: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in saved(tmp_path):
        spoil(checkpoint)
    learner, untouched = Learner(), Learner()
    assert learner.load(tmp_path) == Progress() and not saved(tmp_path)
    assert same(learner.tensors(), untouched.tensors())
    assert "no checkpoint is whole: starts from the beginning" in capfd.readouterr().err


def test_a_step_may_be_saved_again(tmp_path: Path, history: dict[int, dict[str, Tensor]]) -> None:
    spoil(tmp_path / "00000003")
    learner = Learner()
    learner.load(tmp_path)
    learner.learn(3)
    learner.save(tmp_path, 3)
    learner.save(tmp_path, 3)
    assert same(learner.tensors(), history[3]) and Learner().load(tmp_path) == Progress(3)


@pytest.mark.parametrize("n_bytes", [0, 100, 3_000, 20_000])
def test_a_full_disk_is_an_os_error_and_leaves_what_was_there(
    tmp_path: Path, history: dict[int, dict[str, Tensor]], n_bytes: int
) -> None:
    """The data are 25 kB: the disk is full at the first byte, in the numbers, in the first tensor and in the last."""
    learner = Learner()
    learner.load(tmp_path)
    with full_disk(n_bytes), pytest.raises(OSError, match="File too large"):
        learner.save(tmp_path, 4)
    assert names(tmp_path) == {"00000002", "00000003"}
    assert Learner().load(tmp_path) == Progress(3, 2)


def test_what_a_dead_process_was_writing_does_not_count_and_goes(
    tmp_path: Path, history: dict[int, dict[str, Tensor]]
) -> None:
    (tmp_path / "00000003").rename(tmp_path / ".partial-00000003")
    learner = Learner()
    assert learner.load(tmp_path) == Progress(2, 1)
    learner.save(tmp_path, 5)
    assert names(tmp_path) == {"00000002", "00000005"}


def test_a_checkpoint_written_aside_is_what_the_run_was_when_it_was_asked_for(tmp_path: Path) -> None:
    """The run goes on at once: with the same tensors, which change under the writer's hands."""
    learner, checkpoints = Learner(), Checkpoints(tmp_path, RUN, aside=True)
    for step in (1, 2, 3):
        learner.learn(step)
        asked = learner.tensors()
        checkpoints.save(Progress(step), learner.model, learner.optimizer)
        for _ in range(5):
            learner.learn(step + 1)
    checkpoints.wait()
    again = Learner(seed=3)
    assert again.load(tmp_path) == Progress(3) and same(again.tensors(), asked)
    assert names(tmp_path) == {"00000002", "00000003"}


def test_what_went_wrong_aside_is_raised_by_the_next_call(tmp_path: Path) -> None:
    learner, checkpoints = Learner(), Checkpoints(tmp_path, RUN, aside=True)
    learner.learn(1)
    with full_disk(100):
        checkpoints.save(Progress(1), learner.model, learner.optimizer)
        while not checkpoints.failed():
            time.sleep(0.01)
        with pytest.raises(OSError, match="File too large"):
            checkpoints.wait()
    assert not checkpoints.failed()
    checkpoints.save(Progress(2), learner.model, learner.optimizer)
    checkpoints.wait()
    assert names(tmp_path) == {"00000002"}


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, history: dict[int, dict[str, Tensor]]) -> None:
    learner = Learner()
    with pytest.raises(ValueError, match="00000003 was written by a run with another recipe"):
        Checkpoints(tmp_path, "another", aside=False).load(learner.model, learner.optimizer)


def test_learning_rates_are_the_specs(tmp_path: Path, history: dict[int, dict[str, Tensor]]) -> None:
    learner = Learner()
    learner.optimizer.param_groups[0] |= {"lr": 0.5, "factor": 0.25}
    learner.load(tmp_path)
    assert [(group["lr"], group["factor"]) for group in learner.optimizer.param_groups] == [(0.5, 0.25), (1e-2, 1.0)]


def test_saving_and_loading_before_the_first_update_changes_nothing(tmp_path: Path) -> None:
    """All steps until then were skipped."""
    saves, loads, neither = Learner(), Learner(), Learner()
    saves.save(folder(tmp_path / "saved"), 1, skipped=1)
    loads.load(tmp_path / "saved")
    for learner in (saves, loads, neither):
        learner.learn(2)
    assert same(saves.tensors(), neither.tensors()) and same(loads.tensors(), neither.tensors())


def test_steps_make_a_checkpoint_due() -> None:
    cadence = Cadence(every_steps=3, every_seconds=1e9)
    assert [step for step in range(1, 8) if cadence.due(step)] == [3, 6]


def test_time_makes_a_checkpoint_due_and_stands_still_while_one_is_written() -> None:
    cadence = Cadence(every_steps=1000, every_seconds=0.05)
    assert not cadence.due(1)
    time.sleep(0.06)
    assert cadence.due(2)
    time.sleep(0.06)  # as long as writing takes
    assert not cadence.due(3)


def stream_of(world: World) -> Mixture:
    corpora = {name: TokenFile.open(world.corpora[name], "train") for name in CORPORA}
    return Mixture(corpora, dict.fromkeys(CORPORA, 1.0), dict.fromkeys(CORPORA, -1), seq_len=16, seed=0)


def test_documents_are_those_whose_tokens_the_rows_hold(world: World) -> None:
    """Rows 600 to 720 are of the first epoch's end and the second's beginning; every text is of one corpus."""
    stream = stream_of(world)
    for row in range(600, 720, 7):
        tokens = stream.rows(row, 1).tokens_BT[0].numpy()
        pieces = [
            stream.streams[name].file.tokens[slice(*stream.streams[name].file.offsets[number : number + 2])]
            for name, number in stream.documents(row, 1)
        ]
        held = sorted(token for piece in pieces for token in piece.tolist())
        assert all(held.count(token) >= tokens.tolist().count(token) for token in set(tokens.tolist()))
        assert len(pieces) == int(stream.rows(row, 1).layout.document_BT.max()) + 1


def test_a_document_has_the_id_that_its_source_gave_it(world: World) -> None:
    file = TokenFile.open(world.corpora["alchemy"], "train")
    ids = file.ids(range(file.n_documents))
    assert list(ids) == list(range(file.n_documents))
    for number, name in ids.items():
        line = int(name.rpartition(":")[2])
        assert file.n_bytes[number] == len(texts("alchemy")[line - 1].encode())


def test_a_skipped_step_names_its_documents(world: World, tmp_path: Path) -> None:
    stream = stream_of(world)
    record(tmp_path / "skipped.jsonl", Skipped(2, float("nan"), float("inf")), stream, first_row=8, n_rows=8)
    (line,) = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert (line["step"], line["loss"], line["grad_norm"]) == (2, "nan", "inf")
    assert [(found["corpus"], found["number"]) for found in line["documents"]] == stream.documents(8, 8)
    assert all("jsonl" in found["id"] for found in line["documents"])


def test_a_step_skipped_again_is_written_once(world: World, tmp_path: Path) -> None:
    stream, path = stream_of(world), tmp_path / "skipped.jsonl"
    for step in (1, 2, 3, 2):
        record(path, Skipped(step, 0.0, float("nan")), stream, first_row=8 * step, n_rows=8)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def on_two_ranks(rank: int, where: Path) -> None:
    """Load what one process saved, learn and save; then the disk of the second rank alone is full."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(where / "store"), 2), rank=rank, world_size=2)
    learner = Learner(seed=1, sharded=True)
    progress = learner.load(where / "saved")
    loaded = learner.tensors()
    learner.learn(2)
    learner.save(where / "saved", progress.step + 1, skipped=1)
    with full_disk(3_000 if rank else 1 << 30), pytest.raises(OSError, match="File too large"):
        learner.save(where / "saved", 9)
    aside = Checkpoints(where / "aside", RUN, aside=True)
    aside.save(Progress(1), learner.model, learner.optimizer)
    due = Cadence(every_steps=1000, every_seconds=1e9 if rank else 0.0).due(1)  # speaks while the other thread does
    aside.wait()
    torch.save({"loaded": loaded, "learnt": learner.tensors(), "due": due}, where / f"rank-{rank}.pt")
    dist.destroy_process_group()


def test_one_rank_loads_what_two_have_saved_and_they_what_it_has(tmp_path: Path) -> None:
    """Also: a rank whose disk is full stops all, and the first rank's clock is everybody's."""
    one = Learner()
    one.learn(1)
    one.save(folder(tmp_path / "saved"), 1)
    processes.spawn(on_two_ranks, (tmp_path,), nprocs=2)
    notes = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    assert all(same(note["loaded"], one.tensors()) and note["due"] for note in notes)
    again = Learner(seed=2)
    assert again.load(tmp_path / "saved") == Progress(2, 1)
    assert same(again.tensors(), notes[0]["learnt"]) and names(tmp_path / "saved") == {"00000001", "00000002"}
    assert Learner(seed=4).load(tmp_path / "aside") == Progress(1)
