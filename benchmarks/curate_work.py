"""One contestant of benchmarks/curate.py in a process of its own; prints its seconds and memory as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


def plain(text: Path, out: Path) -> None:
    """datatrove alone."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    blocks = [
        JsonlReader(str(text)),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        JsonlWriter(str(out / "documents"), compression="zstd"),
    ]
    LocalPipelineExecutor(blocks, tasks=4, workers=1, logging_dir=str(out / "logs")).run()


def ours(text: Path, out: Path) -> None:
    """The same filters in a step of ours."""
    from innovator.curate.executors import Local
    from innovator.curate.flow import rule_all
    from innovator.curate.raw import RawFiles
    from innovator.curate.reading import Read
    from innovator.curate.screen import Screen

    rules = [Screen(kind="gopher-repetition"), Screen(kind="gopher-quality")]
    rule_all(Read(RawFiles(path=str(text)), "text", {}, out), rules, 4, out, Local(workers=1), 0)


def whole(text: Path, out: Path) -> None:
    """Everything that a curation does without labels and grades."""
    from innovator.curation_steps import curated

    curated(Path(__file__).with_name("curate.yaml"), [f"sources.text.documents.path={text}"], out)


if __name__ == "__main__":
    work, text, out = {"plain": plain, "ours": ours, "whole": whole}[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    begin = time.perf_counter()
    work(text, out)
    seconds = time.perf_counter() - begin
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu, peak = sum(it.ru_utime + it.ru_stime for it in used), max(it.ru_maxrss for it in used)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mib": peak / 1024}))
