"""A diffusion model's U-Net as an encoder: it guesses noise, and its middle is what it knows of a picture.

The network is diffusers' `UNet2DModel`, set up as the one of ADM (Dhariwal & Nichol, NeurIPS 2021). The noise
schedule belongs to it: without the schedule it neither encodes nor draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import EncoderSpec, ImageEncoder
from pretask.errors import UsageError, need
from pretask.pretexts.diffusion import BETAS, Schedule, make_schedule

NAME = "unet"
SMALL_IMAGE = 64  # pixels; up to here half of the paper's width
MULTIPLES = (
    (256, (1, 1, 2, 2, 4, 4)),
    (128, (1, 1, 2, 3, 4)),
    (64, (1, 2, 3, 4)),
    (32, (1, 2, 2)),
    (0, (1, 2)),
)
"""Widths of the resolutions, finest first, by the side of the picture from which on; down to 64 ADM's."""

ALMOST_ZERO = 1e-5
"""What layers that ADM starts at zero are multiplied by instead: at zero nothing behind them would learn in
the first step (DDPM's code does the same)."""


class Denoiser(ImageEncoder):
    """Guesses the noise in a picture; `unet:width=64,mults=[1,2,2],levels=1000` names one.

    As an encoder it looks at a picture under a little noise, always the same, and gives the middle of the
    U-Net: `tokens` are its places, `pooled` is their mean.

    Args:
        spec: name and input shape. Arguments behind the colon: `width` (channels of the finest resolution;
            default 128, up to 64 pixels 64), `mults` (of the width, finest first), `depth` (residual blocks
            a resolution), `attention` (the side at which places attend to each other), `levels` (T),
            `schedule` (linear or cosine), `learn_variance`, `level` (of the noise that features are seen
            under), `dropout`.

    Attributes:
        betas: of the noise schedule, in float64.
        learn_variance: whether the network answers with variances behind the noise.
        level: of the noise that features are seen under; may be changed.
    """

    def __init__(self, spec: EncoderSpec):
        settings = {"levels": 1000, "schedule": "linear", "learn_variance": True, "level": 50, **spec.kwargs}
        own = {name: settings.pop(name) for name in ("levels", "schedule", "learn_variance", "level")}
        if own["schedule"] not in BETAS:
            raise UsageError(f"schedule '{own['schedule']}': one of {', '.join(BETAS)}")
        model = build_unet(spec.in_chans, spec.image_size, own["learn_variance"], **settings)
        super().__init__(model, spec, (0.5,) * spec.in_chans, (0.5,) * spec.in_chans)
        self.learn_variance: bool = own["learn_variance"]
        betas = BETAS[own["schedule"]](own["levels"])
        self.level = min(int(own["level"]), len(betas) - 1)
        self.betas = betas
        self.register_buffer("tables", torch.stack(make_schedule(betas)), persistent=False)
        noise = torch.randn(
            1, spec.in_chans, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0)
        )
        self.register_buffer("haze", noise, persistent=False)  # the noise that features are seen under

    @property
    def schedule(self) -> Schedule:
        return Schedule(*self.get_buffer("tables"))

    def padded(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h2 w2"]:
        """Continued to the right and below until the side can be halved as often as the network does."""
        side = 2 ** (len(self.model.config.block_out_channels) - 1)
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % side, 0, -height % side), mode="replicate")

    def predict(
        self, noisy: Float[Tensor, "batch chans h w"], level: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch chans h w"], Float[Tensor, "batch chans h w"] | None]:
        """The noise in pictures of [-1, 1] at these levels, and where between their bounds the variances of
        the step back lie, if the network learns them."""
        height, width = noisy.shape[-2:]
        out = self.model(self.padded(noisy), level, return_dict=False)[0][..., :height, :width]
        if not self.learn_variance:
            return out, None
        noise, between = out.chunk(2, dim=1)
        return noise, between

    def middle(
        self, noisy: Float[Tensor, "batch chans h w"], level: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """The features of the U-Net's middle block."""
        model, x = self.model, self.padded(noisy)
        time = model.time_embedding(model.time_proj(level).to(x.dtype))
        x = model.conv_in(x)
        for block in model.down_blocks:
            x = block(hidden_states=x, temb=time)[0]
        return model.mid_block(x, time)

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        clean, schedule, t = self.normalise(image), self.schedule, self.level
        rows, columns = (torch.arange(n, device=image.device) % self.image_size for n in image.shape[-2:])
        haze = self.get_buffer("haze")[:, :, rows[:, None], columns]
        noisy = schedule.signal[t] * clean + schedule.noise[t] * haze
        level = torch.full((image.shape[0],), t, device=image.device)
        maps = self.middle(noisy, level)
        tokens = maps.flatten(2).transpose(1, 2)
        return Features(tokens.mean(1), tokens, tokens[:, :0], (maps.shape[2], maps.shape[3]))


def build_unet(
    in_chans: int,
    side: int,
    learn_variance: bool,
    width: int | None = None,
    mults: Sequence[int] | None = None,
    depth: int = 1,
    attention: int = 16,
    dropout: float = 0.0,
) -> Any:
    """ADM's U-Net: residual blocks that halve and double, the level scales and shifts their norms, heads of
    64 channels attend at one resolution and in the middle. At 256 pixels with the defaults it is P2
    weighting's light one of 93 million parameters.

    Raises:
        UsageError: the width does not divide into heads, or a package is missing.
    """
    diffusers = need("diffusers", "diffusion")
    width = width or (64 if side <= SMALL_IMAGE else 128)
    mults = mults or next(found for start, found in MULTIPLES if side >= start)
    head = min(64, width)
    if width % head or width % 4:
        raise UsageError(f"the width of a unet must be a multiple of 4, and above 64 one of 64, not {width}")
    attends = [2**i == max(1, side // attention) for i in range(len(mults))]
    groups = gcd(32, width)
    down = tuple("AttnDownBlock2D" if one else "ResnetDownsampleBlock2D" for one in attends)
    up = tuple("AttnUpBlock2D" if one else "ResnetUpsampleBlock2D" for one in reversed(attends))
    model = diffusers.UNet2DModel(
        side, in_chans, in_chans * (2 if learn_variance else 1), down_block_types=down, up_block_types=up,
        block_out_channels=tuple(width * times for times in mults), layers_per_block=depth,
        downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift",
        attention_head_dim=head, norm_num_groups=groups, attn_norm_num_groups=groups, dropout=dropout,
    )  # fmt: skip
    model.num_features = width * mults[-1]
    almost_silence(model)
    return model


@torch.no_grad()
def almost_silence(model: nn.Module) -> None:
    """Let every block begin as the identity and the whole answer 0, as ADM does, up to `ALMOST_ZERO`."""
    layer: Any
    for name, layer in model.named_modules():
        if name == "conv_out" or name.endswith((".conv2", ".to_out.0")):
            layer.weight.mul_(ALMOST_ZERO)
            layer.bias.zero_()
