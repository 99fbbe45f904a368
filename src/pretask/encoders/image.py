"""Any timm image model as an encoder: pictures in [0, 1] in, `Features` out; weights stay timm's own."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.encoders.positions import resized, sincos_2d
from pretask.errors import UsageError
from pretask.pretexts.views import centre_view
from pretask.task import Batch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL_IMAGE = 64  # pixels; up to here a ResNet's stem keeps the resolution (3x3, stride 1, no pooling)

Pool = Literal["token", "avg"]


class ImageEncoder(Encoder):
    """A timm model with one face. Normalisation lives here: the input is a picture in [0, 1].

    Args:
        model: a timm model without classifier.
        spec: what `build` was given, for the record: name and keyword arguments for timm.
        mean: per channel, of pictures in [0, 1].
        std: per channel.

    Attributes:
        dim: width of `Features.pooled`.
        in_chans: channels of the input.
        image_size: side of the input in pixels.
    """

    modality: ClassVar[str] = "image"
    in_chans: int
    image_size: int
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, spec: EncoderSpec, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.model = model
        self.spec = spec
        self.dim: int = model.num_features
        self.in_chans, self.image_size = spec.in_chans, spec.image_size
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def normalise(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h w"]:
        """Pictures in [0, 1] as the network was built to see them.

        Raises:
            UsageError: they have another number of channels.
        """
        if image.shape[1] != self.in_chans:
            raise UsageError(
                f"the encoder takes {self.in_chans} channels and was given pictures of {image.shape[1]}"
            )
        return (image - self.mean) / self.std

    def encode(self, batch: Batch) -> Features:
        """The features of the middle square of each picture."""
        image = to_float(require(batch, "image", 4))
        return self(centre_view(image, batch.get("size"), self.image_size))

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.spec.full_name

    @property
    def inputs(self) -> dict[str, Any]:  # type: ignore[override]
        statistics = {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}
        return {**self.spec.inputs, **statistics}


class ConvEncoder(ImageEncoder):
    """A convolutional (or otherwise grid-shaped) timm model: ResNet, ConvNeXt, Swin ..."""

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        image = self.normalise(image).contiguous(memory_format=torch.channels_last)  # as tensor cores like it
        maps = self.model.forward_features(image)
        pooled = self.model.forward_head(maps, pre_logits=True)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            maps = maps.permute(0, 3, 1, 2)
        tokens = maps.flatten(2).transpose(1, 2)
        return Features(pooled, tokens, tokens[:, :0], tuple(maps.shape[-2:]))


class PatchEncoder(ImageEncoder):
    """A timm vision transformer that can encode visible patches only, or overwrite hidden ones.

    Attributes:
        patch_size: side of a patch in pixels.
        grid: patches per column and row at `image_size`.
        num_prefix: class and register tokens in front of the patches.
        dino_positions: resize positions for pictures of another size as DINO's official code does
            (`positions.resized`), which a method may ask for; else as timm does, antialiased.
    """

    dino_positions: bool = False

    def __init__(self, model: Any, spec: EncoderSpec, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__(model, spec, mean, std)
        self.patch_size: int = model.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = model.patch_embed.grid_size
        self.num_prefix: int = model.num_prefix_tokens

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def blocks(self) -> nn.Module:
        return self.model.blocks

    def use_fixed_positions(self) -> None:
        """Replace the learned positions by fixed 2-D sine-cosine ones (class tokens: zero)."""
        table = sincos_2d(self.dim, self.grid)
        prefix = self.model.pos_embed.shape[1] - table.shape[0]
        with torch.no_grad():
            self.model.pos_embed.copy_(F.pad(table, (0, 0, prefix, 0)))
        self.model.pos_embed.requires_grad_(False)

    def embed(
        self,
        image: Float[Tensor, "batch chans h w"],
        hidden: Bool[Tensor, "batch tokens"] | None = None,
        mask_token: Float[Tensor, "dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch prefix_tokens dim"], tuple[int, int]]:
        """Patches with positions behind the class tokens, and the grid they lie on."""
        patches = self.model.patch_embed(self.normalise(image))  # (B, rows, columns, D)
        rows, columns = patches.shape[1:3]
        if hidden is not None and mask_token is not None:
            covered = hidden.view(-1, rows, columns, 1)
            patches = torch.where(covered, mask_token.to(patches.dtype), patches)
        if self.dino_positions and (rows, columns) != self.grid and self.model.pos_embed is not None:
            return self.placed(patches, (rows, columns)), (rows, columns)
        return self.model._pos_embed(patches), (rows, columns)

    def placed(
        self, patches: Float[Tensor, "batch rows columns dim"], grid: tuple[int, int]
    ) -> Float[Tensor, "batch prefix_tokens dim"]:
        """Patches of another grid behind the class tokens, at positions resized as in DINO's official code."""
        first = [
            token.expand(len(patches), -1, -1)
            for token in (self.model.cls_token, self.model.reg_token)
            if token is not None
        ]
        x = torch.cat([*first, patches.flatten(1, 2)], dim=1)
        table = self.model.pos_embed[0]
        prefix = len(table) - self.num_patches  # some models give class tokens no position
        table = torch.cat([table[:prefix], resized(table[prefix:], self.grid, grid)])
        return self.model.pos_drop(x + F.pad(table, (0, 0, x.shape[1] - len(table), 0)))

    def forward(
        self,
        image: Float[Tensor, "batch chans h w"],
        visible: Int[Tensor, "batch visible"] | None = None,
        hidden: Bool[Tensor, "batch tokens"] | None = None,
        mask_token: Float[Tensor, "dim"] | None = None,
    ) -> Features:
        """Encode.

        Args:
            image: pictures in [0, 1].
            visible: indices of the patches to encode; the others are dropped before the first block.
            hidden: patches whose embedding is overwritten by `mask_token` before positions are added.
            mask_token: what stands in for hidden patches.
        """
        x, grid = self.embed(image, hidden, mask_token)
        p = self.num_prefix
        if visible is not None:
            patches = x[:, p:].gather(1, visible.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            x = torch.cat([x[:, :p], patches], dim=1)
        return self.transform(x, grid)

    def transform(
        self, x: Float[Tensor, "batch prefix_tokens dim"], grid: tuple[int, int] | None = None
    ) -> Features:
        """All that follows the positions: blocks and norms of class tokens and patches."""
        x, p = self.model.norm(self.blocks(self.model.norm_pre(x))), self.num_prefix
        return Features(self.model.forward_head(x, pre_logits=True), x[:, p:], x[:, :p], grid or self.grid)

    def contents(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch patches dim"]:
        """What the first layer makes of each patch, not knowing where it is."""
        return self.model.patch_embed(self.normalise(image)).flatten(1, 2)


def check_norm(encoder: PatchEncoder) -> None:
    """For methods that read single tokens off after the last norm.

    Raises:
        UsageError: the encoder's last norm is behind its pooling instead, as timm has it with `global_pool=avg`.
    """
    if isinstance(encoder.model.norm, nn.Identity):
        raise UsageError(
            "single tokens are read off this encoder and its last norm is behind the pooling, where none gets it: "
            "add fc_norm=false to the encoder's name (vit_...:global_pool=avg,fc_norm=false)"
        )


class EncoderSpec:
    """What makes an encoder: everything timm needs to build it again, and the shape of its input.

    Args:
        name: a timm model name, optionally with timm keyword arguments behind a colon:
            `vit_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4`.
        in_chans: input channels.
        image_size: input side in pixels.
        patch_size: side of a patch in pixels, for transformers; None keeps the name's own, shrunk so
            that a small picture still has at least 8x8 patches where it can.
        pool: `token`, `avg` or None for the model's own.
    """

    def __init__(
        self,
        name: str,
        in_chans: int = 3,
        image_size: int = 224,
        patch_size: int | None = None,
        pool: Pool | None = None,
    ):
        self.name, self.kwargs = split_name(name)
        self.in_chans, self.image_size, self.pool = in_chans, image_size, pool
        self.patch_size = patch_size

    @property
    def full_name(self) -> str:
        extra = ",".join(f"{key}={value}" for key, value in self.kwargs.items())
        return f"{self.name}:{extra}" if extra else self.name

    @property
    def inputs(self) -> dict[str, Any]:
        """All but the name."""
        names = ("in_chans", "image_size", "patch_size", "pool")
        return {name: getattr(self, name) for name in names}


def default_patch(image_size: int) -> int:
    """16 at 224 px; smaller pictures get smaller patches so that about 8x8 to 14x14 of them remain."""
    return 16 if image_size >= 128 else max(2, image_size // 8)


def build(
    spec: EncoderSpec,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    pretrained: bool = False,
) -> ImageEncoder:
    """Build the encoder a spec names.

    Args:
        spec: name and input shape.
        mean: per channel; default the model's own (`statistics`), or 0.5 where there are not three.
        std: per channel; default likewise, or 0.25.
        pretrained: start from timm's published weights (needs them in the local cache or a network).

    Raises:
        UsageError: timm has no such model, or it cannot take these arguments.
    """
    import timm

    import pretask.encoders.colour_net  # noqa: F401 - registers itself with timm
    import pretask.encoders.crate  # noqa: F401 - so does this
    import pretask.encoders.dictionary  # noqa: F401 - and this
    import pretask.encoders.scattering  # noqa: F401 - and this
    import pretask.encoders.vgg  # noqa: F401 - and this, which brings revnet

    if spec.name == "unet":
        from pretask.encoders.denoiser import Denoiser

        return Denoiser(spec)
    is_patch = spec.name.startswith(("vit_", "deit_", "deit3_", "eva", "beit"))
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": spec.in_chans, **spec.kwargs}
    if is_patch:
        spec.patch_size = spec.patch_size or default_patch(spec.image_size)
        kwargs |= {"img_size": spec.image_size, "patch_size": spec.patch_size}
        if not spec.name.startswith("beit"):  # whose relative positions know one size
            kwargs["dynamic_img_size"] = True
        if spec.image_size % spec.patch_size:
            raise UsageError(
                f"image size {spec.image_size} is not a multiple of patch size {spec.patch_size}"
            )
    if spec.name.startswith("hiera"):
        from pretask.encoders.hiera import settings

        kwargs |= settings(spec)
    if spec.pool is not None:
        kwargs["global_pool"] = spec.pool
    try:
        model = timm.create_model(spec.name, pretrained=pretrained, **kwargs)
    except (RuntimeError, TypeError, ValueError) as error:
        near = get_close_matches(spec.name, timm.list_models(), n=5, cutoff=0.5)
        hint = f"; timm has for instance: {', '.join(near)}" if near else ""
        raise UsageError(f"encoder '{spec.name}' with {kwargs}: {error}{hint}") from error
    if not is_patch and spec.image_size <= SMALL_IMAGE:
        shrink_stem(model)
    usual = statistics(model, spec.in_chans, pretrained)
    encoder = kind_of(spec.name, is_patch)(model, spec, mean or usual[0], std or usual[1])
    encoder.pretrained = pretrained
    return encoder


def statistics(model: Any, in_chans: int, pretrained: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel that a network expects: its own, or those of its published weights,
    or ImageNet's for three channels."""
    three = in_chans == 3
    published = getattr(model, "pretrained_cfg", {}) if pretrained and three else {}
    mean = getattr(model, "mean", None) or published.get("mean")
    std = getattr(model, "std", None) or published.get("std")
    return (
        mean or (IMAGENET_MEAN if three else (0.5,) * in_chans),
        std or (IMAGENET_STD if three else (0.25,) * in_chans),
    )


def kind_of(name: str, is_patch: bool) -> type[ImageEncoder]:
    """The class that runs a timm model of this name."""
    if name.startswith("beit"):
        from pretask.encoders.beit import BeitEncoder

        return BeitEncoder
    if name.startswith("hiera"):
        from pretask.encoders.hiera import HieraEncoder

        return HieraEncoder
    return PatchEncoder if is_patch else ConvEncoder


def build_for(
    name: str,
    in_chans: int = 3,
    image_size: int = 224,
    patch_size: int | None = None,
    pool: Pool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = False,
    lens: dict[str, Any] | None = None,
) -> ImageEncoder:
    """An encoder from its name and what the data are: see `EncoderSpec` and `build`; `raw` is the pixels.
    With `lens`, what `LensedEncoder.inputs` says of it, there is a lens before it."""
    if name in ("raw", "pixels"):
        from pretask.encoders.pixels import PixelEncoder

        return PixelEncoder(image_size, in_chans)
    spec = EncoderSpec(name, in_chans, image_size, patch_size, pool)
    encoder = build(spec, tuple(mean) if mean else None, tuple(std) if std else None, pretrained)
    if lens is None:
        return encoder
    from pretask.encoders.lens import LensedEncoder, LensNet

    return LensedEncoder(encoder, LensNet(in_chans, lens["width"], lens["levels"]), lens["keep"])


def shrink_stem(model: nn.Module) -> None:
    """A ResNet's first layers for small pictures: 3x3, stride 1, no pooling (SimCLR, appendix B.9)."""
    for root, conv, pool in ((model, "conv1", "maxpool"), (getattr(model, "stem", None), "conv", "pool")):
        old = getattr(root, conv, None)
        if isinstance(root, nn.Module) and isinstance(old, nn.Conv2d) and hasattr(root, pool):
            setattr(root, conv, nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False))
            setattr(root, pool, nn.Identity())
