"""Hiera: a masked autoencoder that leaves out whole units of a hierarchical transformer (Ryali et al., ICML 2023).

Of pictures; `methods/video/hiera.py` says what differs with videos. The transformer is timm's, which loads the
released weights. Decided here, because the training scripts are not released: no block is skipped (drop path 0), the
warm-up and the crops are those of masked autoencoders (40 epochs; 0.2 to 1 of the picture), and the rate is that of a
batch of 4096.
"""

from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.decoder import HEAD_DIM, decoder_shape, layer_norm, xavier_linear
from pretask.encoders.hiera import MaskUnits, scattered, unit_places, unrolled
from pretask.errors import UsageError
from pretask.objectives.reconstruction import Standardised, painted, patchify, standardise
from pretask.pretexts import draw
from pretask.pretexts.masks import random_mask
from pretask.pretexts.views import apply_view, draw_view, mae_view
from pretask.recipe import Recipe
from pretask.task import Batch, Kind, Losses, Panel, PretextTask, Question, Sheet, Step

UNDECAYED = ("pos_embed", "pos_embed_spatial", "pos_embed_temporal")


class Puzzle(NamedTuple):
    """Augmented pictures (or clips), and which of their mask units are left out."""

    pixels: Float[Tensor, "batch chans *size"]
    hidden: Bool[Tensor, "batch units"]


