"""FlexPredict: tell what lies about there, where "there" is uncertain (Bar et al., ICML 2024; the code's StoP).

I-JEPA whose queries carry noise that went through the very matrix the context goes through, so that it cannot
be learned away without losing the context. Decided here: the blur is a Gaussian of 13 taps, where PIL's is several
box blurs of about that reach. The official code counts a step before it looks up rate and decay: here each comes one
step later.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.decoder import HEAD_DIM, decoder_shape, layer_norm
from pretask.encoders.ema import awake, follow, teacher_of
from pretask.encoders.image import PatchEncoder, check_norm
from pretask.encoders.positions import sincos_2d
from pretask.errors import UsageError
from pretask.objectives.reconstruction import patchify, unpatchify
from pretask.pretexts import draw
from pretask.pretexts.blocks import Blocks, draw_blocks
from pretask.pretexts.masks import take
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step

FEW = 4  # least patches of context on grids of at most 64; 10 on larger ones, as in the paper


class Puzzle(NamedTuple):
    """Augmented pictures and their blocks."""

    image: Float[Tensor, "batch chans h w"]
    blocks: Blocks


class FlexPredict(PretextTask):
    """Predict a slow teacher's features of hidden blocks, asked for at noisy positions.

    Args:
        encoder: a vision transformer without class token (`class_token=false,global_pool=avg,fc_norm=false`).
            Unless it is pretrained it gets fixed sine-cosine positions and small weights.
        query: what asks for a patch: `stochastic` noise through the context's projection, a learned `token`
            (I-JEPA), or its position `alone`; always with its position.
        noise: standard deviation of the noise (the official setting named `var`).
        num_targets: blocks that are asked for.
        target_layers: last layers of the teacher whose outputs, normalised, are averaged to the features.
        target_scale: area of such a block, as a share of the picture's.
        target_aspect: its height over its width.
        context_scale: area of the block that is seen, before the others are taken out of it.
        predictor_dim: width of the predictor; none takes 384 from a ViT-B on and half the encoder's below.
        predictor_depth: its blocks; none takes 6 from a ViT-B on and 2 below.
        momentum: the teacher's at the start, rising to 1 in a line.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    encoder: PatchEncoder
    positions: Tensor
    recipe = Recipe(
        "adamw", lr=8e-4, lr_batch=2048, batch_size=2048, epochs=600, weight_decay=0.04, weight_decay_end=0.4,
        betas=(0.9, 0.999), warmup=15 / 600, warmup_from=1 / 4, final_lr=1 / 8,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        query: Literal["stochastic", "token", "alone"] = "stochastic",
        noise: float = 0.25,
        num_targets: int = 4,
        target_layers: int = 1,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        predictor_dim: int | None = None,
        predictor_depth: int | None = None,
        momentum: float = 0.996,
        crop_scale: tuple[float, float] = (0.3, 1.0),
    ):
        super().__init__(encoder)
        if encoder.num_prefix:
            raise UsageError(
                "flexpredict needs a vision transformer without class token: add class_token=false,"
                "global_pool=avg,fc_norm=false to the encoder's name"
            )
        check_norm(encoder)
        depth = len(encoder.model.blocks)
        if not 1 <= target_layers <= depth:
            raise UsageError(f"target_layers must be 1 to the encoder's {depth}, not {target_layers}")
        if not encoder.pretrained:
            start(encoder)
        encoder.model.pos_embed.requires_grad_(False)  # a pretrained encoder's too
        self.query, self.noise, self.momentum = query, noise, momentum
        self.target_layers = target_layers
        self.shape: dict[str, Any] = {
            "targets": num_targets, "scale": target_scale, "aspect": target_aspect,
            "context_scale": context_scale, "least": 10 if encoder.num_patches > 64 else FEW,
        }  # fmt: skip
        self.view = ViewSpec(encoder.image_size, crop_scale, flip=0.5, grey=0.2, blur=0.5, blur_kernel=13)
        large = encoder.dim >= 768
        dim, depth = decoder_shape(
            encoder.dim, predictor_dim or (384 if large else None), predictor_depth or (6 if large else None)
        )
        self.register_buffer("positions", sincos_2d(dim, encoder.grid), persistent=False)
        self.embed = nn.Linear(encoder.dim, dim)
        self.token = nn.Parameter(torch.zeros(1, 1, dim)) if query == "token" else None
        if self.token is not None:
            nn.init.trunc_normal_(self.token, std=0.02)
        heads = encoder.blocks[0].attn.num_heads  # type: ignore[index]
        heads = heads if dim % heads == 0 else dim // HEAD_DIM
        blocks = [Block(dim, heads, qkv_bias=True, norm_layer=layer_norm) for _ in range(depth)]
        self.predictor = nn.Sequential(*blocks, layer_norm(dim))
        self.head = nn.Linear(dim, encoder.dim)
        for layer in (self.embed, self.head, *self.predictor.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.teacher = teacher_of(encoder)

    @property
    def learned(self) -> nn.Module:
        return awake(self.teacher, self.encoder)

    def puzzle(self, batch: Batch, step: Step) -> Puzzle:
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        blocks = draw_blocks(self.encoder.grid, len(image), step.generator, **self.shape)
        image = apply_view(self.view, image, view)
        return Puzzle(image, Blocks(*(part.to(image.device) for part in blocks)))

    @torch.no_grad()
    def truth(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch patches dim"]:
        """The teacher's features of the whole picture, each standardised over its width."""
        model: Any = self.teacher.model
        outputs = model.forward_intermediates(
            self.teacher.normalise(image), indices=self.target_layers, norm=True, output_fmt="NLC",
            intermediates_only=True,
        )  # fmt: skip
        tokens = torch.stack(outputs).mean(0)
        return F.layer_norm(tokens, tokens.shape[-1:])

    def ask(
        self, places: Int[Tensor, "batch target"], noise: Float[Tensor, "batch target dim"]
    ) -> Float[Tensor, "batch target width"]:
        """Queries for these places."""
        position = self.positions[places]
        if self.query == "alone":
            return position
        if self.token is not None:
            return position + self.token
        return position + self.embed(self.noise * noise)

    def predict(self, puzzle: Puzzle, step: Step) -> Float[Tensor, "blocks*batch target dim"]:
        """What is told of each target block, the first block of all pictures, then the second, ..."""
        seen, targets = puzzle.blocks
        count = targets.shape[1]
        context = self.embed(self.encoder(puzzle.image, visible=seen).tokens) + self.positions[seen]
        noise = draw.normal((*targets.shape, self.encoder.dim), step.generator).to(context)
        queries = self.ask(*(part.transpose(0, 1).flatten(0, 1) for part in (targets, noise)))
        x = self.predictor(torch.cat([context.repeat(count, 1, 1), queries], dim=1))
        return self.head(x[:, seen.shape[1] :])

    def loss(self, batch: Batch, step: Step) -> Losses:
        puzzle = self.puzzle(batch, step)
        places = puzzle.blocks.targets.transpose(0, 1).flatten(0, 1)
        truth = take(self.truth(puzzle.image).repeat(puzzle.blocks.targets.shape[1], 1, 1), places)
        return {"features": F.smooth_l1_loss(self.predict(puzzle, step), truth)}

    def after_step(self, step: Step) -> None:
        follow(self.teacher, self.encoder, self.momentum + (1 - self.momentum) * step.index / step.total)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        puzzle = self.puzzle(batch, step)
        size, grid, (seen, targets) = self.encoder.patch_size, self.encoder.grid, puzzle.blocks
        patches, truth = patchify(puzzle.image, size), self.truth(puzzle.image)
        every, known = patches.flatten(0, 1), F.normalize(truth.flatten(0, 1), dim=-1)
        told = self.predict(puzzle, step).unflatten(0, (targets.shape[1], -1)).transpose(0, 1).flatten(1, 2)
        nearest = (F.normalize(told, dim=-1) @ known.T).argmax(-1)
        asked = targets.flatten(1)
        blank = torch.full_like(patches, 0.5)

        def laid(places: Tensor, values: Tensor, on: Tensor) -> Tensor:
            return on.scatter(1, places[..., None].expand_as(values), values)

        context = laid(seen, take(patches, seen), blank)
        answer, full = (laid(asked, values, context) for values in (every[nearest], take(patches, asked)))
        rows = [
            [Panel("what it sees", a), Panel("patches most like what it tells", b, "answer"),
             Panel("what it is asked", c, "truth"), Panel("the picture", d)]
            for a, b, c, d in zip(
                *(unpatchify(part, size, grid) for part in (context, answer, full)), puzzle.image, strict=True
            )
        ]  # fmt: skip
        return Sheet("FlexPredict", "What would a slow copy of the network say of the hidden blocks?", rows)


def start(encoder: PatchEncoder) -> None:
    """I-JEPA's start: fixed positions; the first layer's weights as small as timm's linear ones are."""
    encoder.use_fixed_positions()
    first: Any = encoder.model.patch_embed.proj
    nn.init.trunc_normal_(first.weight, std=0.02)
    if first.bias is not None:
        nn.init.zeros_(first.bias)
