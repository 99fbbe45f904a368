"""ScatSimCLR: SimCLR on wavelet scattering, with a second pretext on the same features as a regulariser (Kinakh,
Taran, Voloshynovskiy, ICCV workshops 2021).

The three forward passes of a step (a view, its partner, the second pretext) have batch statistics of their own, as
in the official code. There the cosine is as many steps long as an epoch has batches and goes on once an epoch, which
all but keeps the rate: here it is constant. Pictures are normalised as the encoder says, which for three channels
is by ImageNet's numbers (the paper's for STL-10; for CIFAR it takes CIFAR's). They are brought to their size once, by
the crop and bilinearly; the official code makes them square before that, by Lanczos resampling.
"""

from __future__ import annotations

from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.heads import dropped, mlp
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.image.two_views import TwoViews
from pretask.objectives.contrastive import nt_xent
from pretask.pretexts import draw
from pretask.pretexts.patches import SIDE, enlarged_thirds
from pretask.pretexts.permutation import far_apart, from_tiles, shuffle, unshuffle
from pretask.pretexts.rotation import rotate
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Sheet, Step

TURNS = ("0°", "90° clockwise", "180°", "90° counter-clockwise")
TILES, TURN_HIDDEN, TILE_HIDDEN, ORDER_HIDDEN = SIDE**2, (512, 128), 512, 4096


