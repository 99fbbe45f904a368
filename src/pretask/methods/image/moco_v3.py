"""MoCo v3: contrast two views within a batch, by a predictor and a slow copy (Chen, Xie, He, ICCV 2021)."""

from dataclasses import replace
from math import log, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.ema import follow
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder, PatchEncoder
from pretask.methods.image.two_views import Target, TwoViews, byol_views
from pretask.objectives.contrastive import in_batch_nce
from pretask.objectives.distillation import cosine
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step

CONVOLUTIONS = Recipe("lars", lr=0.3, batch_size=4096, epochs=1000, weight_decay=1.5e-6, warmup=0.01)
"""The official recipe of ResNets, of 1000 epochs."""


class MoCoV3(TwoViews):
    """Each view finds, among the slow copy's projections of all other views, that of its partner; both ways.

    A vision transformer that is not pretrained starts as in the official code (fixed positions, uniform weights), and
    its patches' projection stays as it starts: learning it makes the run unstable. As there, projector and predictor
    of a transformer have one more layer and one more normalisation than those of a convolutional network.

    Args:
        encoder: any image encoder; the method is made for vision transformers.
        momentum: of the copy at the start, rising to 1 in a cosine; none takes 0.99 for transformers and 0.996 for
            others.
        temperature: divides the similarities; none takes 0.2 for transformers and 1 for others.
        freeze_patches: do not train a transformer's projection of patches.
        hidden_dim: width of the hidden layers; none takes 4096, 1024 for pictures of at most 64 pixels.
        projection_dim: width of what is contrasted.
        crop_scale: area of the random crops, as a share of the picture's; none begins at 0.08 for transformers and
            at 0.2 for others.
    """

    title = "MoCo v3"
    recipe = Recipe(
        "adamw", lr=1.5e-4, batch_size=4096, epochs=300, weight_decay=0.1, decay_vectors=True, betas=(0.9, 0.999),
        warmup=40 / 300,
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        momentum: float | None = None,
        temperature: float | None = None,
        freeze_patches: bool = True,
        hidden_dim: int | None = None,
        projection_dim: int = 256,
        crop_scale: tuple[float, float] | None = None,
    ):
        transformer = isinstance(encoder, PatchEncoder)
        views = byol_views(encoder, crop_scale or (0.08 if transformer else 0.2, 1.0))
        super().__init__(encoder, *(replace(view, interpolation="bilinear") for view in views))
        self.recipe = type(self).recipe if transformer else CONVOLUTIONS
        hidden = hidden_dim or (1024 if encoder.image_size <= SMALL_IMAGE else 4096)
        self.momentum = (0.99 if transformer else 0.996) if momentum is None else momentum
        self.temperature = temperature or (0.2 if transformer else 1.0)
        if isinstance(encoder, PatchEncoder):
            if not encoder.pretrained:
                start_as_moco_v3(encoder)
            if freeze_patches:
                encoder.model.patch_embed.proj.requires_grad_(False)
        depth = 2 if transformer else 1
        widths = (encoder.dim, *[hidden] * depth, projection_dim)
        self.projector = mlp(*widths, batch_norm=True, last_norm="plain")
        self.predictor = mlp(
            projection_dim,
            hidden,
            projection_dim,
            batch_norm=True,
            last_norm="plain" if transformer else "none",
        )
        if not transformer:  # the official layers have no bias, this one included
            self.predictor[-1] = nn.Linear(hidden, projection_dim, bias=False)
        self.target = Target(encoder, self.projector)

    def compared(self, views: Float[Tensor, "views chans h w"]) -> Float[Tensor, "views dim"]:
        return self.predictor(self.projector(self.encoder(views).pooled))

    def loss(self, batch: Batch, step: Step) -> Losses:
        views = self.views(batch, step).chunk(2)
        with torch.no_grad():  # each view alone, as its batch statistics are its own
            keys = [self.target(view) for view in reversed(views)]
        ways = [in_batch_nce(self.compared(v), k, self.temperature) for v, k in zip(views, keys, strict=True)]
        # 2 T makes the gradient's size independent of the temperature (algorithm 1)
        return {"moco": 2 * self.temperature * torch.stack(ways).sum()}

    def after_step(self, step: Step) -> None:
        # the official code updates before it makes keys, with the momentum of that step
        follow(self.target, self, cosine(step.index + 1, step.total, self.momentum, 1.0))

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"moco": 4 * self.temperature * log(batch_size)}


@torch.no_grad()
def start_as_moco_v3(encoder: PatchEncoder) -> None:
    """The official start: fixed sine-cosine positions, Xavier-uniform weights, those of queries, keys and values as
    three layers, biases of zero, a class token near zero."""
    model = encoder.model
    if model.pos_embed is not None:
        encoder.use_fixed_positions()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            rows = module.out_features // (3 if name.endswith("qkv") else 1)
            bound = sqrt(6 / (rows + module.in_features))
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    kernel = model.patch_embed.proj
    bound = sqrt(6 / (kernel.weight[0].numel() + encoder.dim))
    nn.init.uniform_(kernel.weight, -bound, bound)
    if kernel.bias is not None:
        nn.init.zeros_(kernel.bias)
    if model.cls_token is not None:
        nn.init.normal_(model.cls_token, std=1e-6)
