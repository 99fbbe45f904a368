"""MixedAE: one picture made of patches of four, to be taken apart again (Chen et al., CVPR 2023).

No code was released. Decided here: the learned sign of a patch's source is added at the encoder's input, the
class token is a key like all others (which top-k may leave out), groups are neighbours in the batch, which is
shuffled at every step, places that remain where pictures do not share them evenly are in no mix, the contrastive loss
reads the tokens off without a projection, and batches are of 1024 pictures with the rate per picture of MAE's 4096,
which is not certain. One mix is made of a group; `full` makes as many as it has pictures, which may be what the paper
calls so.
"""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.attention import project
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.methods.image.mae import MAE
from pretask.pretexts import draw
from pretask.pretexts.masks import Shuffle, shuffle, take
from pretask.pretexts.views import apply_view, draw_view
from pretask.task import Batch, Losses, Panel, Question, Sheet, Step


class Puzzle(NamedTuple):
    """Augmented pictures in groups of neighbours, and what mixes are made of.

    Args:
        image: the pictures of each mix.
        place: of each patch of a mix, in raster order.
        source: which member of its group it is from.
    """

    image: Float[Tensor, "batch chans h w"]
    place: Int[Tensor, "groups mixed"]
    source: Int[Tensor, "groups mixed"]


