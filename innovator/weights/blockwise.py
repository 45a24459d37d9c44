"""A decoder's logits from its folder, one block in memory at a time.

Shape suffixes: B sequences, T slots, D model, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innovator.models.layers import Layout
from innovator.weights.folder import Folder

HEAD_ROWS = 1 << 14


@torch.no_grad()
def logits(folder: Folder, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits [B, T, V] in fp32 of the model as it would be stored in `dtype`; every row is one document."""
    x_BTD = embedded(folder, tokens_BT, dtype)
    for layer in range(folder.config.n_layers):
        x_BTD = through_block(folder, layer, x_BTD)
    return unembedded(folder, x_BTD)


def embedded(folder: Folder, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Hidden states [B, T, D] before the first block."""
    return F.embedding(tokens_BT, folder.tensor("embed.weight")).to(dtype)


def through_block(folder: Folder, layer: int, x_BTD: Tensor, ffn: nn.Module | None = None) -> Tensor:
    """Hidden states after one block; `ffn` takes its feed-forward's place."""
    with torch.device("meta"):
        block = folder.config.block(layer).eval()
    if ffn is not None:
        block.register_module("ffn", ffn)
    state = {name: _stored(name, folder.tensor(f"layers.{layer}.{name}"), x_BTD.dtype) for name in block.state_dict()}
    block.load_state_dict(state, assign=True)
    layout = Layout.of(x_BTD[..., 0])
    y_BTD: Tensor = block(x_BTD, layout, folder.config.attention.sight(layout, layout, x_BTD.dtype))[0]
    return y_BTD


def unembedded(folder: Folder, x_BTD: Tensor) -> Tensor:
    """Logits [B, T, V] of hidden states after the last block, in fp32."""
    norm = folder.config.norm.build(folder.config.dim)
    norm.load_state_dict(
        {name: folder.tensor(f"norm.{name}").to(x_BTD.dtype) for name in norm.state_dict()}, assign=True
    )
    h_BTD, head_VD = norm(x_BTD), folder.tensor("embed.weight" if folder.config.tied else "unembed.weight")
    return torch.cat([F.linear(h_BTD, rows.to(h_BTD.dtype)).float() for rows in head_VD.split(HEAD_ROWS)], dim=-1)


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor after a stay in a file of `dtype`; routers go on in fp32, and selection biases never leave it."""
    if name.endswith("selection_bias"):
        return tensor.float()
    return tensor.to(dtype).float() if name.endswith("router.weight") else tensor.to(dtype)
