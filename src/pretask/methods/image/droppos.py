"""DropPos: of the few patches shown, most do not know where they are. Where? (Wang et al., NeurIPS 2023)

What differs from the released code, on purpose: its smoothing map is made for a grid of other width than the
picture's and normalised by columns; here it is the paper's. Its branch that also rebuilds pixels is
`droppos+mae`. Not offered: the class token's attention instead of its likeness, which is commented out there.
"""

from math import log
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.decoder import HEAD_DIM, decoder_shape, layer_norm, start_as_mae, xavier_linear
from pretask.encoders.image import PatchEncoder, check_norm
from pretask.errors import UsageError
from pretask.objectives.distributed import mean
from pretask.objectives.gradients import clip_each
from pretask.objectives.reconstruction import patchify, unpatchify
from pretask.pretexts import draw
from pretask.pretexts.masks import Shuffle, random_mask, shuffle, take
from pretask.pretexts.places import smoothed_places
from pretask.pretexts.views import apply_view, draw_view, mae_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step


class Puzzle(NamedTuple):
    """Augmented pictures, which of their patches are visible, and which of these lost their position; and where each
    visible patch is told that it is, if not at its place."""

    image: Float[Tensor, "batch chans h w"]
    order: Shuffle
    lost: Bool[Tensor, "batch visible"]
    told: Int[Tensor, "batch visible"] | None = None