class ScatSimCLR(TwoViews):
    """Contrast two views (NT-Xent), and ask a second question of the same features: by which right angle is it
    turned, or in which order are its nine tiles?

    Args:
        encoder: any image encoder; the paper's are `scatnet8` to `scatnet45`.
        pretext: the second question; `none` asks no other.
        pretext_weight: lambda, of that question beside the contrast.
        temperature: divides the similarities.
        projection_dim: width of what is contrasted.
        permutations: orders of tiles to tell apart, as different as can be.
        table: these orders themselves in place of that, each as nine digits from 0 with commas between
            (`012345678,876543210`), such as the 35 of the official code's file.
        dropout: share of hidden values that the second question's head drops.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "ScatSimCLR"
    orders: Tensor
    recipe = Recipe(
        "adam", lr=3e-4, lr_batch=0, batch_size=64, epochs=1000, weight_decay=1e-5, decay_vectors=True,
        betas=(0.9, 0.999), warmup=0.0, schedule="constant",
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        pretext: Literal["rotation", "jigsaw", "none"] = "rotation",
        pretext_weight: float = 0.3,
        temperature: float = 0.5,
        projection_dim: int = 128,
        permutations: int = 35,
        table: str = "",
        dropout: float = 0.5,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ):
        size = encoder.image_size
        taps = 2 * int(0.05 * size) + 1  # of the blur; one is none
        super().__init__(encoder, ViewSpec(
            size, crop_scale, flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2,
            blur=0.5 if taps > 1 else 0.0, blur_kernel=taps,
        ))  # fmt: skip
        self.pretext, self.temperature, self.dropout = pretext, temperature, dropout
        self.projector = mlp(encoder.dim, encoder.dim, projection_dim)
        if pretext == "rotation":
            first, second = TURN_HIDDEN
            self.hidden = nn.ModuleList([nn.Linear(encoder.dim, first), nn.Linear(first, second)])
            self.head = nn.Linear(second, len(TURNS))
        elif pretext == "jigsaw":
            orders = read_orders(table) if table else far_apart(TILES, permutations).clone()
            self.register_buffer("orders", orders, persistent=False)
            self.hidden = nn.ModuleList(
                [nn.Linear(encoder.dim, TILE_HIDDEN), nn.Linear(TILES * TILE_HIDDEN, ORDER_HIDDEN)]
            )
            self.head = nn.Linear(ORDER_HIDDEN, len(orders))
        self.weights = {} if pretext == "none" else {"nt_xent": 1.0, pretext: pretext_weight}

    def views(self, batch: Batch, step: Step) -> Float[Tensor, "2*batch chans h w"]:
        """As of square pictures: the paper makes them square before it crops."""
        return super().views({key: value for key, value in batch.items() if key != "size"}, step)

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        """The first and the second views in a forward pass each."""
        return torch.cat([self.projector(self.encoder(part).pooled) for part in views.chunk(2)])

    def turned(
        self, batch: Batch, step: Step
    ) -> tuple[Float[Tensor, "4*batch chans side side"], Int[Tensor, "4*batch"]]:
        """Each picture by all four right angles, and a view of each then; 1 is clockwise."""
        image = require(batch, "image", 4)
        four = torch.stack([rotate(image, -turn) for turn in range(len(TURNS))], dim=1).flatten(0, 1)
        view = draw_view(self.first, len(four), step.generator)
        answer = torch.arange(len(TURNS), device=image.device).repeat(len(image))
        return apply_view(self.first, four, view), answer

    def tiles(
        self, batch: Batch, step: Step
    ) -> tuple[Float[Tensor, "batch 9 chans side side"], Int[Tensor, "batch"]]:
        """Tiles in one of the orders, each as large as a picture; at place t stands tile order[t]."""
        image = require(batch, "image", 4)
        answer = draw.integers(len(self.orders), (len(image),), step.generator).to(image.device)
        parts = enlarged_thirds(to_float(image), self.encoder.image_size)
        return shuffle(parts, self.orders[answer]), answer

    def layer(
        self, number: int, x: Float[Tensor, "batch *more dim"], step: Step
    ) -> Float[Tensor, "batch *more hidden"]:
        hidden = self.hidden[number](x).relu()
        return dropped(hidden, self.dropout, step.generator) if self.training else hidden

    def turn_logits(self, turned: Float[Tensor, "n chans side side"], step: Step) -> Float[Tensor, "n 4"]:
        return self.head(self.layer(1, self.layer(0, self.encoder(turned).pooled, step), step))

    def order_logits(
        self, tiles: Float[Tensor, "batch 9 chans side side"], step: Step
    ) -> Float[Tensor, "batch orders"]:
        """Tiles are not normalised in the official code; the encoder takes away what is added here."""
        seen = self.encoder(tiles.flatten(0, 1) * self.encoder.std + self.encoder.mean).pooled
        each = self.layer(0, seen.unflatten(0, tiles.shape[:2]), step)
        return self.head(self.layer(1, each.flatten(1), step))

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = self.compared(self.views(batch, step)).chunk(2)
        losses = {"nt_xent": nt_xent(first, second, self.temperature)}
        if self.pretext != "none":
            shown, answer = (
                self.turned(batch, step) if self.pretext == "rotation" else self.tiles(batch, step)
            )
            logits = (self.turn_logits if self.pretext == "rotation" else self.order_logits)(shown, step)
            step.metrics["accuracy"] = (logits.argmax(1) == answer).float().mean()
            losses[self.pretext] = F.cross_entropy(logits, answer)
        return losses

    def preview(self, batch: Batch, step: Step) -> Sheet:
        sheet = super().preview(batch, step)
        more: list[list[Panel]] = [[] for _ in sheet.rows]
        if self.pretext == "rotation":
            turned, answer = self.turned(batch, step)
            said = self.turn_logits(turned, step).argmax(1)
            for row, panels in enumerate(more):
                at = 4 * row + row % 4  # one of its four
                truth = Panel(f"turned by {TURNS[int(answer[at])]}", turned[at], "truth")
                panels += [truth, Panel(f"answer: {TURNS[int(said[at])]}", turned[at], "answer")]
        elif self.pretext == "jigsaw":
            tiles, answer = self.tiles(batch, step)
            said = self.order_logits(tiles, step).argmax(1)
            shown = zip(
                tiles, *(unshuffle(tiles, self.orders[which]) for which in (said, answer)), strict=True
            )
            names: tuple[tuple[str, Literal["hidden", "answer", "truth"]], ...] = (
                ("its tiles", "hidden"), ("put back", "answer"), ("as they were", "truth"),
            )  # fmt: skip
            for panels, pictures in zip(more, shown, strict=True):
                panels += [
                    Panel(name, from_tiles(picture[None], SIDE, SIDE)[0], role)
                    for (name, role), picture in zip(names, pictures, strict=True)
                ]
        asked = {
            "rotation": " By which right angle is it turned?",
            "jigsaw": " In which order are its tiles?",
        }
        rows = [row + panels for row, panels in zip(sheet.rows, more, strict=True)]
        return Sheet(sheet.title, sheet.note + asked.get(self.pretext, ""), rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        known = {"rotation": len(TURNS), "jigsaw": len(getattr(self, "orders", ())), "none": 0}[self.pretext]
        second: dict[str, float] = {self.pretext: log(known)} if known else {}
        return {"nt_xent": log(2 * batch_size - 1), **second}


def read_orders(table: str) -> Int[Tensor, "orders 9"]:
    """Orders of tiles from their digits.

    Raises:
        UsageError: one of them is none, or is there twice.
    """
    rows = [row.strip() for row in table.split(",") if row.strip()]
    for row in rows:
        if sorted(row) != list("012345678") or rows.count(row) > 1:
            raise UsageError(f"table: '{row}' must have each of the digits 0 to 8 once, and be there once")
    return torch.tensor([[int(tile) for tile in row] for row in rows])
