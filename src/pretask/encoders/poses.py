"""Skeletons over time as tokens, one for each joint in each short segment, and a transformer on them (MAMP)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.decoder import LastBlock, xavier_linear
from pretask.encoders.features import Features
from pretask.errors import UsageError
from pretask.pretexts.masks import Shuffle, take
from pretask.pretexts.poses import Window, centre_window, resize
from pretask.task import Batch

SHOWN = 0.95  # the middle of a sequence, which is looked at where nothing is drawn
MOMENTS = 16  # of a sequence, for the data themselves as features


class Size(NamedTuple):
    """A transformer's size and how it cuts sequences; the arguments behind an encoder's name.

    Args:
        embed_dim: width of a token.
        depth: blocks.
        num_heads: attention heads.
        frames: moments that every sequence is brought to.
        segment: moments of a token.
    """

    embed_dim: int = 256
    depth: int = 8
    num_heads: int = 8
    frames: int = 120
    segment: int = 4


class Positions(nn.Module):
    """A learned vector for each segment and one for each joint, added.

    Args:
        segments: of a sequence.
        joints: of a skeleton.
        dim: width.
    """

    def __init__(self, segments: int, joints: int, dim: int):
        super().__init__()
        self.temp_embed = nn.Parameter(torch.zeros(1, segments, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1, joints, dim))
        for embedding in self.parameters():
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self) -> Float[Tensor, "1 tokens dim"]:
        return (self.temp_embed + self.pos_embed).flatten(1, 2)


class SkeletonTransformer(nn.Module):
    """The encoder of MAMP (Mao et al., ICCV 2023).

    Args:
        size: of the network.
        joints: of a skeleton.
    """

    def __init__(self, size: Size, joints: int):
        super().__init__()
        kernel = (size.segment, 1)
        self.proj = nn.Conv2d(3, size.embed_dim, kernel, kernel)
        self.positions = Positions(size.frames // size.segment, joints, size.embed_dim)
        self.blocks = nn.ModuleList(
            Block(size.embed_dim, size.num_heads, qkv_bias=True, norm_layer=nn.LayerNorm)
            for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(size.embed_dim)
        self.apply(xavier_linear)

    def forward(
        self,
        pose: Float[Tensor, "people frames joints 3"],
        visible: Int[Tensor, "people visible"] | None = None,
    ) -> Float[Tensor, "people tokens dim"]:
        x = self.proj(pose.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2) + self.positions()
        x = x if visible is None else take(x, visible)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layers, from below, in timm's notation."""
        return {"stem": r"^proj|^positions", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}


