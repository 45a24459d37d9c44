"""Read an exported folder with transformers alone: `reread.py FOLDER TOKENS OUT DTYPE [EXPERTS]` leaves logits in OUT.

Runs in a process of its own in which `innovator` cannot be imported.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import cast


def main(folder: str, tokens: str, out: str, dtype: str, experts: str = "") -> None:
    """Write the logits [B, T, V] of the tokens in a JSON file as an fp32 array."""
    sys.modules["innovator"] = cast(ModuleType, None)
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", trust_remote_code=True
    )
    if experts:
        model.set_experts_implementation(experts)
    with torch.no_grad():
        logits = model.eval()(torch.tensor(json.loads(Path(tokens).read_text()))).logits
    np.save(out, logits.float().numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
