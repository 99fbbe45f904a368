"""A small GPT over positions on a plane, and what it takes to tell the whole future from it (PPT)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.encoders.heads import mlp
from pretask.errors import UsageError
from pretask.task import Batch

PAST, CANDIDATES = 8, 20


class Block(nn.Module):
    """Pre-norm attention and a GELU network of four times the width; dropout on weights and branches."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = mlp(width, 4 * width, width, activation=nn.GELU)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], causal: bool
    ) -> Float[Tensor, "batch tokens dim"]:
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        query, key, value = parts.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=causal)
        x = x + self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return x + self.drop(self.mlp(self.norm2(x)))


class TrackGPT(nn.Module):
    """Embeds points, adds learned positions, and lets tokens look at those before them, or at all.

    Initialised from N(0, 0.02), attention's output from N(0, 0.02 / sqrt(2 depth)); the embedding of points
    keeps torch's own start.

    Args:
        width: of a token.
        heads: of attention.
        depth: blocks.
        dropout: on embeddings, attention weights and branches.
        length: the largest position.
    """

    def __init__(self, width: int, heads: int, depth: int, dropout: float, length: int):
        super().__init__()
        self.embed = nn.Linear(2, width)
        self.position = nn.Embedding(length + 1, width)
        self.drop = nn.Dropout(dropout)
        blocks = [Block(width, heads, dropout) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.position.weight, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for block in blocks:
            nn.init.normal_(block.proj.weight, std=0.02 / (2 * depth) ** 0.5)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], positions: Int[Tensor, "tokens"], causal: bool = True
    ) -> Float[Tensor, "batch tokens dim"]:
        """
        Args:
            tokens: embedded points and learned tokens.
            positions: the number of each in the track, counted from 1.
            causal: whether a token sees only those before it.
        """
        x = self.drop(tokens + self.position(positions))
        for block in self.blocks:
            x = block(x, causal)
        return self.norm(x)


class Destination(nn.Module):
    """Where a track will end: candidates from the feature of a learned token behind the past.

    Args:
        gpt: reads the past.
        width: of its tokens.
        candidates: answers given.
    """

    def __init__(self, gpt: TrackGPT, width: int, candidates: int):
        super().__init__()
        self.gpt = gpt
        self.token = nn.Parameter(torch.rand(width))
        self.embed = nn.Linear(width, width)
        self.head = mlp(width, 512, 512, 512, 2 * candidates)
        self.last = gpt.position.num_embeddings - 2  # the position of the point before the last

    def feature(self, past: Float[Tensor, "batch past 2"]) -> Float[Tensor, "batch dim"]:
        """Of the learned token, which stands where the last point is predicted from."""
        asked = self.embed(self.token).expand(len(past), 1, -1)
        places = [*range(1, past.shape[1] + 1), self.last]
        tokens = torch.cat([self.gpt.embed(past), asked], dim=1)
        return self.gpt(tokens, torch.tensor(places, device=past.device))[:, -1]

    def forward(self, past: Float[Tensor, "batch past 2"]) -> Float[Tensor, "batch candidates 2"]:
        return self.head(self.feature(past)).unflatten(1, (-1, 2))