class DropPos(PretextTask):
    """Say where patches belong that are shown without their positions, beside a few that keep theirs.

    Args:
        encoder: a vision transformer with absolute positions and a class token. Unless it is pretrained it
            starts as MAE's.
        mask_ratio: share of the patches that is not shown at all.
        position_ratio: share of the visible patches that lose their position.
        instead: what these have in its stead: a `learned` vector, `zeros`, or the positions of one another, `wrong`.
        smoothing: width in patches, at the start, of the Gaussian around the true place that is asked for;
            it shrinks to 0, epoch by epoch. 0 asks for the place itself.
        attentive: count a patch by how like the class token it is, in the features of the whole picture.
        temperature: of that likeness.
        ignore_confident: leave out patches whose true place is as probable already as it is asked to be.
        decoder_dim: width of the decoder; none takes 512 from a ViT-B on and half the encoder's below.
        decoder_depth: blocks of the decoder, which knows no positions.
        crop_scale: area of the random crop, as a share of the picture's.
        clip: largest norm of each parameter's gradient.
    """

    encoder: PatchEncoder
    recipe = Recipe(
        "adamw", lr=1.5e-4, batch_size=2048, epochs=200, weight_decay=0.05, betas=(0.9, 0.95), warmup=10 / 200
    )

    def __init__(
        self,
        encoder: PatchEncoder,
        mask_ratio: float = 0.75,
        position_ratio: float = 0.75,
        instead: Literal["learned", "zeros", "wrong"] = "learned",
        smoothing: float = 1.0,
        attentive: bool = True,
        temperature: float = 0.1,
        ignore_confident: bool = False,
        decoder_dim: int | None = None,
        decoder_depth: int = 2,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        clip: float = 5.0,
    ):
        super().__init__(encoder)
        if encoder.num_prefix < 1 or getattr(encoder.model, "pos_embed", None) is None:
            raise UsageError("droppos needs a vision transformer with absolute positions and a class token")
        check_norm(encoder)
        visible = int(encoder.num_patches * (1 - mask_ratio))
        self.num_lost = visible - int(visible * (1 - position_ratio))
        if visible < 1 or self.num_lost < 1:
            raise UsageError(
                f"mask_ratio {mask_ratio} and position_ratio {position_ratio} leave {visible} patches visible, "
                f"{self.num_lost} of them without position; both must be at least 1"
            )
        self.num_hidden = encoder.num_patches - visible
        self.smoothing, self.attentive, self.temperature = smoothing, attentive, temperature
        self.ignore_confident, self.clip = ignore_confident, clip
        self.view = mae_view(encoder.image_size, crop_scale)
        self.wrong = instead == "wrong"
        token = 0.02 * torch.randn(1, 1, encoder.dim)
        if instead == "learned":
            self.position_token = nn.Parameter(token)
        else:
            self.register_buffer("position_token", torch.zeros_like(token), persistent=False)
        dim, depth = decoder_shape(encoder.dim, decoder_dim, decoder_depth)
        blocks = [Block(dim, dim // HEAD_DIM, qkv_bias=True, norm_layer=layer_norm) for _ in range(depth)]
        self.decoder = nn.Sequential(
            nn.Linear(encoder.dim, dim), *blocks, layer_norm(dim), nn.Linear(dim, encoder.num_patches)
        )
        self.decoder.apply(xavier_linear)
        if not encoder.pretrained:
            start_as_mae(encoder)
        encoder.model.pos_embed.requires_grad_(False)  # a pretrained encoder's too

    def puzzle(self, batch: Batch, step: Step) -> Puzzle:
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        image, patches = apply_view(self.view, image, view), self.encoder.num_patches
        order = shuffle(draw.uniform((len(image), patches), step.generator), self.num_hidden)
        lost = random_mask(draw.uniform(tuple(order.visible.shape), step.generator), self.num_lost)
        told = None
        if self.wrong:
            trade = draw.uniform(tuple(lost.shape), step.generator)
            told = traded(order.visible, lost, trade, self.num_lost).to(image.device)
        return Puzzle(image, Shuffle(*(part.to(image.device) for part in order)), lost.to(image.device), told)

    def answers(self, puzzle: Puzzle) -> Float[Tensor, "batch visible places"]:
        """For each visible patch how likely it is to belong to each place, as logits."""
        model: Any = self.encoder.model
        visible, count = puzzle.order.visible, self.encoder.num_patches
        positions = model.pos_embed[0, -count:]
        if puzzle.told is None:
            position = torch.where(puzzle.lost[..., None], self.position_token, positions[visible])
        else:
            position = positions[puzzle.told]
        patches = take(self.encoder.contents(puzzle.image), visible) + position
        names = ("cls_token", "reg_token")
        prefix = torch.cat(
            [part for name in names if (part := getattr(model, name, None)) is not None], dim=1
        )
        own = model.pos_embed[:, : model.pos_embed.shape[1] - count]
        prefix = prefix + F.pad(own, (0, 0, 0, prefix.shape[1] - own.shape[1]))
        x = torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1)
        features = self.encoder.transform(x)
        decoded = self.decoder(torch.cat([features.prefix, features.tokens], dim=1))
        return decoded[:, self.encoder.num_prefix :]

    @torch.no_grad()
    def importance(self, puzzle: Puzzle) -> Float[Tensor, "batch visible"]:
        """How like the class token each visible patch is, among them: softmax(cos / T), summing to 1."""
        if not self.attentive:
            return torch.ones(puzzle.lost.shape, device=puzzle.lost.device)
        features = self.encoder(puzzle.image)
        likeness = F.cosine_similarity(features.prefix[:, :1], features.tokens, dim=-1)
        share = (likeness / self.temperature).softmax(1).gather(1, puzzle.order.visible)
        return share / share.sum(1, keepdim=True)

    def loss(self, batch: Batch, step: Step) -> Losses:
        puzzle = self.puzzle(batch, step)
        logits, truth = self.answers(puzzle), puzzle.order.visible
        places, columns = self.encoder.num_patches, self.encoder.grid[1]
        sigma = self.smoothing * (1 - step.epoch * step.steps_per_epoch / step.total)
        wanted = smoothed_places(places, columns, sigma, logits.device)
        log_share = (
            logits.float().log_softmax(-1) if logits.dtype != torch.float64 else logits.log_softmax(-1)
        )
        error = -(wanted[truth].to(log_share.dtype) * log_share).sum(-1)
        counts = puzzle.lost * self.importance(puzzle)
        if self.ignore_confident:
            said = log_share.detach().exp().gather(2, truth[..., None])[..., 0]
            counts = counts * (said < wanted.diagonal()[truth])
        total = mean(counts.sum()).clamp(min=1e-12)  # of all processes: their weights are one sum
        right = (logits.argmax(-1) == truth).float()
        step.metrics["position_accuracy"] = (right * counts).sum().detach() / total
        return {"position": (error * counts).sum() / total}

    def after_backward(self, step: Step) -> None:
        clip_each(self.parameters(), self.clip)

    def question(self, batch: Batch, step: Step) -> Question:
        """One patch that lost its position."""
        puzzle = self.puzzle(batch, step)
        patch, first = self.encoder.patch_size, puzzle.lost.int().argmax(1, keepdim=True)
        place = puzzle.order.visible.gather(1, first)
        shown = take(patchify(puzzle.image, patch), place)
        picture = unpatchify(shown, patch, (1, 1))
        return Question(picture, torch.arange(len(picture), device=picture.device), place[:, 0])

    def preview(self, batch: Batch, step: Step) -> Sheet:
        puzzle = self.puzzle(batch, step)
        visible, patch = puzzle.order.visible, self.encoder.patch_size
        shown = take(patchify(puzzle.image, patch), visible)
        said = torch.where(puzzle.lost, self.answers(puzzle).argmax(-1), visible)
        blank = torch.full_like(patchify(puzzle.image, patch), 0.5)

        def laid(place: Tensor, kept: Tensor) -> Tensor:
            """The kept patches at these places; where several meet, one of them."""
            value = torch.where(kept[..., None], shown, take(blank, place))
            patches = blank.scatter(1, place[..., None].expand_as(value), value)
            return unpatchify(patches, patch, self.encoder.grid)

        anchors = laid(visible, ~puzzle.lost)
        answer, truth = (laid(place, torch.ones_like(puzzle.lost)) for place in (said, visible))
        rows = [
            [Panel("patches that know their place", a), Panel("where the others are put", b, "answer"),
             Panel("where they belong", c, "truth"), Panel("the picture", d)]
            for a, b, c, d in zip(anchors, answer, truth, puzzle.image, strict=True)
        ]  # fmt: skip
        return Sheet("DropPos", "Where do the patches belong that lost their position?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"position": log(self.encoder.num_patches)}


def traded(
    place: Int[Tensor, "batch visible"],
    lost: Bool[Tensor, "batch visible"],
    noise: Float[Tensor, "batch visible"],
    num_lost: int,
) -> Int[Tensor, "batch visible"]:
    """The places, those that are lost exchanged among one another: the first has that with the least noise, ..."""
    to = (~lost).byte().argsort(dim=1, stable=True)[:, :num_lost]
    source = noise.masked_fill(~lost, 2).argsort(dim=1)[:, :num_lost]
    return place.scatter(1, to, place.gather(1, source))
