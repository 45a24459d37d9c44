"""Everything a finished model can be written as, and which of it suits whom."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

import innovator.models
from innovator.export.check import DTYPES, compare_folder, compare_gguf
from innovator.export.gguf import ARCHITECTURES, write_gguf
from innovator.export.gguf_tensors import Stored
from innovator.export.stock import STOCK, Stock
from innovator.export.subject import Subject
from innovator.export.verdict import RUNTIMES, Checked, Runtime, Verdict
from innovator.files import write_json
from innovator.models.moe import MoEConfig
from innovator.weights.ahead import ahead
from innovator.weights.families import naming_of, only_ours, write_config, write_own_config
from innovator.weights.fields import Json
from innovator.weights.folder import Folder, copy_tokenizer
from innovator.weights.shards import write_shards

ALIGNMENTS = {"bf16 grouped products": 8, "FP8 blocks": 128, "K-quants": 256}
KEPT_FP32 = ("selection_bias", "e_score_correction_bias")


class Target(Protocol):
    """A way to write a model."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    @property
    def stores(self) -> tuple[Stored, ...]:
        """The types of numbers it can hold."""
        ...

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        """Whether it can be this model when that runtime loads it."""
        ...

    def write(self, folder: Folder, out: Path, stored: Stored) -> None:
        """Write everything but the card into an empty folder, tensor by tensor."""
        ...

    def compare(self, folder: Folder, written: Path, stored: Stored) -> Checked | None:
        """Read it again by its own loader; None where there is none on this machine."""
        ...


@dataclass(frozen=True)
class Dense:
    """A dense model in the family it came from."""

    name: str = "dense"
    stores: tuple[Stored, ...] = ("f32", "f16", "bf16")

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        if isinstance(subject.config.ffn, MoEConfig):
            return Verdict("impossible", "it is a mixture")
        if reason := next(only_ours(subject.config), None):
            return Verdict("impossible", reason)
        if runtime == "llama.cpp":
            return Verdict("exact", launch="convert with llama.cpp's convert_hf_to_gguf.py")
        return Verdict("exact")

    def write(self, folder: Folder, out: Path, stored: Stored) -> None:
        tensors = naming_of(folder.config, folder.facts).write(folder.pieces())
        _write(folder, out, tensors, write_config(folder.config, "", folder.facts), stored)

    def compare(self, folder: Folder, written: Path, stored: Stored) -> Checked | None:
        return compare_folder(folder, written, stored)


@dataclass(frozen=True)
class StockMixture:
    """A stock architecture of transformers."""

    stock: Stock
    stores: tuple[Stored, ...] = ("f32", "f16", "bf16")

    @property
    def name(self) -> str:
        return self.stock.name

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        return self.stock.verdict(subject, runtime)

    def write(self, folder: Folder, out: Path, stored: Stored) -> None:
        _write(folder, out, self.stock.tensors(folder), self.stock.config(folder), stored)

    def compare(self, folder: Folder, written: Path, stored: Stored) -> Checked | None:
        return compare_folder(folder, written, stored, Subject.of(folder).kernel)


@dataclass(frozen=True)
class Own:
    """Our own architecture with its modelling files beside the weights, for whatever no stock class can be."""

    name: str = "hf"
    stores: tuple[Stored, ...] = ("f32", "f16", "bf16")

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        if runtime != "transformers":
            return Verdict("impossible", f"{runtime} knows no innovator architecture")
        return Verdict("exact", launch="trust_remote_code=True")

    def write(self, folder: Folder, out: Path, stored: Stored) -> None:
        modules = {"AutoConfig": "hf.InnovatorConfig", "AutoModelForCausalLM": "hf.InnovatorForCausalLM"}
        config = {**write_own_config(folder.config, "", folder.facts), "auto_map": modules}
        tensors = ((f"decoder.{name}", tensor) for name, tensor in folder.tensors())
        _write(folder, out, tensors, config, stored)
        for file in Path(innovator.models.__file__).parent.glob("*.py"):
            shutil.copyfile(file, out / file.name)

    def compare(self, folder: Folder, written: Path, stored: Stored) -> Checked | None:
        return compare_folder(folder, written, stored)