class Trajectory(nn.Module):
    """All points between the past and a destination at once, and a correction of the destination.

    Args:
        gpt: reads past, prompts and destination, each token seeing all.
        width: of its tokens.
        future: points to tell.
    """

    def __init__(self, gpt: TrackGPT, width: int, future: int):
        super().__init__()
        self.gpt, self.future = gpt, future
        self.prompts = nn.Parameter(torch.rand(future - 1, width))
        self.embed = nn.Linear(width, width)
        self.first, self.between = nn.Linear(width, 2), nn.Linear(width, 2)
        self.correct = mlp(width, 512, 512, 512, 2)

    def forward(
        self, past: Float[Tensor, "batch past 2"], end: Float[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch future 2"], Float[Tensor, "batch future dim"]]:
        """The future, and the features it was read from."""
        asked = self.embed(self.prompts).expand(len(past), -1, -1)
        tokens = torch.cat([self.gpt.embed(past), asked, self.gpt.embed(end)[:, None]], dim=1)
        places = torch.arange(1, tokens.shape[1] + 1, device=past.device)
        last = past.shape[1] - 1  # the last observed point already tells the first future one
        x = self.gpt(tokens, places, causal=False)[:, last : last + self.future]
        points = [self.first(x[:, :1]), self.between(x[:, 1:-1]), (end + self.correct(x[:, -1]))[:, None]]
        return torch.cat(points, dim=1), x


class TrackModel(nn.Module):
    """What is kept: the network that reads tracks, and those that forecast from it."""

    def __init__(
        self, width: int, heads: int, depth: int, dropout: float, length: int, past: int, candidates: int
    ):
        super().__init__()

        def gpt() -> TrackGPT:
            return TrackGPT(width, heads, depth, dropout, length)

        self.trajectory = Trajectory(gpt(), width, length - past)
        self.destination = Destination(gpt(), width, candidates)


class TrackEncoder(Encoder):
    """Reads the observed part of a track; positions are relative to the last observed one.

    Args:
        model: the networks.
        name: what `build` was given.
        length: points of a track.
        past: those that are observed.
        width: of a token.
    """

    modality: ClassVar[str] = "track"

    def __init__(self, model: TrackModel, name: str, length: int, past: int, width: int):
        super().__init__()
        self.model, self.name, self.inputs = model, name, {"length": length}
        self.length, self.past, self.dim = length, past, width

    def relative(self, batch: Batch) -> Float[Tensor, "batch points 2"]:
        """Each agent's positions from its last observed one on.

        Raises:
            UsageError: tracks of another length.
        """
        track = require(batch, "track", 4)
        if track.shape[2] != self.length:
            raise UsageError(f"the encoder reads tracks of {self.length} points, not of {track.shape[2]}")
        points = track.flatten(0, 1)
        return points - points[:, self.past - 1 : self.past]

    def forward(self, past: Float[Tensor, "batch past 2"]) -> Features:
        gpt = self.model.trajectory.gpt
        places = torch.arange(1, past.shape[1] + 1, device=past.device)
        tokens = gpt(gpt.embed(past), places)
        return Features(tokens[:, -1], tokens, tokens[:, :0], (past.shape[1],))

    def encode(self, batch: Batch) -> Features:
        """Of the observed points alone: the future is not looked at."""
        return self(self.relative(batch)[:, : self.past])

    def forecast(self, past: Float[Tensor, "batch past 2"]) -> Float[Tensor, "batch candidates future 2"]:
        """A future for each candidate destination: destinations once, then all their futures at once."""
        ends = self.model.destination(past)
        count = ends.shape[1]
        future, _ = self.model.trajectory(past.repeat_interleave(count, 0), ends.flatten(0, 1))
        return future.unflatten(0, (-1, count))


class RawTracks(TrackEncoder):
    """The observed positions as features; its forecast keeps the last step's velocity."""

    def __init__(self, length: int, past: int = PAST):
        super().__init__(nn.Identity(), "raw", length, past, 2 * past)  # type: ignore[arg-type]

    def forward(self, past: Float[Tensor, "batch past 2"]) -> Features:
        return Features(past.flatten(1), past, past[:, :0], (past.shape[1],))

    def forecast(self, past: Float[Tensor, "batch past 2"]) -> Float[Tensor, "batch candidates future 2"]:
        steps = torch.arange(1, self.length - self.past + 1, device=past.device)[:, None]
        return (past[:, -1:] + steps * (past[:, -1:] - past[:, -2:-1]))[:, None]


def build(name: str, length: int = 20, **_: Any) -> TrackEncoder:
    """`gpt` (arguments `width`, `heads`, `depth`, `dropout`, `past`, `candidates` behind a colon) or `raw`.

    Raises:
        UsageError: there is no such encoder, or it cannot take these arguments.
    """
    plain, given = split_name(name)
    if plain == "raw":
        return RawTracks(length)
    sizes = {"width": 128, "heads": 4, "depth": 3, "dropout": 0.1, "past": PAST, "candidates": CANDIDATES}
    if plain != "gpt" or given.keys() - sizes.keys():
        raise UsageError(f"'{name}': tracks are read by gpt (behind a colon: {', '.join(sizes)}) or raw")
    sizes |= given
    if length <= sizes["past"] + 2:
        raise UsageError(f"tracks of {length} points leave no future behind {sizes['past']} observed ones")
    return TrackEncoder(TrackModel(length=length, **sizes), name, length, sizes["past"], sizes["width"])  # type: ignore[arg-type]
