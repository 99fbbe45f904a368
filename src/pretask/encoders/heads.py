"""What stands between an encoder and a loss, and is thrown away with it: projectors and prototypes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.pretexts import draw


def mlp(
    *widths: int,
    activation: type[nn.Module] = nn.ReLU,
    batch_norm: bool = False,
    last_norm: Literal["none", "affine", "plain"] = "none",
    last_bias: bool = True,
) -> nn.Sequential:
    """Linear layers with an activation between them: a projector or a predictor.

    Args:
        widths: of the input, of each hidden layer and of the output.
        activation: between layers.
        batch_norm: normalise each hidden layer before its activation; such layers have no bias.
        last_norm: batch normalisation of the output, with (`affine`) or without (`plain`) its own scale
            and shift.
        last_bias: add one to the output; with `last_norm` there is none.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        last = i == len(widths) - 2
        normed = last_norm != "none" if last else batch_norm
        layers.append(nn.Linear(before, after, bias=not normed and (last_bias or not last)))
        if normed:
            layers.append(nn.BatchNorm1d(after, affine=not last or last_norm == "affine"))
        if not last:
            layers.append(activation())
    return nn.Sequential(*layers)


def dropped(
    x: Float[Tensor, "batch *rest"], share: float, generator: torch.Generator
) -> Float[Tensor, "batch *rest"]:
    """Dropout by the step's randomness (torch's own reads the global one): each value is 0 with probability `share`,
    the others are divided by 1 - share. The first dimension is the batch."""
    unit = draw.uniform(tuple(x.shape), generator)
    return x * (unit.to(x.device) >= share) / (1 - share)


class Prototypes(nn.Module):
    """A linear layer without bias whose rows are g v / |v|: logits against directions.

    Args:
        dim: width of the input.
        count: prototypes.
        unit: keep every g at 1; else it starts there and learns.
    """

    def __init__(self, dim: int, count: int, unit: bool = True):
        super().__init__()
        self.weight_v = nn.Parameter(nn.Linear(dim, count, bias=False).weight.detach())
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=not unit)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch count"]:
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class PrototypeHead(nn.Module):
    """DINO's and iBOT's head: a three-layer GELU network, vectors of length 1, prototypes.

    It has no batch normalisation: tokens may be given together or apart.

    Args:
        dim: width of the input.
        prototypes: width of the output.
        hidden_dim: of the network's hidden layers.
        bottleneck_dim: of the vectors that are compared with prototypes.
        unit_prototypes: keep the prototypes' length at 1 (the official norm_last_layer).
    """

    def __init__(
        self,
        dim: int,
        prototypes: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        unit_prototypes: bool = True,
    ):
        super().__init__()
        self.mlp = mlp(dim, hidden_dim, hidden_dim, bottleneck_dim, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = Prototypes(bottleneck_dim, prototypes, unit_prototypes)

    def embed(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch bottleneck"]:
        """Vectors of length 1. The prototypes are linear in them: the mean of many logits is the logits of
        their mean, which spares computing each."""
        return F.normalize(self.mlp(x), dim=-1)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch prototypes"]:
        return self.last_layer(self.embed(x))


class Discriminator(nn.Module):
    """h' W s: how well a vector fits a summary (Deep Graph Infomax, Velickovic et al., ICLR 2019, equation 4).

    Args:
        dim: width of both.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, x: Float[Tensor, "items dim"], summary: Float[Tensor, "dim"]) -> Float[Tensor, "items"]:
        return x @ (self.weight @ summary)