class Hiera(PretextTask):
    """Rebuild the pixels of mask units that a hierarchical transformer never saw.

    Args:
        encoder: a `hiera_...`, pooling one stage less than timm's default (`hiera_tiny_224:q_pool=2`).
        mask_ratio: share of the units that is left out.
        decoder_dim: width of the decoder; none takes 512 from 768 channels on and half the encoder's below.
        decoder_depth: blocks of the decoder; none takes 8 from 768 channels on and 2 below.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    encoder: MaskUnits
    kind: ClassVar[Kind] = "image"
    recipe = Recipe(
        "adamw", lr=8e-4, lr_batch=4096, batch_size=4096, epochs=1600, weight_decay=0.05, betas=(0.9, 0.95),
        warmup=40 / 1600, undecayed=UNDECAYED,
    )  # fmt: skip

    def __init__(
        self,
        encoder: MaskUnits,
        mask_ratio: float = 0.6,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(encoder)
        if not hasattr(encoder, "units"):
            raise UsageError("hiera needs a Hiera, for instance --encoder hiera_tiny_224:q_pool=2")
        self.num_hidden = encoder.num_units - int(encoder.num_units * (1 - mask_ratio))
        if not 0 < self.num_hidden < encoder.num_units:
            raise UsageError(
                f"mask_ratio {mask_ratio} leaves out {self.num_hidden} of {encoder.num_units} mask units; some "
                "must be left out and some not"
            )
        self.view, model = mae_view(encoder.image_size, crop_scale), encoder.model
        self.side = encoder.last_side
        dims, last = [info["num_chs"] for info in model.feature_info], encoder.dim
        conv: Any = nn.Conv3d if len(self.side) == 3 else nn.Conv2d
        self.fusion = nn.ModuleList()
        for pooled in range(model.q_pool):
            kernel = tuple(a // b for a, b in zip(encoder.side(pooled), self.side, strict=True))
            self.fusion.append(conv(dims[pooled], last, kernel, stride=kernel))
        self.norm = layer_norm(last)
        dim, depth = decoder_shape(last, decoder_dim, decoder_depth)
        self.embed = nn.Linear(last, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # two dimensions: it decays, as officially
        self.positions = nn.Parameter(torch.zeros(1, prod(encoder.grid), dim))
        blocks = [Block(dim, dim // HEAD_DIM, qkv_bias=True, norm_layer=layer_norm) for _ in range(depth)]
        values = encoder.token**2 * encoder.in_chans
        self.decoder = nn.Sequential(*blocks, layer_norm(dim), nn.Linear(dim, values))
        self.start()

    def start(self) -> None:
        """The paper's: Xavier-uniform linear layers, everywhere but in a pretrained encoder."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in (self.embed, self.decoder):
            module.apply(xavier_linear)
        if not self.encoder.pretrained:
            self.encoder.model.apply(xavier_linear)
            kernel = self.encoder.model.patch_embed.proj.weight
            nn.init.xavier_uniform_(kernel.data.view(len(kernel), -1))

    def look(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans *size"]:
        """What the encoder is to see of a batch, whole."""
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        return apply_view(self.view, image, view)

    def puzzle(self, batch: Batch, step: Step) -> Puzzle:
        pixels = self.look(batch, step)
        noise = draw.uniform((len(pixels), self.encoder.num_units), step.generator)
        return Puzzle(pixels, random_mask(noise, self.num_hidden).to(pixels.device))

    def encode(self, puzzle: Puzzle) -> Float[Tensor, "batch kept *side dim"]:
        """The kept units: the ends of all stages that pool and of the last one, fused to its resolution."""
        stages = self.encoder.stages(puzzle.pixels, kept=~puzzle.hidden)
        fused = stages[-1]
        for stage, layer in zip(stages, self.fusion, strict=False):
            maps = layer(stage.flatten(0, 1).movedim(-1, 1))
            fused = fused + maps.movedim(1, -1).unflatten(0, fused.shape[:2])
        return self.norm(fused)

    def rebuild(self, puzzle: Puzzle) -> Float[Tensor, "batch places values"]:
        """Standardised pixels of every place, in the order of `patches`."""
        whole = scattered(self.embed(self.encode(puzzle)), ~puzzle.hidden, self.mask_token)
        return self.decoder(unrolled(whole, self.encoder.units) + self.positions)

    def asked(self, puzzle: Puzzle) -> Bool[Tensor, "batch places"]:
        """The places of the units that were left out."""
        return puzzle.hidden[:, unit_places(self.encoder.units, self.side, puzzle.hidden.device)]

    def patches(self, pixels: Float[Tensor, "batch chans *size"]) -> Float[Tensor, "batch places values"]:
        """The pixels of every place, in the order channel, row, column."""
        patches = patchify(pixels, self.encoder.token)
        return patches.unflatten(2, (-1, self.encoder.in_chans)).transpose(2, 3).flatten(2)

    def truth(self, puzzle: Puzzle) -> Standardised:
        """What is asked of every place: its pixels without their mean and contrast."""
        return standardise(self.patches(self.encoder.normalise(puzzle.pixels)))

    def loss(self, batch: Batch, step: Step) -> Losses:
        puzzle = self.puzzle(batch, step)
        asked = self.asked(puzzle)  # equally many of every picture
        return {"reconstruction": F.mse_loss(self.rebuild(puzzle)[asked], self.truth(puzzle).values[asked])}

    def paint(self, puzzle: Puzzle, values: Tensor) -> Float[Tensor, "batch chans *size"]:
        """The picture with these (normalised) pixels, in the order of `patches`, at the places asked for."""
        encoder, mean, std = self.encoder, self.encoder.mean.flatten(), self.encoder.std.flatten()
        colours = values.unflatten(2, (encoder.in_chans, -1)).transpose(2, 3) * std + mean
        rows, columns = encoder.grid
        return painted(puzzle.pixels, self.asked(puzzle), colours.flatten(2), encoder.token, (rows, columns))

    def question(self, batch: Batch, step: Step) -> Question:
        """The first place of the first unit that was left out."""
        puzzle = self.puzzle(batch, step)
        truth, first = self.truth(puzzle).values, self.asked(puzzle).int().argmax(1)
        source = torch.arange(len(truth), device=truth.device)
        return Question(self.paint(puzzle, torch.zeros_like(truth)), source, truth[source, first])

    def preview(self, batch: Batch, step: Step) -> Sheet:
        puzzle = self.puzzle(batch, step)
        truth = self.truth(puzzle)
        rebuilt = self.rebuild(puzzle).to(truth.std.dtype) * truth.std + truth.mean
        masked, answer = (self.paint(puzzle, part) for part in (torch.zeros_like(rebuilt), rebuilt))
        rows = [
            [
                Panel("what it sees", a, kind=self.kind),
                Panel("rebuilt", b, "answer", self.kind),
                Panel("all of it", c, "truth", self.kind),
            ]
            for a, b, c in zip(masked, answer, puzzle.pixels, strict=True)
        ]
        return Sheet("Hiera", "What was in the units that were left out?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Answering each patch with its mean, 0, leaves its biased variance: (n-1)/n."""
        return {"reconstruction": 1 - 1 / (self.encoder.token**2 * self.encoder.in_chans)}