class MixedAE(MAE):
    """Take apart pictures that are mixed of several others' patches, each at its own place.

    Every token attends only to the keys most like its query, which should be of its own picture; a contrastive
    loss says so. Pretrained weights are a plain vision transformer's.

    Args:
        encoder: a vision transformer. Unless it is pretrained it starts as MAE's.
        sources: pictures in a mix; each shows one patch in so many. The batch must be a multiple.
        homologous: each token attends to the keys with the largest products alone.
        top_k: how many these are; none takes patches / sources.
        layers: `all` blocks of the encoder attend so, or the `last` one alone.
        full: make as many mixes of a group as it has pictures, so that each shows all its patches in one or another.
        contrast_weight: of the loss that patches of one picture are alike.
        temperature: of that loss.
        segments: tell the encoder which patches are of one picture, by a learned vector a source.
        normalise_target: ask for patches without their own mean and contrast.
        decoder_dim: width of the decoder; none takes 512 from a ViT-B on and half the encoder's below.
        decoder_depth: blocks of the decoder; none takes 8 from a ViT-B on and 2 below.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        sources: int = 4,
        homologous: bool = True,
        top_k: int | None = None,
        layers: Literal["all", "last"] = "all",
        full: bool = False,
        contrast_weight: float = 0.1,
        temperature: float = 0.25,
        segments: bool = True,
        normalise_target: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        if not 2 <= sources <= encoder.num_patches // 2:
            raise UsageError(
                f"sources must be from 2 to half of a picture's {encoder.num_patches} patches, not {sources}"
            )
        if not hasattr(encoder.blocks[0].attn, "q_norm"):  # type: ignore[index]
            raise UsageError("mixedae needs a plain vision transformer")
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k must be at least 1, not {top_k}")
        super().__init__(
            encoder, 1 - 1 / sources, "random", normalise_target, decoder_dim, decoder_depth, crop_scale
        )
        self.recipe = replace(self.recipe, batch_size=1024)
        self.num_shown = encoder.num_patches // sources
        self.sources, self.mixes, self.temperature = sources, sources if full else 1, temperature
        depth = len(encoder.blocks)  # type: ignore[arg-type]
        self.top_k = top_k or self.num_shown
        self.sparse_from = depth if not homologous else 0 if layers == "all" else depth - 1
        self.weights = {"contrast": contrast_weight}
        self.segment = nn.Parameter(0.02 * torch.randn(sources, encoder.dim)) if segments else None

    def puzzle(self, batch: Batch, step: Step) -> Puzzle:
        """
        Raises:
            UsageError: the batch is not a multiple of the sources.
        """
        image = require(batch, "image", 4)
        if len(image) % self.sources:
            raise UsageError(f"mixedae mixes {self.sources} pictures: a batch of {len(image)} is no multiple")
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        patches, shown = self.encoder.num_patches, self.num_shown * self.sources
        order = draw.permutations(len(image) // self.sources, patches, step.generator).to(image.device)
        place, rank = order[:, :shown].sort(dim=1)
        turn = torch.arange(self.mixes, device=image.device)[:, None]
        source = ((rank[:, None] + turn) % self.sources).flatten(0, 1)
        picture = self.for_mixes(apply_view(self.view, image, view))
        return Puzzle(picture, place.repeat_interleave(self.mixes, dim=0), source)

    def for_mixes(self, rows: Shaped[Tensor, "batch *rest"]) -> Shaped[Tensor, "mixed *rest"]:
        """What belongs to pictures, a group's once for each mix that is made of it."""
        return rows.unflatten(0, (-1, self.sources)).repeat_interleave(self.mixes, dim=0).flatten(0, 1)

    def blend(
        self, puzzle: Puzzle, patches: Float[Tensor, "batch patches dim"]
    ) -> Float[Tensor, "groups mixed dim"]:
        """Of the patches of all pictures those that are in the mixes."""
        member = (
            torch.arange(len(puzzle.source), device=patches.device)[:, None] * self.sources + puzzle.source
        )
        return patches[member, puzzle.place]

    def encode(
        self, puzzle: Puzzle
    ) -> tuple[Float[Tensor, "groups prefix dim"], Float[Tensor, "groups patches dim"]]:
        """Class tokens and patches of the mixes."""
        model: Any = self.encoder.model
        x, _ = self.encoder.embed(puzzle.image)
        prefix = self.encoder.num_prefix
        mixed = self.blend(puzzle, x[:, prefix:])
        if self.segment is not None:
            mixed = mixed + self.segment[puzzle.source]
        x = model.norm_pre(torch.cat([x[:: self.sources, :prefix], mixed], dim=1))
        for number, block in enumerate(model.blocks):
            x = block(x) if number < self.sparse_from else homologous_block(block, x, self.top_k)
        x = model.norm(x)
        return x[:, :prefix], x[:, prefix:]

    def unmix(self, puzzle: Puzzle) -> Shuffle:
        """For each picture which of its patches the mix shows and which it does not."""
        own = self.own(puzzle)
        visible = puzzle.place.repeat_interleave(self.sources, dim=0).gather(1, own)
        hidden = torch.ones(len(own), self.encoder.num_patches, device=own.device).scatter(1, visible, 0.0)
        return shuffle(hidden, self.encoder.num_patches - self.num_shown)

    def own(self, puzzle: Puzzle) -> Int[Tensor, "batch shown"]:
        """Which patches of its mix are each picture's."""
        number = torch.arange(self.sources, device=puzzle.source.device)
        foreign = (puzzle.source[:, None] != number[:, None]).flatten(0, 1)
        return foreign.byte().argsort(dim=1, stable=True)[:, : self.num_shown]

    def loss(self, batch: Batch, step: Step) -> Losses:
        puzzle = self.puzzle(batch, step)
        prefix, tokens = self.encode(puzzle)
        order = self.unmix(puzzle)
        target = self.target(take(self.patches(puzzle.image), order.hidden))
        rebuilt = self.decode(prefix, tokens, puzzle)
        return {
            "reconstruction": F.mse_loss(rebuilt, target),
            "contrast": homologous_contrast(tokens, puzzle.source, self.temperature),
        }

    def decode(self, prefix: Tensor, tokens: Tensor, puzzle: Puzzle) -> Float[Tensor, "batch hidden values"]:
        """Every picture's missing patches from its patches in the mix."""
        each, mixed = (part.repeat_interleave(self.sources, dim=0) for part in (prefix, tokens))
        return self.decoder(take(mixed, self.own(puzzle)), each, self.unmix(puzzle))

    def whole(self, batch: Batch) -> Batch:
        """As many samples as make whole groups, to look at."""
        count = len(require(batch, "image", 4)) // self.sources * self.sources
        return {key: value[:count] if isinstance(value, Tensor) else value for key, value in batch.items()}

    def question(self, batch: Batch, step: Step) -> Question:
        """The first missing patch of each picture, from the mix."""
        batch = self.whole(batch)
        puzzle = self.puzzle(batch, step)
        truth, order = self.patches(puzzle.image), self.unmix(puzzle)
        mix = self.mix(puzzle, truth).repeat_interleave(self.sources, dim=0)
        source = self.for_mixes(torch.arange(len(batch["image"]), device=mix.device))
        return Question(mix, source, self.target(take(truth, order.hidden)[:, 0]))

    def mix(
        self, puzzle: Puzzle, patches: Float[Tensor, "batch patches values"]
    ) -> Float[Tensor, "groups chans h w"]:
        """The mixed pictures in [0, 1]; grey where there is none."""
        mixed = self.blend(puzzle, patches)
        empty = torch.zeros(len(mixed), patches.shape[1], patches.shape[2], device=mixed.device)
        filled = empty.to(mixed).scatter(1, puzzle.place[..., None].expand_as(mixed), mixed)
        every = torch.arange(patches.shape[1], device=mixed.device).expand(len(mixed), -1)
        return self.assemble(filled, filled[:, :0], Shuffle(every, every[:, :0], every))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        puzzle = self.puzzle(self.whole(batch), step)
        truth, order = self.patches(puzzle.image), self.unmix(puzzle)
        visible, hidden = take(truth, order.visible), take(truth, order.hidden)
        rebuilt = self.decode(*self.encode(puzzle), puzzle).to(hidden.dtype)
        if self.normalise_target:
            mean = hidden.mean(-1, keepdim=True)
            rebuilt = rebuilt * (hidden.var(-1, keepdim=True) + 1e-6).sqrt() + mean
        mixed = self.mix(puzzle, truth).repeat_interleave(self.sources, dim=0)
        rows = [
            [
                Panel("a mix", a),
                Panel("one of its pictures, rebuilt", b, "answer"),
                Panel("that picture", c, "truth"),
            ]
            for a, b, c in zip(mixed, self.assemble(visible, rebuilt, order), puzzle.image, strict=True)
        ]
        return Sheet("MixedAE", "Which pictures was this one mixed of?", rows)


