"""From a map of features back to pixels, and a network that tells what was painted (Pathak et al., CVPR 2016)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDEST, NARROWEST = 512, 16  # channels of layers


class ChannelwiseLinear(nn.Module):
    """Each channel's places fully connected among themselves, and no two channels: so that what is known at one side
    of a picture reaches the other, with few weights.

    Args:
        dim: channels.
        places: of the map.
    """

    def __init__(self, dim: int, places: int):
        super().__init__()
        bound = places**-0.5
        self.weight = nn.Parameter(torch.empty(dim, places, places).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(dim, 1, places))

    def forward(self, tokens: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places dim"]:
        by_channel = tokens.permute(2, 0, 1)  # (D, B, N)
        return torch.baddbmm(self.bias.to(tokens.dtype), by_channel, self.weight.to(tokens.dtype)).permute(
            1, 2, 0
        )


class Painter(nn.Module):
    """Pixels in [-1, 1] from a map of features: channels connected over all places, mixed by a 1x1 convolution, then
    enlarged by transposed convolutions.

    Args:
        dim: channels of the map.
        grid: its rows and columns.
        side: of the picture in pixels.
        chans: of the picture.
    """

    def __init__(self, dim: int, grid: tuple[int, int], side: int, chans: int):
        super().__init__()
        self.grid, self.side = grid, side
        self.spread = ChannelwiseLinear(dim, grid[0] * grid[1])
        width, rows = min(dim, WIDEST), grid[0]
        layers: list[nn.Module] = [nn.Conv2d(dim, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        while 2 * rows <= side:
            after = max(width // 2, NARROWEST)
            layers += [
                nn.ConvTranspose2d(width, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            width, rows = after, 2 * rows
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, chans, 3, padding=1))

    def forward(self, tokens: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch chans side side"]:
        maps = self.spread(tokens).transpose(1, 2).unflatten(2, self.grid)
        made = self.layers(maps)
        if made.shape[-1] != self.side:
            made = F.interpolate(made, (self.side, self.side), mode="bilinear", align_corners=False)
        return made.tanh()


class Critic(nn.Module):
    """A logit a picture: is it real? Strided convolutions down to 4 pixels or fewer (DCGAN, Radford et al., 2016).

    Args:
        chans: of the picture.
        side: of it in pixels.
        width: channels of the first layer.
    """

    def __init__(self, chans: int, side: int, width: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(chans, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        rows = side // 2
        while rows > 4:
            after = min(2 * width, WIDEST)
            layers += [nn.Conv2d(width, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
            width, rows = after, rows // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * rows**2, 1))

    def forward(self, image: Float[Tensor, "batch chans side side"]) -> Float[Tensor, "batch"]:
        return self.layers(image).squeeze(1)
