"""PIRL: a picture and its shuffled or turned self must be alike (Misra & van der Maaten, CVPR 2020)."""

from collections.abc import Iterable
from math import log
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.encoders.stride import patch_geometry, stride
from pretask.errors import UsageError
from pretask.objectives.contrastive import bank_cross_entropy, bank_nce, bank_probability, unit
from pretask.objectives.memory import MemoryBank, Partition
from pretask.pretexts import draw
from pretask.pretexts.enhance import draw_enhancement, enhance
from pretask.pretexts.patches import SIDE, cut, draw_jitter, patch_corners
from pretask.pretexts.permutation import from_tiles, shuffle
from pretask.pretexts.photometric import gaussian_blur, jitter, luma, where
from pretask.pretexts.rotation import rotate_each
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

MANY = 100_000  # pictures from which on nce is the default
ENHANCED = 0.66  # probability of the photometric changes
COLOURS: dict[str, dict[str, Any]] = {
    "photometric": {"jitter": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    "blur": {
        "jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "blur": 0.5,
        "blur_kernel": 23,  # PIL's blur has no kernel size: as many taps as a deviation of 2 needs
    },
}  # fmt: skip


class PIRL(PretextTask):
    """Contrast the encodings of a picture and of its transformed self with a memory of all pictures.

    Small pictures get the paper's geometry in small: a crop of 33 for 32 pixels, cells of 11, patches of
    8 (three quarters of a cell, in whole patches of a vision transformer). Patches smaller than the stride
    of a convolutional encoder are enlarged to it, or its last layers would see nothing but padding.

    Args:
        encoder: any image encoder.
        transform: the nine patches shuffled (`jigsaw`), a turn by a right angle (`rotation`) or `both`.
        transform_weight: of the transformed pictures against the memory, lambda; the rest is the pictures'.
        loss: `nce`, `cross_entropy` (InfoNCE) or the paper's `probability` form; none takes nce, but
            cross_entropy for mlp heads (as the official code) and for fewer than 100,000 pictures: the whole
            memory is then overwritten before the embeddings have spread, and nce's sum over negatives
            pushes all of them one way.
        head: `linear` or `mlp`.
        temperature: divides the similarities; none takes 0.07, and 0.1 for cross_entropy or mlp heads.
        num_negatives: rows of the memory that each sample is compared with; 0 takes a fortieth of the
            data's, 4096 at least and 32000 at most (ImageNet's), and never more than there are others.
        projection_dim: width of a row.
        memory_momentum: share of the old row that an update keeps.
        crop_scale: area of the picture's crop, as a share of the picture's.
        patch_scale: area of the crop that is cut into patches.
        colours: `photometric` (jitter, posterise, sharpen, solarise, autocontrast) or `blur` (SimCLR's).
    """

    recipe = Recipe("sgd", lr=0.03, batch_size=1024, epochs=800, weight_decay=1e-4, warmup=0.0, final_lr=1e-3)

    def __init__(
        self,
        encoder: ImageEncoder,
        transform: Literal["jigsaw", "rotation", "both"] = "jigsaw",
        transform_weight: float = 0.5,
        loss: Literal["nce", "cross_entropy", "probability"] | None = None,
        head: Literal["linear", "mlp"] = "linear",
        temperature: float | None = None,
        num_negatives: int = 0,
        projection_dim: int = 128,
        memory_momentum: float = 0.5,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        patch_scale: tuple[float, float] = (0.6, 1.0),
        colours: Literal["photometric", "blur"] = "photometric",
    ):
        super().__init__(encoder)
        self.form, self.head = loss, head
        self.temperature = temperature or 0.0  # what is left open here, `prepare` decides
        self.num_negatives, self.memory_momentum = num_negatives, memory_momentum
        self.projection_dim = projection_dim
        self.crop, self.cell, self.patch = patch_geometry(encoder)
        self.shown = max(self.patch, stride(encoder))
        self.image_view = ViewSpec(encoder.image_size, scale=crop_scale)
        self.patch_view = ViewSpec(self.crop, scale=patch_scale)
        self.enhanced = ENHANCED if colours == "photometric" else 0.0
        self.colour = ViewSpec(self.patch, None, flip=0.5, grey=0.2, **COLOURS[colours])
        names = ("jigsaw", "rotation") if transform == "both" else (transform,)
        self.transforms = names if transform_weight else ()
        self.weights = {name: transform_weight / len(names) for name in self.transforms}
        self.weights["image"] = 1 - transform_weight
        widths = (encoder.dim, *[encoder.dim] * (head == "mlp"), projection_dim)
        self.heads = nn.ModuleDict({"image": mlp(*widths)})
        for name in self.transforms:
            self.heads[name] = JigsawHead(widths) if name == "jigsaw" else mlp(*widths)
        self.seen: list[tuple[Tensor, Tensor]] = []
        if hasattr(encoder, "patch_size"):  # transformers do not learn under plain SGD
            self.recipe = Recipe("adamw", lr=5e-4, batch_size=1024, epochs=800, weight_decay=0.05)

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        if not num_samples or num_samples < 2:
            raise UsageError("pirl remembers every picture: it needs a known number of them, two at least")
        device = next(self.parameters()).device
        self.bank = MemoryBank(num_samples, self.projection_dim, self.memory_momentum).to(device)
        self.partition = Partition(num_samples).to(device)
        if self.form is None:
            self.form = "nce" if self.head == "linear" and num_samples >= MANY else "cross_entropy"
        if not self.temperature:
            self.temperature = 0.1 if self.head == "mlp" or self.form == "cross_entropy" else 0.07
        if not self.num_negatives:
            self.num_negatives = min(max(4096, num_samples // 40), 32000, num_samples - 1)

    def image(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans h w"]:
        """An augmented crop of each picture."""
        image = require(batch, "image", 4)
        view = draw_view(self.image_view, len(image), step.generator, batch.get("size"))
        return self.recolour(apply_view(self.image_view, image, view), step)

    def jigsaw(self, batch: Batch, step: Step) -> Float[Tensor, "9*batch chans patch patch"]:
        """Nine patches of another crop in random order, each with its own colours and flip."""
        image = require(batch, "image", 4)
        view = draw_view(self.patch_view, len(image), step.generator, batch.get("size"))
        places = draw_jitter(len(image), SIDE, self.cell - self.patch, step.generator)
        order = draw.permutations(len(image), SIDE**2, step.generator)
        corners = shuffle(patch_corners(places, self.cell), order)
        patches = cut(apply_view(self.patch_view, image, view), corners, self.patch)
        patches = self.recolour(patches.flatten(0, 1), step)
        if self.shown == self.patch:
            return patches
        return F.interpolate(patches, (self.shown, self.shown), mode="bilinear", align_corners=False)

    def rotation(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans h w"]:
        """Another augmented crop, turned by a random right angle."""
        image = self.image(batch, step)
        return rotate_each(image, draw.integers(4, (len(image),), step.generator))

    def recolour(self, image: Float[Tensor, "n chans h w"], step: Step) -> Float[Tensor, "n chans h w"]:
        """Jitter, photometric changes, grey, blur and a flip for each picture or patch by itself."""
        spec, view = self.colour, draw_view(self.colour, len(image), step.generator).to(image.device)
        image = jitter(image, view.jitter, view.order, view.factors)
        if self.enhanced:
            image = enhance(image, draw_enhancement(len(image), self.enhanced, step.generator))
        if image.shape[1] == 3:
            image = where(view.grey, image, luma)
        if spec.blur:
            image = where(view.blur, image, gaussian_blur, view.sigma, spec.blur_radius)
        return torch.where(view.flip.view(-1, 1, 1, 1), image.flip(3), image)

    def embed(self, name: str, batch: Batch, step: Step) -> Float[Tensor, "batch dim"]:
        """Vectors of length 1 for the pictures (`image`) or for what a transform makes of them."""
        shown = getattr(self, name)(batch, step)
        return unit(self.heads[name](self.encoder(shown).pooled))

    def loss(self, batch: Batch, step: Step) -> Losses:
        index = require(batch, "index", 1)
        if not hasattr(self, "bank"):
            raise UsageError("call prepare(batches, num_samples) first: pirl's memory has a row a picture")
        # the transformed pictures come first: they set Z, and the memory changes only after the step
        losses = {name: self.compare(self.embed(name, batch, step), index, step) for name in self.transforms}
        embedding = self.embed("image", batch, step)
        losses["image"] = self.compare(embedding, index, step)
        if self.training and torch.is_grad_enabled():
            self.seen.append((index, embedding.detach()))
        return losses

    def compare(
        self, embedding: Float[Tensor, "batch dim"], index: Int[Tensor, "batch"], step: Step
    ) -> Float[Tensor, ""]:
        """The loss against the memory, with negatives of its own."""
        places = self.bank.draw(index, self.num_negatives, step.generator)
        logits = self.bank.scores(embedding, places) / self.temperature
        if self.form == "nce":
            return bank_nce(self.partition(logits.exp()), len(self.bank.rows))
        return bank_cross_entropy(logits) if self.form == "cross_entropy" else bank_probability(logits)

    def after_step(self, step: Step) -> None:
        for index, embedding in self.seen:
            self.bank.update(index, embedding)
        self.seen.clear()

    def question(self, batch: Batch, step: Step) -> Question:
        """Which transformed picture belongs to which other crop, both of one size."""
        name = self.transforms[0] if self.transforms else "image"
        shown, image = getattr(self, name)(batch, step), self.image(batch, step)
        if name == "jigsaw":
            shown = from_tiles(shown.unflatten(0, (len(image), -1)), SIDE, SIDE)
            shown = F.interpolate(shown, image.shape[-2:], mode="bilinear", align_corners=False)
        return Question(torch.cat([image, shown]), torch.arange(len(image), device=image.device).repeat(2))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        name = self.transforms[0] if self.transforms else "image"
        shown, image = getattr(self, name)(batch, step), self.image(batch, step)
        theirs = unit(self.heads[name](self.encoder(shown).pooled))
        found = (theirs @ unit(self.heads["image"](self.encoder(image).pooled)).T).argmax(1).tolist()
        if name == "jigsaw":
            shown = from_tiles(shown.unflatten(0, (len(image), -1)), SIDE, SIDE)
        rows = [
            [
                Panel("what it sees", shown[row]),
                Panel("the picture, another crop", image[row], "truth"),
                Panel("answer: the most similar picture", image[answer], "answer"),
            ]
            for row, answer in enumerate(found)
        ]
        return Sheet("PIRL", "Which picture is this?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """With all 1 + K scores equal: ln(1 + K), and in the other two forms 1 + K ways to be wrong."""
        if not self.num_negatives:
            return {}  # `prepare` has not been told yet how many pictures there are
        k = self.num_negatives
        value = log(1 + k) + (0 if self.form == "cross_entropy" else k * log(1 + 1 / k))
        return dict.fromkeys([*self.transforms, "image"], value)


class JigsawHead(nn.Module):
    """Each patch projected alike, then all nine together.

    Args:
        widths: of the projection of one patch; with a hidden layer its output is rectified too.
    """

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        each = mlp(*widths)
        self.each = each if len(widths) == 2 else each.append(nn.ReLU())
        self.join = nn.Linear(SIDE**2 * widths[-1], widths[-1])

    def forward(self, patches: Float[Tensor, "9*batch dim"]) -> Float[Tensor, "batch width"]:
        return self.join(self.each(patches).view(len(patches) // SIDE**2, -1))