def homologous_block(
    block: Any, x: Float[Tensor, "batch tokens dim"], kept: int
) -> Float[Tensor, "batch tokens dim"]:
    """A timm block in which each query attends to the keys of its `kept` largest products, in each head."""
    attn = block.attn
    query, key, value = project(attn, block.norm1(x), slice(0, 3))
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    top = scores.topk(min(kept, scores.shape[-1]), dim=-1)
    sparse = torch.full_like(scores, float("-inf")).scatter(-1, top.indices, top.values)
    mixed = (sparse.softmax(-1) @ value).transpose(1, 2).flatten(2)
    x = x + block.drop_path1(block.ls1(attn.proj_drop(attn.proj(attn.norm(mixed)))))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def homologous_contrast(
    tokens: Float[Tensor, "groups patches dim"], source: Int[Tensor, "groups patches"], temperature: float
) -> Float[Tensor, ""]:
    """Each patch with those of its own picture against all others of the mix: the mean over it and its
    positives of -log softmax of the cosines over T, itself left out."""
    z = F.normalize(tokens if tokens.dtype == torch.float64 else tokens.float(), dim=-1)
    self_ = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    log_share = (z @ z.transpose(1, 2) / temperature).masked_fill(self_, float("-inf")).log_softmax(-1)
    positive = (source[:, :, None] == source[:, None, :]) & ~self_
    return -(log_share.masked_fill(~positive, 0).sum(-1) / positive.sum(-1)).mean()
