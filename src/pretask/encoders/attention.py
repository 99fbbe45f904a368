"""Attention of a vision transformer asked for by parts: of some tokens to others, and of the class token."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.encoders.features import Features
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.pretexts.masks import take


def project(
    attn: Any, tokens: Float[Tensor, "batch tokens dim"], parts: slice
) -> tuple[Float[Tensor, "batch heads tokens head_dim"], ...]:
    """Queries (0), keys (1) and values (2) of tokens, those of `parts`."""
    dim = tokens.shape[-1]
    rows = slice(parts.start * dim, parts.stop * dim)
    bias = None if attn.qkv.bias is None else attn.qkv.bias[rows]
    made = F.linear(tokens, attn.qkv.weight[rows], bias).unflatten(
        2, (-1, attn.num_heads, dim // attn.num_heads)
    )
    named = zip(range(parts.start, parts.stop), made.unbind(2), strict=True)
    norms = (attn.q_norm, attn.k_norm, torch.nn.Identity())
    return tuple(norms[part](value.transpose(1, 2)) for part, value in named)


def attend(
    attn: Any,
    asking: Float[Tensor, "batch asking dim"],
    asked: Float[Tensor, "batch asked dim"],
    memory: tuple[Float[Tensor, "slots dim"], Float[Tensor, "slots dim"]] | None = None,
) -> Float[Tensor, "batch asking dim"]:
    """A timm attention layer whose queries come from some tokens, its keys and values from others, and from a
    memory of keys and values, if there is one, that no token made."""
    (query,) = project(attn, asking, slice(0, 1))
    key, value = project(attn, asked, slice(1, 3))
    if memory is not None:
        kept = (part.unflatten(1, (attn.num_heads, -1)).transpose(0, 1) for part in memory)
        key, value = (
            torch.cat([own, part.expand(len(own), -1, -1, -1)], dim=2)
            for own, part in zip((key, value), kept, strict=True)
        )
    mixed = F.scaled_dot_product_attention(query, key, value)
    return attn.proj_drop(attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2))))


def restricted(
    block: Any, x: Float[Tensor, "batch tokens dim"], context: Int[Tensor, "batch context"]
) -> Float[Tensor, "batch tokens dim"]:
    """A timm block in which every token asks, but only those of the context are asked (MP3)."""
    y = block.norm1(x)
    x = x + block.drop_path1(block.ls1(attend(block.attn, y, take(y, context))))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def class_attention(
    encoder: PatchEncoder, image: Float[Tensor, "batch chans h w"]
) -> tuple[Features, Float[Tensor, "batch heads patches"]]:
    """Features, and how much the class token of the last block attends to each patch: its row of the
    attention after the softmax, without the entries of class and register tokens, not normalised again.

    Raises:
        UsageError: the encoder has no class token, or attends in another way than timm's plain one.
    """
    attn: Any = encoder.blocks[-1].attn  # type: ignore[index]
    if not encoder.num_prefix or not hasattr(attn, "q_norm"):
        raise UsageError(f"'{encoder.name}' has no class token whose attention says what matters")
    seen: list[Tensor] = []
    hook = attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        features = encoder(image)
    finally:
        hook.remove()
    (tokens,) = seen
    (query,) = project(attn, tokens[:, :1], slice(0, 1))
    (key,) = project(attn, tokens, slice(1, 2))
    weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
    return features, weights[:, :, 0, encoder.num_prefix :]
