"""The training loop, whole: no callbacks; edit it."""

from __future__ import annotations

import hashlib
import math
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from torch.optim import AdamW

from innovator.data.mixture import Batch, Mixture
from innovator.data.tokens import TokenFile
from innovator.data.turns import remark
from innovator.engine.parallel import Engine, World, join
from innovator.engine.parts import change, mesh_of, own, whole
from innovator.engine.share import save_model
from innovator.files import write_json
from innovator.models.cost import first_match
from innovator.models.decoder import IGNORE, Decoder
from innovator.models.thinking import Moment
from innovator.say import progress, say
from innovator.train.checkpoint import Cadence, Checkpoints, Progress, learning
from innovator.train.metrics import Metrics, router_figures
from innovator.train.skipped import Skipped, record
from innovator.train.spec import TrainSpec
from innovator.weights.folder import Folder

CLIP_EPSILON = 1e-6
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: a scheduler may start the same command again


def train(spec: TrainSpec, out: Path, inputs: Mapping[str, Path], engine: Engine | None = None) -> None:
    """Teach the weights of inputs["init"] the corpora that the spec names, and write `out/weights`.

    Goes on from the newest checkpoint in `out`, with all the processes of a torchrun. Ctrl-C saves one and raises
    KeyboardInterrupt; SIGTERM and the end of the engine's time save one and end the process with exit code REQUEUE.
    """
    engine = engine or Engine()
    if (out / "weights").is_dir():  # they appear whole: only the end of the step was cut off
        return
    source = Folder.open(inputs["init"] / "weights")
    run = Run.start(spec, source, inputs, join(engine, spec.precision))
    checkpoints = Checkpoints(out / "checkpoints", identity(spec), aside=run.world.device.type != "cpu")
    done = checkpoints.load(run.model, run.optimizer)
    first_step, run.skipped = done.step, done.skipped
    metrics = Metrics(out / "metrics.jsonl", first_step) if run.world.rank == 0 else None
    if run.world.rank == 0:
        account_epochs(run, out)
    if first_step:
        say(f"  goes on from step {first_step} of {spec.n_steps}")
    cadence = Cadence(spec.checkpoint_every, 60 * spec.checkpoint_minutes)
    with interruption() as asked, progress(out.name, spec.n_steps - first_step, "steps") as advance:
        for step in range(first_step + 1, spec.n_steps + 1):
            skipped = run.skipped
            figures = run.step(step)
            if run.skipped > skipped:
                account_skip(run, Skipped(step, figures["loss"], figures["grad_norm"]), out)
            advance(1, loss=figures["loss"], tokens_per_second=figures["tokens_per_second"])
            if metrics is not None and (step % spec.log_every == 0 or step in (1, spec.n_steps)):
                metrics.write(figures)
            # After a failed write `save` raises what went wrong.
            ends = run.world.any(bool(asked) or engine.is_over() or checkpoints.failed())
            if cadence.due(step) or ends:
                checkpoints.save(Progress(step, run.skipped), run.model, run.optimizer)
            if ends:
                checkpoints.wait()
                raise KeyboardInterrupt if signal.SIGINT in asked else SystemExit(REQUEUE)
    checkpoints.wait()
    if metrics is not None:
        metrics.close()
    finish(run, source, out)


def identity(spec: TrainSpec) -> str:
    """What tells a training from every other."""
    return hashlib.sha256(repr(spec).encode()).hexdigest()[:16]


def account_epochs(run: Run, out: Path) -> None:
    """Write how often each corpus will be read, and say which more than once or never."""
    epochs = run.stream.epochs(run.spec.n_rows)
    write_json(out / "epochs.json", epochs)
    if remarkable := remark(epochs):
        say(f"  {remarkable}")


def account_skip(run: Run, skipped: Skipped, out: Path) -> None:
    """Write which documents a skipped step had read; ValueError if it is one too many."""
    spec = run.spec
    if run.world.rank == 0:
        first_row = (skipped.step - 1) * spec.batch.rows
        record(out / "skipped.jsonl", skipped, run.stream, first_row, spec.batch.rows)
    say(f"  step {skipped.step} skipped: loss or gradient is not finite ({run.skipped} so far)")
    if run.skipped > spec.max_skipped:
        raise ValueError(
            f"{run.skipped} steps were not finite; lower optim.lr (now {spec.course.optim.lr}), "
            f"or look at the documents in {out / 'skipped.jsonl'}"
        )


def finish(run: Run, source: Folder, out: Path) -> None:
    """Check what was not to learn, write the weights, and let go of the checkpoints; the first process writes."""
    check_frozen(run, source, out)
    save_model(run.model, source, out / "weights", run.world)
    if run.world.rank == 0:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)


