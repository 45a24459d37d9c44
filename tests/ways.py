"""Every way of thinking, small, and with numbers at which random tokens take different ways."""

from __future__ import annotations

from innovator.models.latent import PonderLM2Config, PonderLM3Config
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.loops import LoopConfig, PauseConfig
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig
from innovator.models.ways import ThinkingConfig

MANY = 40  # sweeps: more than there are thoughts in a test's texts

WAYS: dict[str, ThinkingConfig] = {
    "ponderlm": PonderLMConfig(n_steps=2, top_k=7),
    "adaponderlm": AdaPonderLMConfig(n_steps=2, top_k=None, threshold=0.5),
    "ponderlm-2": PonderLM2Config(eval_sweeps=2),
    "ponderlm-3": PonderLM3Config(n_thoughts=2, eval_sweeps=1),
    "latent-cot": LatentCoTConfig(n_steps=2, tau=0.4),
    "loop": LoopConfig(n_loops=2),
    "pause": PauseConfig(n_pauses=2),
}
SETTLED: dict[str, ThinkingConfig] = WAYS | {  # so that it does not matter in which pieces a text is read
    "ponderlm-2": PonderLM2Config(eval_sweeps=MANY),
    "ponderlm-3": PonderLM3Config(n_thoughts=2, eval_sweeps=MANY),
}
NONE_YET: dict[str, ThinkingConfig] = {
    "ponderlm": PonderLMConfig(n_steps=0),
    "adaponderlm": AdaPonderLMConfig(n_steps=0),
    "ponderlm-2": PonderLM2Config(n_thoughts=0),
    "ponderlm-3": PonderLM3Config(n_thoughts=0),
    "latent-cot": LatentCoTConfig(n_steps=0),
    "loop": LoopConfig(n_loops=1),
    "pause": PauseConfig(n_pauses=0),
}
GROWING: dict[str, ThinkingConfig] = {
    "ponderlm": PonderLMConfig(n_steps=2, gain_warmup=0.5),
    "adaponderlm": AdaPonderLMConfig(n_steps=2, gain_warmup=0.5),
    "ponderlm-2": PonderLM2Config(gain_warmup=0.5),
    "ponderlm-3": PonderLM3Config(n_thoughts=2, gain_warmup=0.5),
    "latent-cot": LatentCoTConfig(n_steps=2, gain_warmup=0.5),
    "latent-cot-closed": LatentCoTConfig(n_steps=2, bias_start=-4.0),
}
