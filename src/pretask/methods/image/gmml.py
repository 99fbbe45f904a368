"""GMML: groups of pixels are noise, or another picture's; which were they? (Atito et al., 2022)

Decided where the released code leaves it open or reads the system's clock: all randomness is the step's; a
copied fill is the picture itself, shifted around by one distance. The blur is a Gaussian of 13 taps, where PIL's
is several box blurs of about that reach. There are no local crops, as by default.
"""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.drop_path import droppable, dropping
from pretask.encoders.image import PatchEncoder, check_norm
from pretask.errors import UsageError
from pretask.objectives.distributed import gather, mean
from pretask.objectives.gradients import clip_each
from pretask.pretexts import draw
from pretask.pretexts.groups import draw_groups, group_mask
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

CROPS = 2  # of each picture; they are samples of their own


class Puzzle(NamedTuple):
    """Crops as the network knows them, what it is shown of them, and which pixels were replaced."""

    clean: Float[Tensor, "crops chans h w"]
    shown: Float[Tensor, "crops chans h w"]
    replaced: Bool[Tensor, "crops h w"]


class GMML(PretextTask):
    """Rebuild groups of connected pixels that were replaced, in a transformer that sees all patches.

    Args:
        encoder: a vision transformer. Unless it is pretrained its class token starts as in the official code.
        drop_share: largest share of the pixels that noise replaces; the smallest is half.
        alien_share: largest share that another picture of the batch replaces instead; with 0 none does.
        fills: what stands in the groups besides other pictures: `noise`, `zeros`, or `copy` for other
            places of the same picture; one is drawn for each crop.
        aliens: take other pictures' pixels for one crop in (number of fills + 1).
        align: groups start and end at multiples of so many pixels; none is every pixel, as in the released
            run; the paper describes whole patches.
        largest: side of a block of a group, as a share of the picture's.
        blocks: whose outputs are averaged to rebuild from, counted from 1; none takes the half, two
            thirds, five sixths and all of the depth (6, 8, 10, 12 of 12).
        everywhere: ask for all pixels, not only for those that were replaced.
        crop_scale: area of the random crop, as a share of the picture's.
        drop_path: share of samples for which the last block is skipped, less for those before.
        clip: largest norm of each parameter's gradient.
    """

    encoder: PatchEncoder
    recipe = Recipe(
        "adamw", lr=5e-4, batch_size=256, epochs=800, weight_decay=0.04, weight_decay_end=0.4,
        betas=(0.9, 0.999), warmup=10 / 800, warmup_arrives=True, final_lr=1e-6 / 5e-4,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        drop_share: float = 0.75,
        alien_share: float = 0.3,
        fills: tuple[Literal["noise", "zeros", "copy"], ...] = ("noise",),
        aliens: bool = True,
        align: int | None = None,
        largest: float = 0.3,
        blocks: tuple[int, ...] | None = None,
        everywhere: bool = False,
        crop_scale: tuple[float, float] = (0.05, 1.0),
        drop_path: float = 0.1,
        clip: float = 3.0,
    ):
        super().__init__(encoder)
        check_norm(encoder)
        depth, dim = len(encoder.model.blocks), encoder.dim
        taken = blocks or tuple(max(1, round(depth * share)) for share in (1 / 2, 2 / 3, 5 / 6, 1))
        self.blocks = sorted({number - 1 for number in taken})
        if not fills or not 0 <= self.blocks[0] <= self.blocks[-1] < depth:
            raise UsageError(f"blocks {taken} must be among 1 to {depth}, and fills {fills} must name some")
        self.shares, self.fills = (drop_share, alien_share), fills
        self.aliens = aliens and alien_share > 0
        self.align, self.largest, self.everywhere = align or 1, largest, everywhere
        self.drop_path, self.clip, self.depth = drop_path, clip, len(droppable(encoder))
        self.view = ViewSpec(
            encoder.image_size, crop_scale, flip=0.5, jitter=0.3, brightness=0.1, contrast=0.1, saturation=0.1,
            hue=0.01, blur=0.1, blur_kernel=13, interpolation="bicubic",
        )  # fmt: skip
        hidden = [layer for _ in range(3) for layer in (nn.Linear(dim, dim), nn.GELU())]
        self.head = nn.Sequential(*hidden)
        patch = encoder.patch_size
        self.paint = nn.ConvTranspose2d(dim, encoder.in_chans, patch, stride=patch)
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if not encoder.pretrained and encoder.model.cls_token is not None:
            nn.init.trunc_normal_(encoder.model.cls_token, std=0.02)

    def puzzle(self, batch: Batch, step: Step) -> Puzzle:
        """Two crops of each picture, the first of all, then the second."""
        image, size = require(batch, "image", 4), batch.get("size")
        made = [self.replace(self.crop(image, size, step), step) for _ in range(CROPS)]
        return Puzzle(*(torch.cat(parts) for parts in zip(*made, strict=True)))

    def crop(self, image: Tensor, size: Tensor | None, step: Step) -> Float[Tensor, "batch chans h w"]:
        view = apply_view(self.view, image, draw_view(self.view, len(image), step.generator, size))
        return self.encoder.normalise(view)

    def replace(self, clean: Float[Tensor, "batch chans h w"], step: Step) -> Puzzle:
        """Groups of each crop replaced by noise and the like, or by the same places of another crop."""
        count, shape, generator, device = len(clean), clean.shape[2:], step.generator, clean.device
        everyone = gather(clean)
        which = draw.integers(len(self.fills) + self.aliens, (count,), generator).to(device)
        alien = which == len(self.fills)
        drop, other = (min(0.5, share) for share in self.shares)
        share = drop + (self.shares[0] - drop) * draw.uniform((count,), generator).to(device)
        other_share = other + (self.shares[1] - other) * draw.uniform((count,), generator).to(device)
        share = torch.where(alien, other_share, share)
        rounds = draw_groups(count, generator)
        replaced = group_mask(rounds, (shape[0], shape[1]), share, self.align, self.largest)
        partner = everyone[draw.integers(len(everyone), (count,), generator).to(device)]
        filled = torch.where(alien[:, None, None, None], partner, torch.zeros_like(clean))
        for number, fill in enumerate(self.fills):
            made = self.fill(fill, clean, generator)
            filled = torch.where((which == number)[:, None, None, None], made, filled)
        return Puzzle(clean, torch.where(replaced[:, None], filled, clean), replaced)

    def fill(self, kind: str, clean: Tensor, generator: torch.Generator) -> Float[Tensor, "batch chans h w"]:
        if kind == "noise":
            return draw.normal(tuple(clean.shape), generator).to(clean)
        if kind == "zeros":
            return torch.zeros_like(clean)
        unit = draw.uniform((len(clean), 2), generator).to(clean.device)
        sample = torch.arange(len(clean), device=clean.device)[:, None, None]
        row, column = (
            (torch.arange(side, device=clean.device) + (unit[:, axis, None] * side).long()) % side
            for axis, side in enumerate(clean.shape[2:])
        )
        return clean.permute(0, 2, 3, 1)[sample, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)

    def rebuild(
        self, shown: Float[Tensor, "crops chans h w"], step: Step
    ) -> Float[Tensor, "crops chans h w"]:
        """The whole crop, from the mean of what several blocks make of what is shown."""
        if not (self.training and self.drop_path and self.depth):
            return self.decode(self.average(shown))
        batch = len(shown) // CROPS
        unit = draw.uniform((batch, CROPS, self.depth, 2), step.generator).transpose(0, 1).flatten(0, 1)
        with dropping(self.encoder, unit.to(shown.device), self.drop_path):
            return self.decode(self.average(shown))

    def average(self, shown: Float[Tensor, "crops chans h w"]) -> Float[Tensor, "crops patches dim"]:
        """The mean of some blocks' outputs, then the last norm, without class tokens."""
        model: Any = self.encoder.model
        x, _ = self.encoder.embed(shown * self.encoder.std + self.encoder.mean)
        x, outputs = model.norm_pre(x), []
        for number, block in enumerate(model.blocks):
            x = block(x)
            if number in self.blocks:
                outputs.append(x)
        return model.norm(torch.stack(outputs).mean(0))[:, self.encoder.num_prefix :]

    def decode(self, tokens: Float[Tensor, "crops patches dim"]) -> Float[Tensor, "crops chans h w"]:
        return self.paint(self.head(tokens).transpose(1, 2).unflatten(2, self.encoder.grid))

    def loss(self, batch: Batch, step: Step) -> Losses:
        puzzle = self.puzzle(batch, step)
        error = (self.rebuild(puzzle.shown, step) - puzzle.clean).abs()
        counts = torch.ones_like(puzzle.replaced) if self.everywhere else puzzle.replaced
        total = mean(counts.sum().to(error.dtype)) * error.shape[1]  # of all processes: one mean over pixels
        return {"pixels": (error * counts[:, None]).sum() / total}

    def after_backward(self, step: Step) -> None:
        clip_each(self.parameters(), self.clip)

    def visible(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h w"]:
        return (image * self.encoder.std + self.encoder.mean).clamp(0, 1)

    def question(self, batch: Batch, step: Step) -> Question:
        """The mean colour of what was replaced."""
        puzzle = self.puzzle(batch, step)
        counts = puzzle.replaced[:, None].to(puzzle.clean.dtype)
        colour = (puzzle.clean * counts).sum((2, 3)) / counts.sum((2, 3)).clamp(min=1)
        source = torch.arange(len(colour) // CROPS, device=colour.device).repeat(CROPS)
        return Question(self.visible(puzzle.shown), source, colour)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        puzzle = self.puzzle(batch, step)
        rebuilt = torch.where(puzzle.replaced[:, None], self.rebuild(puzzle.shown, step), puzzle.clean)
        rows = [
            [Panel("what it sees", a), Panel("rebuilt", b, "answer"), Panel("the picture", c, "truth")]
            for a, b, c in zip(*map(self.visible, (puzzle.shown, rebuilt, puzzle.clean)), strict=True)
        ]
        return Sheet("GMML", "What was in the groups of pixels that were replaced?", rows)
