"""A process that dies amid an export leaves nothing that looks finished, and nothing that is in the way."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from innovator.export.export import export
from innovator.export.stock import Glm4Moe
from innovator.export.targets import StockMixture
from innovator.models.decoder import DecoderConfig
from innovator.weights.folder import Folder

Write = Callable[[DecoderConfig, str], Folder]
LIMIT = 80_000  # bytes: beyond a file's header, amid its tensors
DIES = """
import signal, sys
from pathlib import Path
from innovator.export.export import export
from innovator.export.stock import Glm4Moe
from innovator.export.targets import StockMixture
from innovator.weights.folder import Folder
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
export(Folder.open(Path(sys.argv[1])), Path(sys.argv[2]), StockMixture(Glm4Moe()), "f32", check=False)
"""


def test_a_killed_export_has_no_name_and_is_begun_anew(mixture: DecoderConfig, write: Write, tmp_path: Path) -> None:
    """The kernel kills a process that writes a file beyond the limit, as it kills one for its memory."""
    folder, out = write(mixture, "model"), tmp_path / "out"
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(folder.path), str(out)],
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)),
    )
    assert died.returncode == -signal.SIGXFSZ, died.stderr[-2000:]
    left = [file.name for file in (tmp_path / "out.partial").iterdir()]
    assert left == ["shard-1.draft"] and not out.exists()
    export(folder, out, StockMixture(Glm4Moe()), "f32", check=False)
    assert {"config.json", "model.safetensors"} <= {file.name for file in out.iterdir()}
    assert not (tmp_path / "out.partial").exists()