@dataclass(frozen=True)
class Gguf:
    """One file for llama.cpp; pre_tokenizer: its name of the rule that cuts texts, if we do not know it."""

    pre_tokenizer: str | None = None
    name: str = "gguf"
    stores: tuple[Stored, ...] = ("f32", "f16", "bf16", "q8_0")

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        if runtime != "llama.cpp":
            return Verdict("impossible", f"{runtime} loads Hugging Face folders")
        obstacles = [it.why_not(subject.config, subject.biased) for it in ARCHITECTURES.values()]
        return Verdict("exact") if None in obstacles else Verdict("impossible", "; ".join(map(str, obstacles)))

    def write(self, folder: Folder, out: Path, stored: Stored) -> None:
        subject = Subject.of(folder)
        able = (n for n, it in ARCHITECTURES.items() if it.why_not(subject.config, subject.biased) is None)
        write_gguf(folder, self._file(out, stored), next(able), stored, self.pre_tokenizer)

    def compare(self, folder: Folder, written: Path, stored: Stored) -> Checked | None:
        return compare_gguf(folder, self._file(written, stored), stored)

    def _file(self, out: Path, stored: Stored) -> Path:
        return out / f"model-{stored}.gguf"


TARGETS: tuple[Target, ...] = (Dense(), *(StockMixture(stock) for stock in STOCK), Gguf(), Own())


def verdicts(target: Target, subject: Subject) -> Mapping[Runtime, Verdict]:
    """What a target is worth to every runtime."""
    return {runtime: target.verdict(subject, runtime) for runtime in RUNTIMES}


def choose(subject: Subject, runtime: Runtime | None) -> Target:
    """The first target that is exact for a runtime; if none is named, for transformers and as many more as can be.

    ValueError says why not, target by target.
    """
    asked = runtime or "transformers"
    able = [target for target in TARGETS if target.verdict(subject, asked).grade == "exact"]
    if not able:
        reasons = ((target.name, target.verdict(subject, asked)) for target in TARGETS)
        said = "; ".join(f"{name} is {verdict.grade} ({verdict.why})" for name, verdict in reasons)
        raise ValueError(f"no target is exact for {asked}: {said}")
    if runtime is not None:
        return able[0]
    return max(able, key=lambda target: sum(it.grade == "exact" for it in verdicts(target, subject).values()))


def outlook(subject: Subject) -> str:
    """One sentence on where a mixture can go without our code, which is best known before it is trained."""
    stock = [target for target in TARGETS if isinstance(target, StockMixture | Gguf)]
    homes = {
        runtime: next((it.name for it in stock if it.verdict(subject, runtime).grade == "exact"), None)
        for runtime in RUNTIMES
    }
    if homes["transformers"] is None:
        reasons = "; ".join(f"{target.name}: {target.verdict(subject, 'transformers').why}" for target in stock[:-1])
        return f"warning: no stock architecture of transformers can be this mixture ({reasons})"
    where = ", ".join(f"{target} for {runtime}" for runtime, target in homes.items() if target)
    return f"can be exported as {where}; {alignment(subject)}"


def alignment(subject: Subject) -> str:
    """One sentence on which kernels take experts of this width."""
    width = subject.mixture.expert.hidden
    missed = [f"{multiple} for {name}" for name, multiple in ALIGNMENTS.items() if width % multiple]
    return f"experts are {width} wide, " + (
        f"no multiple of {', of '.join(missed)}" if missed else "good for all kernels"
    )


def usual(folder: Folder) -> Stored:
    """The type that a model is stored in already."""
    dtype = folder.tensor("norm.weight").dtype
    return next(stored for stored, it in DTYPES.items() if it == dtype)


def _write(folder: Folder, out: Path, tensors: Iterable[tuple[str, Tensor]], config: Json, stored: Stored) -> None:
    dtype = DTYPES[stored]
    typed = ((n, t.float() if n.endswith(KEPT_FP32) else t.to(dtype)) for n, t in tensors)
    write_shards(out, ahead(typed))
    write_json(out / "config.json", {**config, "torch_dtype": str(dtype).removeprefix("torch.")})
    copy_tokenizer(folder.path, out)
