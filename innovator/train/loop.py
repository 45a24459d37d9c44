"""The training loop, whole: no callbacks; edit it."""

from __future__ import annotations

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
from innovator.files import write_json
from innovator.models.cost import first_match
from innovator.models.decoder import IGNORE, Decoder
from innovator.say import progress, say
from innovator.train import checkpoint
from innovator.train.metrics import Metrics, router_figures
from innovator.train.spec import TrainSpec
from innovator.weights.folder import Folder, save_folder


def train(spec: TrainSpec, out: Path, inputs: Mapping[str, Path]) -> None:
    """Teach the weights of inputs["init"] the corpora that the spec names, and write `out/weights`.

    Goes on from the newest checkpoint in `out`. Ctrl-C and SIGTERM save one and raise KeyboardInterrupt.
    """
    source = Folder.open(inputs["init"] / "weights")
    run = Run.start(spec, source, inputs)
    done = checkpoint.load(out / "checkpoints", run.model, run.optimizer)
    first_step, run.skipped = done.step, done.skipped
    metrics = Metrics(out / "metrics.jsonl", first_step)
    if first_step:
        say(f"  goes on from step {first_step} of {spec.n_steps}")
    with interruption() as asked, progress(out.name, spec.n_steps - first_step, "steps") as advance:
        for step in range(first_step + 1, spec.n_steps + 1):
            figures = run.step(step)
            advance(1, loss=figures["loss"], tokens_per_second=figures["tokens_per_second"])
            if step % spec.log_every == 0 or step in (1, spec.n_steps):
                metrics.write(figures)
            if asked or step % spec.checkpoint_every == 0:
                checkpoint.save(out / "checkpoints", checkpoint.Progress(step, run.skipped), run.model, run.optimizer)
            if asked:
                raise KeyboardInterrupt
    metrics.close()
    check_frozen(run.model, source, out)
    save_folder(out / "weights", source.config, run.tensors(), source.path, source.facts)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


@dataclass
class Run:
    """A model, its optimizer and its stream, between two steps."""

    spec: TrainSpec
    model: Decoder
    optimizer: AdamW
    stream: Mixture
    device: torch.device
    skipped: int = 0

    @classmethod
    def start(cls, spec: TrainSpec, source: Folder, inputs: Mapping[str, Path]) -> Run:
        """Load the weights, freeze what is not to learn, open the corpora."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = source.load().to(device).train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(first_match(name, spec.trainable) > 0)
        for mixture in model.mixtures():
            mixture.losses = spec.losses
        corpora = {name: TokenFile.open(inputs[name], "train") for name in spec.mixture}
        labels = {name: spec.label(name) for name in spec.mixture}
        stream = Mixture(corpora, spec.mixture, labels, spec.batch.seq_len, spec.seed)
        return cls(spec, model, AdamW(parameter_groups(model, spec), fused=True), stream, device)

    def step(self, step: int) -> dict[str, float | int]:
        """One optimizer step, `step` counting from 1; a loss or gradient that is not finite is skipped."""
        spec, start = self.spec, time.monotonic()
        batch = self.stream.rows((step - 1) * spec.batch.rows, spec.batch.rows)
        loss, n_targets = self._backward(batch)
        norm = float(self._scaled_norm(1 / n_targets))
        lr = spec.course.optim.lr * spec.course.schedule.factor(step / spec.n_steps)
        if math.isfinite(loss) and math.isfinite(norm):
            self._update(lr)
        else:
            self._skip(step)
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "step": step,
            "tokens": step * spec.batch.tokens,
            "loss": loss / n_targets,
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_second": spec.batch.tokens / (time.monotonic() - start),
            "skipped": self.skipped,
            **router_figures(self.model, (spec.batch.micro_rows or spec.batch.rows) * spec.batch.seq_len),
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The model under our names, its tied head once."""
        for name, tensor in self.model.state_dict().items():
            if not (name == "unembed.weight" and self.model.config.tied):
                yield name, tensor.cpu()

    def _backward(self, batch: Batch) -> tuple[float, int]:
        """Summed gradients over micro-batches; returns the summed loss in nats and the number of targets."""
        loss = torch.zeros((), device=self.device)
        for micro in batch.portions(self.spec.batch.micro_rows or self.spec.batch.rows):
            part = self.model.loss(
                micro.tokens_BT.to(self.device), micro.target_BT.to(self.device), micro.layout.to(self.device)
            )
            (part * self.spec.lm).backward()
            loss += part.detach()
        if self.spec.tied_rows:
            for mixture in self.model.mixtures():
                mixture.router.tie_gradient()
        return float(loss), max(1, int((batch.target_BT != IGNORE).sum()))

    def _scaled_norm(self, factor: float) -> Tensor:
        """Divide the summed gradients once, by the token count, and clip their norm."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)
        return torch.nn.utils.clip_grad_norm_(parameters, self.spec.course.optim.clip)

    def _update(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()
        for mixture in self.model.mixtures():
            if mixture.router.weight.requires_grad:
                mixture.router.rebalance()

    def _skip(self, step: int) -> None:
        self.skipped += 1
        for mixture in self.model.mixtures():
            mixture.router.load.zero_()
        say(f"  step {step} skipped: loss or gradient is not finite ({self.skipped} so far)")
        if self.skipped > self.spec.max_skipped:
            raise ValueError(f"{self.skipped} steps were not finite; lower optim.lr (now {self.spec.course.optim.lr})")


def parameter_groups(model: Decoder, spec: TrainSpec) -> list[dict[str, object]]:
    """Optimizer groups by learning-rate factor and weight decay (matrices only)."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = spec.course.optim.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((first_match(name, spec.trainable), decay), []).append(parameter)
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
        for (factor, decay), tensors in groups.items()
    ]


def check_frozen(model: Decoder, source: Folder, out: Path) -> None:
    """Every tensor that was not to learn has the bytes it came with; written to `frozen.json`."""
    trained = checkpoint.learning(model)
    state = model.state_dict()
    frozen = [name for name in source.shapes if name not in trained]
    changed = [name for name in frozen if not torch.equal(state[name].cpu(), source.tensor(name).to(state[name].dtype))]
    report = {"trained": sorted(trained), "frozen": len(frozen), "changed": changed}
    write_json(out / "frozen.json", report)
    if changed:
        raise RuntimeError(f"frozen tensors changed: {', '.join(changed)}")


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
