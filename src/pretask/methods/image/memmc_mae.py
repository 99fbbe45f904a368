"""MemMC-MAE: an autoencoder of normal pictures that cannot rebuild others (Tian et al., 2022).

No code was released. Decided here: the loss is on hidden patches, layers normalise before they attend, 32 keys
and values a layer start as in the M2 transformer, the decoder's own attention has no memory, one cross-attention
serves all levels of a layer, and what is compared with the picture is the prediction of all patches, visible ones
too unless `keep_visible` asks otherwise, for one random mask. The decoder's 4 blocks, the optimisation (MAE's, for
batches of 64) and the views (crop and flip, no change of colours) are guesses as well. Of the two maps the paper may
mean, that of SSIM says where a picture is abnormal; its window does the smoothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.encoders.attention import attend
from pretask.encoders.decoder import HEAD_DIM, decoder_shape, layer_norm, xavier_linear
from pretask.encoders.image import PatchEncoder
from pretask.encoders.positions import sincos_2d
from pretask.errors import UsageError
from pretask.methods.image.mae import MAE
from pretask.objectives.reconstruction import patchify, unpatchify
from pretask.pretexts.masks import MASKS, Shuffle, shuffle, take
from pretask.recipe import Recipe
from pretask.task import Batch, Sheet, Step

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM's five scales (Wang et al., 2003)
WINDOW, SIGMA = 11, 1.5  # side of its Gaussian and deviation, in pixels
C1, C2 = 0.01**2, 0.03**2  # keep its quotients from 0 / 0


class GatedLevels(nn.Module):
    """Cross-attention to every level of an encoder, each weighed by a gate a channel (equation 4):
    1/sqrt(L) sum_l sigmoid([x; C_l] W_l + b_l) C_l.

    Args:
        dim: width.
        levels: L.
    """

    def __init__(self, dim: int, levels: int):
        super().__init__()
        self.attn = Attention(dim, dim // HEAD_DIM, qkv_bias=True)
        self.gates = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(levels))

    def forward(
        self, x: Float[Tensor, "batch places dim"], levels: list[Float[Tensor, "batch visible dim"]]
    ) -> Float[Tensor, "batch places dim"]:
        total = torch.zeros_like(x)
        for level, gate in zip(levels, self.gates, strict=True):
            found = attend(self.attn, x, level)
            total = total + gate(torch.cat([x, found], dim=-1)).sigmoid() * found
        return total / len(levels) ** 0.5


class LevelsBlock(Block):
    """A block with attention to the encoder's levels between its own attention and its MLP."""

    def __init__(self, dim: int, levels: int):
        super().__init__(dim, dim // HEAD_DIM, qkv_bias=True, norm_layer=layer_norm)
        self.norm_levels, self.levels = layer_norm(dim), GatedLevels(dim, levels)

    def forward(self, x: Tensor, levels: list[Tensor]) -> Tensor:  # type: ignore[override]
        x = x + self.attn(self.norm1(x))
        x = x + self.levels(self.norm_levels(x), levels)
        return x + self.mlp(self.norm2(x))


class MemMCMAE(MAE):
    """Rebuild hidden patches of pictures that are all normal, from a memory and from all layers of the encoder.

    Train it on normal pictures alone; `score` then says how unlike its reconstruction a picture is, and `heat` where.

    Args:
        encoder: a vision transformer. Unless it is pretrained it starts as MAE's.
        mask_ratio: share of the patches that is hidden.
        memory: keys and values each layer of the encoder has learned to look up; 0 is plain attention.
        levels: the decoder looks at `all` layers of the encoder or at the `last` one alone.
        decoder_dim: width of the decoder; none takes 512 from a ViT-B on and half the encoder's below.
        decoder_depth: blocks of the decoder; none takes 4 from a ViT-B on and 2 below.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    positions: Tensor
    recipe = Recipe(
        "adamw", lr=1.5e-4, lr_batch=64, batch_size=64, epochs=2000, weight_decay=0.05, betas=(0.9, 0.95),
        warmup=40 / 2000,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        mask_ratio: float = 0.75,
        memory: int = 32,
        levels: str = "all",
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        blocks: Any = encoder.model.blocks
        if levels not in ("all", "last") or not hasattr(blocks[0].attn, "q_norm"):
            raise UsageError(
                f"memmc-mae needs a plain vision transformer, and levels `all` or `last`, not '{levels}'"
            )
        super().__init__(encoder, mask_ratio, "random", False, decoder_dim, 1, crop_scale)
        dim, depth = decoder_shape(
            encoder.dim, decoder_dim, decoder_depth or (4 if encoder.dim >= 768 else 2)
        )
        self.seen = range(len(blocks)) if levels == "all" else range(len(blocks) - 1, len(blocks))
        slots = [(memory, encoder.dim)] * (len(blocks) if memory else 0)
        self.keys = nn.ParameterList(torch.randn(shape) * encoder.dim**-0.5 for shape in slots)
        self.values = nn.ParameterList(torch.randn(shape) * memory**-0.5 for shape in slots)
        self.register_buffer("positions", sincos_2d(dim, encoder.grid), persistent=False)
        self.bridges = nn.ModuleList(nn.Linear(encoder.dim, dim) for _ in self.seen)
        self.embed, self.mask_token = nn.Linear(encoder.dim, dim), nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.decoder = nn.ModuleList(LevelsBlock(dim, len(self.seen)) for _ in range(depth))  # type: ignore[assignment]
        self.head = nn.Sequential(layer_norm(dim), nn.Linear(dim, self.num_values))
        for module in (self.bridges, self.embed, self.decoder, self.head):
            module.apply(xavier_linear)

    def encode(
        self, image: Tensor, order: Shuffle
    ) -> tuple[Float[Tensor, "batch visible dim"], list[Float[Tensor, "batch visible dim"]]]:
        """The visible patches after the last norm, and after each layer that the decoder looks at."""
        model: Any = self.encoder.model
        x, prefix = self.encoder.embed(image)[0], self.encoder.num_prefix
        x = model.norm_pre(torch.cat([x[:, :prefix], take(x[:, prefix:], order.visible)], dim=1))
        outputs = []
        for number, block in enumerate(model.blocks):
            y = block.norm1(x)
            memory = (self.keys[number], self.values[number]) if len(self.keys) else None
            x = x + block.drop_path1(block.ls1(attend(block.attn, y, y, memory)))
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
            if number in self.seen:
                outputs.append(x[:, prefix:])
        return model.norm(x)[:, prefix:], outputs

    def predict(self, image: Tensor, order: Shuffle) -> Float[Tensor, "batch patches values"]:
        """Pixels in [0, 1], as far as they are right, of every patch."""
        last, outputs = self.encode(image, order)
        hidden = self.mask_token.expand(len(last), order.hidden.shape[1], -1)
        x = take(torch.cat([self.embed(last), hidden], dim=1), order.restore) + self.positions
        levels = [bridge(output) for bridge, output in zip(self.bridges, outputs, strict=True)]
        for block in self.decoder:  # type: ignore[attr-defined]
            x = block(x, levels)
        return self.head(x)

    def rebuild(self, image: Tensor, order: Shuffle) -> Float[Tensor, "batch hidden values"]:
        return take(self.predict(image, order), order.hidden)

    def patches(self, image: Tensor) -> Float[Tensor, "batch patches values"]:
        """Pixels as they are: what is compared are pictures."""
        return patchify(image, self.encoder.patch_size)

    def assemble(self, visible: Tensor, hidden: Tensor, order: Shuffle) -> Float[Tensor, "batch chans h w"]:
        patches = take(torch.cat([visible, hidden], dim=1), order.restore)
        return unpatchify(patches, self.encoder.patch_size, self.encoder.grid).clamp(0, 1)

    @torch.no_grad()
    def score(
        self,
        image: Float[Tensor, "batch chans h w"],
        generator: torch.Generator,
        masks: int = 1,
        keep_visible: bool = False,
    ) -> Float[Tensor, "batch"]:
        """How abnormal pictures in [0, 1] of the encoder's size are: 1 - MS-SSIM with what is rebuilt of them,
        the mean over so many random masks. All pictures get the same masks, so that none depends on its neighbours:
        from generators with the same seed a picture has the same score in any batch.

        Args:
            image: the pictures.
            generator: the masks' randomness.
            masks: how many.
            keep_visible: compare visible patches with themselves, not with what is predicted of them.
        """
        found = [1 - likeness(other, image) for other in self.rebuilt(image, generator, masks, keep_visible)]
        return torch.stack(found).mean(0)

    @torch.no_grad()
    def heat(
        self,
        image: Float[Tensor, "batch chans h w"],
        generator: torch.Generator,
        masks: int = 1,
        keep_visible: bool = False,
    ) -> Float[Tensor, "batch h w"]:
        """Where pictures are abnormal: 1 - SSIM of the window around each pixel, mirrored at the borders, the mean
        over channels and masks. Abnormal is what exceeds a high quantile of normal pictures' values; arguments are
        those of `score`."""
        wide = (WINDOW // 2,) * 4
        found = []
        for other in self.rebuilt(image, generator, masks, keep_visible):
            pair = (F.pad(part, wide, mode="reflect").flatten(0, 1)[:, None] for part in (image, other))
            structure, luminance = window_likeness(*pair)
            found.append(1 - (structure * luminance).view(image.shape).mean(1))
        return torch.stack(found).mean(0)

    def rebuilt(
        self, image: Tensor, generator: torch.Generator, masks: int, keep_visible: bool
    ) -> Iterator[Float[Tensor, "batch chans h w"]]:
        """What is made of pictures, once for each of so many random masks."""
        for _ in range(masks):
            hidden = MASKS["random"](self.encoder.grid, self.num_hidden, 1, generator).to(image.device)
            patches = self.predict(image, shuffle(hidden.expand(len(image), -1), self.num_hidden))
            if keep_visible:
                patches = torch.where(hidden[..., None], patches, self.patches(image))
            yield unpatchify(patches, self.encoder.patch_size, self.encoder.grid).clamp(0, 1)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return replace(super().preview(batch, step), title="MemMC-MAE")


def likeness(
    first: Float[Tensor, "batch chans h w"], second: Float[Tensor, "batch chans h w"]
) -> Float[Tensor, "batch"]:
    """MS-SSIM of pictures in [0, 1], over windows that lie in the picture, with as many of the five scales as its
    size allows; the others' weights are shared out. Each channel has its own, and their mean counts.

    Raises:
        UsageError: pictures are smaller than the window.
    """
    scales = sum(min(first.shape[-2:]) // 2**scale >= WINDOW for scale in range(len(WEIGHTS)))
    if not scales:
        raise UsageError(f"MS-SSIM needs pictures of at least {WINDOW} pixels")
    x, y = (image.flatten(0, 1)[:, None] for image in (first, second))
    total = x.new_ones(len(x))
    for scale, weight in enumerate(WEIGHTS[:scales]):
        structure, luminance = window_likeness(x, y)
        alike = structure * luminance if scale == scales - 1 else structure
        # negative means have no root
        total = total * alike.mean((1, 2, 3)).clamp(min=0) ** (weight / sum(WEIGHTS[:scales]))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return total.view(len(first), -1).mean(1)


def window_likeness(
    x: Float[Tensor, "maps 1 h w"], y: Float[Tensor, "maps 1 h w"]
) -> tuple[Float[Tensor, "maps 1 rows columns"], Float[Tensor, "maps 1 rows columns"]]:
    """How alike two maps in [0, 1] are in contrast and structure, and in brightness, in every window that lies in
    them: the factors of SSIM."""
    taps = torch.exp(-((torch.arange(WINDOW).to(x) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    taps = taps / taps.sum()

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))

    mx, my = blur(x), blur(y)
    structure = (2 * (blur(x * y) - mx * my) + C2) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + C2)
    return structure, (2 * mx * my + C1) / (mx**2 + my**2 + C1)