class PoseEncoder(Encoder):
    """Reads sequences of skeletons, each person alone.

    Args:
        model: the network.
        name: what `build` was given.
        size: of the network, and how it cuts sequences.
        joints: of a skeleton.
        persons: in a sequence.

    Attributes:
        grid: segments and joints.
        num_tokens: of a person.
    """

    modality: ClassVar[str] = "pose"

    def __init__(self, model: nn.Module, name: str, size: Size, joints: int, persons: int):
        super().__init__()
        self.model, self.name, self.inputs = model, name, {"joints": joints, "persons": persons}
        self.size, self.joints, self.persons, self.dim = size, joints, persons, size.embed_dim
        self.grid = (size.frames // size.segment, joints)
        self.num_tokens = self.grid[0] * joints

    def sequence(self, batch: Batch) -> tuple[Float[Tensor, "batch frames bodies 3"], Int[Tensor, "batch"]]:
        """The batch's sequences, and how many frames of each are there.

        Raises:
            UsageError: there are none, or of other skeletons than the encoder reads.
        """
        pose = require(batch, "pose", 4)
        pose = pose if pose.dtype == torch.float64 else pose.float()
        bodies = self.persons * self.joints
        if pose.shape[2:] != (bodies, 3):
            raise UsageError(
                f"the encoder reads {self.persons} x {self.joints} joints in space, not sequences of shape "
                f"{tuple(pose.shape[1:])}"
            )
        frames = batch.get("frames")
        return pose, torch.full_like(pose[:, 0, 0, 0], pose.shape[1]).long() if frames is None else frames

    def people(self, pose: Float[Tensor, "batch frames bodies 3"]) -> Float[Tensor, "people frames joints 3"]:
        """Each person as a sequence of its own, those of one sample next to each other."""
        return pose.unflatten(2, (self.persons, self.joints)).transpose(1, 2).flatten(0, 1)

    def resized(
        self, pose: Float[Tensor, "batch frames bodies 3"], window: Window
    ) -> Float[Tensor, "people moments joints 3"]:
        """Each person of these windows, at the encoder's number of moments."""
        return self.people(resize(pose, window, self.size.frames))

    def forward(
        self,
        pose: Float[Tensor, "people frames joints 3"],
        visible: Int[Tensor, "people visible"] | None = None,
    ) -> Features:
        """Encode each person; the pooled feature is the mean over the tokens.

        Args:
            pose: sequences of the encoder's number of frames.
            visible: which tokens to encode; the others are dropped before the first block.

        Raises:
            UsageError: they have another number of frames.
        """
        if pose.shape[1] != self.size.frames:
            raise UsageError(f"the encoder reads {self.size.frames} frames, not {pose.shape[1]}")
        tokens = self.model(pose, visible)
        return Features(tokens.mean(1), tokens, tokens[:, :0], self.grid)

    def encode(self, batch: Batch) -> Features:
        """Of the middle of each sequence, the mean over its persons too."""
        pose, frames = self.sequence(batch)
        found = self(self.resized(pose, centre_window(frames, SHOWN)))
        tokens = found.tokens.unflatten(0, (len(pose), self.persons)).flatten(1, 2)
        return Features(tokens.mean(1), tokens, tokens[:, :0], (self.persons, *self.grid))


class RawPoses(PoseEncoder):
    """Where all joints are at a few moments: the data themselves as features.

    Args:
        joints: of a skeleton.
        persons: in a sequence.
    """

    def __init__(self, joints: int, persons: int):
        size = Size(3 * MOMENTS * persons * joints, frames=MOMENTS, segment=1)
        super().__init__(nn.Identity(), "raw", size, joints, persons)

    def encode(self, batch: Batch) -> Features:
        pose, frames = self.sequence(batch)
        places = resize(pose, centre_window(frames, SHOWN), MOMENTS)
        tokens = places.flatten(1, 2)
        return Features(places.flatten(1), tokens, tokens[:, :0], (MOMENTS, places.shape[2]))


class SkeletonDecoder(nn.Module):
    """From the encoding of the visible tokens to an answer for each hidden one (MAMP, section 3.4).

    Visible and hidden tokens stand one behind the other instead of being put back in order: attention does
    not know the order, positions are looked up, and only hidden places are answered.

    Args:
        encoder: whose tokens it reads; it is as wide.
        num_outputs: values asked of each hidden token.
        depth: blocks.
    """

    def __init__(self, encoder: PoseEncoder, num_outputs: int, depth: int):
        super().__init__()
        dim = encoder.dim
        self.embed = nn.Linear(dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = Positions(*encoder.grid, dim)
        self.blocks = nn.ModuleList(
            kind(dim, encoder.size.num_heads, qkv_bias=True, norm_layer=nn.LayerNorm)
            for kind in [Block] * (depth - 1) + [LastBlock]
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_outputs)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.apply(xavier_linear)

    def forward(
        self, tokens: Float[Tensor, "people visible dim"], order: Shuffle
    ) -> Float[Tensor, "people hidden num_outputs"]:
        """Answers for the hidden tokens, in the order of `order.hidden`."""
        position = self.positions().squeeze(0)
        visible = self.embed(tokens) + position[order.visible]
        hidden = self.mask_token + position[order.hidden]
        x = torch.cat([visible, hidden.to(visible.dtype)], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.head(self.norm(self.blocks[-1](x, order.hidden.shape[1])))


def build(name: str, joints: int = 25, persons: int = 1, **_: Any) -> PoseEncoder:
    """`skeleton_vit` with any of `Size`'s arguments behind a colon, or `raw`.

    Raises:
        UsageError: there is no such encoder, or it cannot take these arguments.
    """
    plain, given = split_name(name)
    if plain == "raw":
        return RawPoses(joints, persons)
    if plain != "skeleton_vit" or given.keys() - set(Size._fields):
        known = ", ".join(Size._fields)
        raise UsageError(f"'{name}': skeletons are read by skeleton_vit (behind a colon: {known}) or raw")
    wrong = [key for key, value in given.items() if type(value) is not int or value < 1]
    if wrong:
        raise UsageError(f"encoder '{name}': {wrong[0]} must be a whole number from 1")
    size = Size(**given)
    if size.embed_dim % size.num_heads or size.frames % size.segment:
        raise UsageError(
            f"encoder '{name}': {size.num_heads} heads must divide embed_dim {size.embed_dim}, and segments of "
            f"{size.segment} the {size.frames} frames"
        )
    return PoseEncoder(SkeletonTransformer(size, joints), name, size, joints, persons)