@dataclass
class Run:
    """A model, its optimizer and its stream, between two steps, on one of the processes that share it."""

    spec: TrainSpec
    world: World
    model: Decoder
    optimizer: AdamW
    stream: Mixture
    skipped: int = 0

    @classmethod
    def start(cls, spec: TrainSpec, source: Folder, inputs: Mapping[str, Path], world: World) -> Run:
        """Load the weights, freeze what is not to learn, open the corpora; ValueError if rows do not divide."""
        if spec.batch.rows % world.size:
            raise ValueError(f"batch.rows={spec.batch.rows} do not divide among {world.size} processes")
        model = world.place(source, lambda name: first_match(name, spec.trainable) > 0, spec.precision)
        for mixture in model.mixtures():
            mixture.losses = spec.losses
        corpora = {name: TokenFile.open(inputs[name], "train") for name in spec.corpora}
        labels = {name: spec.label(name) for name in spec.corpora}
        stream = Mixture(corpora, spec.mixture, labels, spec.batch.seq_len, spec.seed, spec.phases)
        return cls(spec, world, model, AdamW(parameter_groups(model, spec), fused=True), stream)

    def step(self, step: int) -> dict[str, float | int]:
        """One optimizer step, `step` counting from 1; a loss or gradient that is not finite is skipped."""
        spec, start = self.spec, time.monotonic()
        own_rows = spec.batch.rows // self.world.size
        batch = self.stream.rows((step - 1) * spec.batch.rows + self.world.rank * own_rows, own_rows)
        moment = Moment(done=(step - 1) / spec.n_steps, seed=spec.seed + step)
        loss, n_targets = self._backward(batch, moment)
        norm = self._scale(1 / n_targets)
        lr = spec.course.optim.lr * spec.course.schedule.factor(step / spec.n_steps)
        if math.isfinite(loss) and math.isfinite(norm):
            self._update(lr)
        else:
            self._skip()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "step": step,
            "tokens": step * spec.batch.tokens,
            "loss": loss / n_targets,
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_second": spec.batch.tokens / (time.monotonic() - start),
            "skipped": self.skipped,
            **router_figures(self.model),
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The whole model under our names, its tied head once; all processes must ask."""
        for name, tensor in self.model.state_dict().items():
            if not (name == "unembed.weight" and self.model.config.tied):
                yield name, whole(tensor).cpu()

    def _backward(self, batch: Batch, moment: Moment) -> tuple[float, int]:
        """Summed gradients over micro-batches; returns the whole batch's loss in nats and number of targets."""
        device = self.world.device
        loss = torch.zeros((), device=device)
        for micro in batch.portions(self.spec.batch.micro_rows or self.spec.batch.rows):
            facts = micro.tokens_BT.to(device), micro.target_BT.to(device), micro.layout.to(device)
            part = self.model.loss(*facts, moment)
            (part * self.spec.lm).backward()
            loss += part.detach()
        if self.spec.tied_rows:
            for mixture in self.model.mixtures():
                if mixture.router.weight.grad is not None:
                    change(mixture.router.weight.grad, mixture.router.tied)
        n_targets = torch.tensor(float((batch.target_BT != IGNORE).sum()), dtype=torch.float64, device=device)
        return float(self.world.total(loss)), max(1, int(self.world.total(n_targets)))

    def _scale(self, factor: float) -> float:
        """Divide the summed gradients once, by the token count, and clip their norm; returns it before clipping."""
        gradients = [own(p.grad) for p in self.model.parameters() if p.grad is not None]
        norm = float(self.world.norm(gradients)) * factor
        torch._foreach_mul_(gradients, factor * min(1.0, self.spec.course.optim.clip / (norm + CLIP_EPSILON)))
        return norm

    def _update(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()
        for mixture in self.model.mixtures():
            if mixture.router.weight.requires_grad:
                mixture.router.load.copy_(self.world.total(mixture.router.load))
                mixture.router.rebalance()

    def _skip(self) -> None:
        self.skipped += 1
        for mixture in self.model.mixtures():
            mixture.router.load.zero_()


def parameter_groups(model: Decoder, spec: TrainSpec) -> list[dict[str, object]]:
    """Optimizer groups by learning-rate factor, weight decay (matrices only), and the processes that share them."""
    groups: dict[tuple[object, ...], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = spec.course.optim.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((first_match(name, spec.trainable), decay, mesh_of(parameter)), []).append(parameter)
    if not groups:
        raise ValueError(f"trainable {list(spec.trainable)} matches no parameter")
    betas = spec.course.optim.betas
    return [
        {
            "params": tensors,
            "factor": factor,
            "weight_decay": decay,
            "lr": spec.course.optim.lr,
            "betas": betas,
        }
        for (factor, decay, _), tensors in groups.items()
    ]


def check_frozen(run: Run, source: Folder, out: Path) -> None:
    """Every tensor that was not to learn has the bytes it came with; written to `frozen.json`."""
    trained = learning(run.model)
    changed = [name for name, tensor in run.tensors() if name not in trained and _differs(tensor, source.tensor(name))]
    if run.world.rank == 0:
        report = {"trained": sorted(trained), "frozen": len(source.shapes) - len(trained), "changed": changed}
        write_json(out / "frozen.json", report)
    if changed:
        raise RuntimeError(f"frozen tensors changed: {', '.join(changed)}")


def _differs(tensor: Tensor, origin: Tensor) -> bool:
    return not torch.equal(tensor, origin.to(tensor.dtype))


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM asks this process to stop."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
