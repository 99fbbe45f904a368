"""CPC v2 for pictures: which patch follows some rows further down? (Henaff et al., ICML 2020, on van den Oord et
al., 2018)"""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.context import RowsAbove
from pretask.encoders.image import ImageEncoder
from pretask.encoders.stride import overlap_geometry, stride
from pretask.errors import UsageError
from pretask.objectives.contrastive import log_sum_exp, single
from pretask.objectives.distributed import gather
from pretask.pretexts import draw
from pretask.pretexts.patches import cut
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step

PLACES = 7  # patches a row and a column; each covers half of the next


class CPC(PretextTask):
    """Predict patches from what the rows above them say: of all patches of all pictures, which is it?

    The score of a patch is bilinear, z' W_k c with W_k = 0.1 A' B_k of rank 64 as in the paper's code, and nothing is
    normalised; the loss is the mean over contexts and distances k. Patches are encoded apart from each other. Decided
    where the papers differ: the rows 2, 3 and 4 below are predicted (figure 4 of the first paper), of which none
    shares pixels with the context; of the second paper's changes of a patch only dropped colours and mirroring are
    here. Batch normalisation in the encoder sees all patches at once and gives the answer away: the default network
    normalises layers.

    Args:
        encoder: any image encoder; better one without batch normalisation.
        nearest: how many rows below the context the first prediction is; 1 shares half of its pixels.
        steps: rows predicted from there on.
        blocks: of the context network.
        hidden_dim: its width within a block.
        projection_dim: rank of W_k.
        scale: of the scores.
        drop_colour: chance that a patch keeps only one of three channels.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    encoder: ImageEncoder
    recipe = Recipe(
        "adam",
        lr=4e-4,
        lr_batch=512,
        batch_size=512,
        epochs=200,
        weight_decay=0.0,
        betas=(0.8, 0.999),
        warmup=0.0,
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        nearest: int = 2,
        steps: int = 3,
        blocks: int = 5,
        hidden_dim: int = 256,
        projection_dim: int = 64,
        scale: float = 0.1,
        drop_colour: float = 0.8,
        crop_scale: tuple[float, float] = (0.5, 1.0),
    ):
        super().__init__(encoder)
        if nearest < 1 or steps < 1 or nearest + steps > PLACES:
            raise UsageError(f"rows {nearest} to {nearest + steps - 1} below: there are {PLACES} rows in all")
        self.ahead, self.scale, self.drop_colour = range(nearest, nearest + steps), scale, drop_colour
        side, self.patch, self.step = overlap_geometry(encoder, PLACES)
        self.shown = max(self.patch, stride(encoder))
        self.view = ViewSpec(side, crop_scale, flip=0.5)
        self.context = RowsAbove(encoder.dim, blocks, hidden_dim)
        self.targets = nn.Linear(encoder.dim, projection_dim, bias=False)  # A
        self.predict = nn.ModuleList(
            nn.Linear(encoder.dim, projection_dim, bias=False) for _ in self.ahead
        )  # B_k

    def crop(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans side side"]:
        image = require(batch, "image", 4)
        return apply_view(
            self.view, image, draw_view(self.view, len(image), step.generator, batch.get("size"))
        )

    def corners(self, count: int) -> Int[Tensor, "batch places 2"]:
        """Left and top of each patch, row by row."""
        start = torch.arange(PLACES) * self.step
        top, left = torch.meshgrid(start, start, indexing="ij")
        return torch.stack([left, top], dim=-1).flatten(0, 1).expand(count, -1, -1)

    def patches(
        self, crop: Float[Tensor, "batch chans side side"], step: Step
    ) -> Float[Tensor, "places*batch chans patch patch"]:
        """The patches of each picture, row by row; each is mirrored and loses its colours by itself."""
        patches = cut(crop, self.corners(len(crop)), self.patch).flatten(0, 1)
        flip, drop = (draw.chance(len(patches), p, step.generator) for p in (0.5, self.drop_colour))
        kept = draw.integers(3, (len(patches),), step.generator)
        flip, drop, kept = (x.to(patches.device).view(-1, 1, 1, 1) for x in (flip, drop, kept))
        patches = torch.where(flip, patches.flip(3), patches)
        if patches.shape[1] == 3:
            one = patches.gather(1, kept.expand(-1, 1, *patches.shape[2:]))
            patches = torch.where(drop, one.expand_as(patches), patches)
        if self.shown == self.patch:
            return patches
        return F.interpolate(patches, (self.shown, self.shown), mode="bilinear", align_corners=False)

    def encode(self, crop: Tensor, step: Step) -> Float[Tensor, "batch rows columns dim"]:
        return self.encoder(self.patches(crop, step)).pooled.view(len(crop), PLACES, PLACES, -1)

    def loss(self, batch: Batch, step: Step) -> Losses:
        z = self.encode(self.crop(batch, step), step)
        context, targets = self.context(z), single(self.targets(z))
        said = [self.scale * single(predict(context[:, :-k])).flatten(0, 2)
                for k, predict in zip(self.ahead, self.predict, strict=True)]  # fmt: skip
        queries, truth = torch.cat(said), torch.cat([targets[:, k:].flatten(0, 2) for k in self.ahead])
        agreement = (queries * truth).sum(1).mean()
        return {"cpc": log_sum_exp(queries, gather(targets.flatten(0, 2))) - agreement}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        """One prediction a picture: from the middle of the last row that is seen, the nearest row that is asked."""
        crop = self.crop(batch, step)
        z = self.encode(crop, step)
        row, column = PLACES // 2 - 1, PLACES // 2
        said = self.predict[0](self.context(z)[:, row, column])
        found = (said @ self.targets(z).flatten(0, 2).T).argmax(1)
        patches = cut(crop, self.corners(len(crop)), self.patch).flatten(0, 1)
        seen, left = row * self.step + self.patch, column * self.step
        top = (row + self.ahead[0]) * self.step
        rows = []
        for number, place in enumerate(found.tolist()):
            above = crop[number].clone()
            above[:, seen:] = 0.5
            panels = []
            for patch in (crop.new_zeros(1), patches[place]):
                shown = above.clone()
                shown[:, top : top + self.patch, left : left + self.patch] = patch
                panels.append(shown)
            rows.append([Panel("what it sees; what is black is asked", panels[0]),
                         Panel("answer: a patch of all pictures", panels[1], "answer"),
                         Panel("the picture", crop[number], "truth")])  # fmt: skip
        return Sheet("CPC", "Which patch lies below?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"cpc": log(batch_size * PLACES**2)}
