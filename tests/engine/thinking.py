"""What torchrun starts for test_thinking: `thinking.py HOME OUT CASES`, a JSON list of gradients and runs to make."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pico import VOCAB
from pico import World as PicoWorld
from spread import make
from torch import Tensor

from innovator.data.mixture import Batch
from innovator.engine.parallel import Engine, Precision, World, join
from innovator.engine.parts import whole
from innovator.engine.processes import leave
from innovator.models.decoder import IGNORE
from innovator.models.depth import DepthAttention
from innovator.models.latent import PonderLM2Config, PonderLM3Config
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.layers import PADDING, Layout
from innovator.models.loops import LoopConfig, PauseConfig
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig
from innovator.models.thinking import Moment
from innovator.stages import ThinkSpec
from innovator.weights.folder import Folder, save_folder

WAYS = {
    "ponderlm": ThinkSpec(thinking=PonderLMConfig(n_steps=2, top_k=20)),
    "ponderlm-2": ThinkSpec(thinking=PonderLM2Config(n_thoughts=1, train_sweeps=(1, 2))),
    "ponderlm-3": ThinkSpec(thinking=PonderLM3Config(n_thoughts=2, train_sweeps=(1, 2))),
    "adaponderlm": ThinkSpec(thinking=AdaPonderLMConfig(n_steps=2, threshold=0.5, share=0.4, share_to=0.3)),
    "latent-cot": ThinkSpec(thinking=LatentCoTConfig(n_steps=2, tau=0.3)),
    "loop": ThinkSpec(thinking=LoopConfig(n_loops=2)),
    "pause": ThinkSpec(thinking=PauseConfig(n_pauses=2)),
    "depth": ThinkSpec(thinking=LoopConfig(n_loops=2), depth=DepthAttention(stride=1)),
}
MOMENT = Moment(done=0.9, seed=3)
DOCUMENTS = (0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1)  # packed in each row


def write_worlds(world: PicoWorld, home: Path) -> None:
    """For each way of thinking the pico world, whose models think so and are far from agreed how long."""
    for name, way in WAYS.items():
        for source in (world.base, world.mixture):
            write_thinking(source, home / name / source.name, way)
        for path in world.corpora.values():
            (home / name / path.name).symlink_to(path)


def write_thinking(source: Path, out: Path, way: ThinkSpec) -> None:
    """The model of a step, with drawn numbers for what is new in it."""
    folder, generator = Folder.open(source / "weights"), torch.Generator().manual_seed(0)
    config = way.config(folder.config)
    fresh = config.thinking.build(config.dim).state_dict().items()
    drawn = ((f"thinking.{name}", tensor.normal_(std=0.3, generator=generator)) for name, tensor in fresh)
    save_folder(out / "weights", config, chain(folder.pieces(), drawn), folder.path, folder.facts)


def text(*, idle: bool) -> Batch:
    """Four rows of two documents; idle: the last two rows, which one of two processes reads, hold nothing."""
    tokens_BT = torch.randint(VOCAB, (4, len(DOCUMENTS)), generator=torch.Generator().manual_seed(0))
    document_BT = torch.tensor(DOCUMENTS).repeat(4, 1)
    target_BT = tokens_BT.roll(-1, dims=1)
    if idle:
        document_BT[2:], target_BT[2:] = PADDING, IGNORE
    return Batch(tokens_BT, target_BT, replace(Layout.of(tokens_BT), document_BT=document_BT, plain=False))


def slopes(world: World, folder: Folder, precision: Precision, *, idle: bool) -> dict[str, Tensor]:
    """The loss of that text, and its gradient in every parameter of a model; the whole on every process."""
    model = world.place(folder, lambda name: True, precision)
    n_rows = 4 // world.size
    batch = text(idle=idle).rows(world.rank * n_rows, (world.rank + 1) * n_rows)
    loss = model.loss(batch.tokens_BT, batch.target_BT, batch.layout, MOMENT)
    loss.backward()
    found = {"loss": world.total(loss.detach())}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = whole(parameter.grad)
    return found


def take(home: Path, out: Path, case: dict[str, str], engine: Engine) -> None:
    """The slopes of one case, in a file that the first process writes."""
    precision: Precision = "bf16" if "half" in case else "fp32"
    world = join(engine, precision)
    found = slopes(world, Folder.open(home / case["init"] / "weights"), precision, idle="idle" in case)
    if world.rank == 0:
        torch.save(found, out)
    world.wait()


def main(home: str, out: str, cases: str) -> None:
    """Go through all cases in this process, with the other processes."""
    torch.set_num_threads(1)
    for case in json.loads(cases):
        world, target, engine = Path(home) / case["way"], Path(out) / case["name"], case["engine"]
        if "lesson" in case:
            make(world, target, case["lesson"], engine)
        else:
            take(world, target, case, Engine(**engine))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
