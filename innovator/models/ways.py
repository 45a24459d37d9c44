"""All ways of thinking."""

from __future__ import annotations

from .latent import PonderLM2Config, PonderLM3Config
from .latent_cot import LatentCoTConfig
from .loops import LoopConfig, PauseConfig
from .ponder import AdaPonderLMConfig, PonderLMConfig
from .thinking import PlainConfig

ThinkingConfig = (
    PlainConfig
    | PonderLMConfig
    | PonderLM2Config
    | PonderLM3Config
    | AdaPonderLMConfig
    | LatentCoTConfig
    | LoopConfig
    | PauseConfig
)
