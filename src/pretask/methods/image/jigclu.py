"""JigClu: pictures are montages of pieces; which belong together, and where were they? (Chen et al., CVPR 2021)

Pieces are numbered as in the official code: top left, bottom left, top right, bottom right. Pieces of pictures of at
most 64 pixels are not blurred, as SimCLR does not blur CIFAR-10; the official code has no such rule.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.image.two_views import BLUR_KERNEL
from pretask.objectives.contrastive import multi_positive
from pretask.objectives.distributed import gather, rank, world_size
from pretask.pretexts import draw
from pretask.pretexts.views import SMALL_IMAGE, View, ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

PIECES = 4
MAP = 8  # cells a side that the last map is brought to before it is pooled by slots
BASE_TEMPERATURE = 0.07  # of the supervised contrastive loss, whose size the official code keeps


class Puzzle(NamedTuple):
    """Montages, and what their slots hold: all top left ones, all top right, all bottom left, all bottom right.

    Args:
        montage: the pictures that are seen.
        picture: which picture of the whole batch the piece in each slot is from.
        place: where in it the piece was.
    """

    montage: Float[Tensor, "batch chans side side"]
    picture: Int[Tensor, "4*batch"]
    place: Int[Tensor, "4*batch"]


class JigClu(PretextTask):
    """Group the pieces in montages by the pictures they come from, and say where in them they were.

    Args:
        encoder: any image encoder.
        temperature: of the clustering; the loss is multiplied by it over 0.07, as in the official code.
        overlap: share of the picture's side by which a piece reaches over the middle.
        location_weight: of the question where a piece was.
        piece_scale: area of a crop, as a share of its piece's.
        projection_dim: width of what is clustered.
    """

    encoder: ImageEncoder
    recipe = Recipe(
        "sgd", lr=0.03, batch_size=256, epochs=200, weight_decay=1e-4, decay_vectors=True, warmup=0.0
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        temperature: float = 0.3,
        overlap: float = 0.3,
        location_weight: float = 1.0,
        piece_scale: tuple[float, float] = (0.2, 1.0),
        projection_dim: int = 128,
    ):
        super().__init__(encoder)
        if not 0 <= overlap <= 0.5:
            raise UsageError(f"overlap must be between 0 and 0.5 of a picture's side, not {overlap}")
        self.temperature, self.overlap = temperature, overlap
        self.weights = {"cluster": 1.0, "location": location_weight}
        enlarged = -(-2 // min(cells(encoder)))  # until each slot has a cell of the last map to itself
        self.piece = encoder.image_size * enlarged // 2
        patch = getattr(encoder, "patch_size", 1)
        self.piece = -(-self.piece // patch) * patch
        small = encoder.image_size <= SMALL_IMAGE
        self.view = ViewSpec(
            self.piece, piece_scale, flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
            grey=0.2, blur=0.0 if small else 0.5, blur_kernel=BLUR_KERNEL,
        )  # fmt: skip
        self.projector = mlp(encoder.dim, encoder.dim, projection_dim)
        self.locate = nn.Linear(encoder.dim, PIECES)

    def pieces(self, batch: Batch, step: Step) -> Float[Tensor, "4*batch chans piece piece"]:
        """A crop of each piece of each picture: piece 0 of all pictures, then piece 1, ..."""
        image = require(batch, "image", 4)
        size = batch.get("size")
        if size is None:
            size = torch.tensor(image.shape[-2:], device=image.device).expand(len(image), 2)
        drawn = []
        for box in piece_boxes(size, self.overlap):
            start, extent = box[:, :2], box[:, 2:] - box[:, :2]
            view = draw_view(self.view, len(image), step.generator, extent.flip(1))
            own = (start + extent * view.box.to(box).view(-1, 2, 2).transpose(0, 1)) / size.to(box).flip(1)
            drawn.append(view._replace(box=own.transpose(0, 1).flatten(1).to(view.box)))
        return apply_view(self.view, image, View.joined(drawn))

    def puzzle(self, batch: Batch, step: Step) -> Puzzle:
        own = self.pieces(batch, step)
        count, world = len(own) // PIECES, world_size()
        everyone = gather(own).unflatten(0, (world, PIECES, count)).transpose(0, 1).flatten(0, 2)
        pictures = count * world
        order = draw.common((PIECES * pictures,), step.generator).argsort().to(own.device)
        slots = order.view(PIECES, pictures)[:, rank() * count : (rank() + 1) * count].flatten()
        quarters = everyone[slots].unflatten(0, (PIECES, count))
        rows = [torch.cat([quarters[i], quarters[i + 1]], dim=3) for i in (0, 2)]
        return Puzzle(torch.cat(rows, dim=2), slots % pictures, slots // pictures)

    def features(self, montage: Float[Tensor, "batch chans side side"]) -> Float[Tensor, "4*batch dim"]:
        """What is seen in each slot: the last map, brought to 8 x 8 whatever it is, pooled to 2 x 2."""
        found = self.encoder(montage)
        maps = found.tokens.transpose(1, 2).unflatten(2, found.grid)
        # pooling a ResNet's 7 cells into 2 would mix slots
        maps = F.interpolate(maps, (MAP, MAP), mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(maps, 2).flatten(2).permute(2, 0, 1).flatten(0, 1)

    def loss(self, batch: Batch, step: Step) -> Losses:
        puzzle = self.puzzle(batch, step)
        seen = self.features(puzzle.montage)
        clustered = multi_positive(self.projector(seen), puzzle.picture, self.temperature)
        located = self.locate(seen)
        step.metrics["accuracy"] = (located.argmax(1) == puzzle.place).float().mean()
        return {
            "cluster": self.temperature / BASE_TEMPERATURE * clustered,
            "location": F.cross_entropy(located, puzzle.place),
        }

    def question(self, batch: Batch, step: Step) -> Question:
        """Each piece alone: where was it?"""
        pieces = self.pieces(batch, step)
        number = torch.arange(len(pieces), device=pieces.device)
        count = len(pieces) // PIECES
        return Question(pieces, number % count, number // count)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        puzzle = self.puzzle(batch, step)
        count = len(puzzle.montage)
        seen = self.features(puzzle.montage)
        told, z = self.locate(seen).argmax(1), F.normalize(self.projector(seen), dim=1)
        alike = (z @ z.T).fill_diagonal_(-1).argmax(1)
        quarters = torch.cat([
            puzzle.montage[:, :, i * self.piece :, j * self.piece :][:, :, : self.piece, : self.piece]
            for i in (0, 1) for j in (0, 1)
        ])  # fmt: skip
        names = ("top left", "bottom left", "top right", "bottom right")
        true = [
            next(s for s in range(PIECES * count) if s != n and puzzle.picture[s] == puzzle.picture[n])
            if int((puzzle.picture == puzzle.picture[n]).sum()) > 1 else n
            for n in range(count)
        ]  # fmt: skip
        rows = [
            [
                Panel("a montage", puzzle.montage[n]),
                Panel("its first piece; where was it, and with what does it belong?", quarters[n], "asked"),
                Panel(f"answer: {names[told[n]]}, with this", quarters[alike[n]], "answer"),
                Panel(f"{names[puzzle.place[n]]}, with this for one", quarters[true[n]], "truth"),
            ]
            for n in range(count)
        ]
        return Sheet("JigClu", "Which pieces belong together, and where in their picture were they?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        others = PIECES * batch_size - 1
        return {"cluster": self.temperature / BASE_TEMPERATURE * log(others), "location": log(PIECES)}


@torch.no_grad()
def cells(encoder: ImageEncoder) -> tuple[int, ...]:
    """The sides of the encoder's last map."""
    was = encoder.training
    grid = encoder.eval()(torch.zeros(1, encoder.in_chans, encoder.image_size, encoder.image_size)).grid
    encoder.train(was)
    return grid


def piece_boxes(size: Int[Tensor, "batch 2"], overlap: float) -> Float[Tensor, "4 batch 4"]:
    """x0, y0, x1, y1 in whole pixels of the four pieces: on each side up to W // 2 + c W, or from W // 2 - c W on,
    rounded as PIL rounds what it crops, halves to even.

    Args:
        size: heights and widths of the pictures.
        overlap: c.
    """
    side = size.flip(1).double()
    low, high = ((side / 2).floor() + sign * overlap * side for sign in (-1, 1))
    spans = (torch.zeros_like(side), high.round()), (low.round(), side)  # the first half, the second
    return torch.stack([
        torch.stack([spans[right][0][:, 0], spans[down][0][:, 1], spans[right][1][:, 0], spans[down][1][:, 1]], dim=1)
        for right in (0, 1) for down in (0, 1)
    ])  # fmt: skip
