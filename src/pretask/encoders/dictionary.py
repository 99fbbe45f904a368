"""A dictionary as a timm model: pictures, or what a frozen network makes of them, become sparse codes.

Importing this module registers it with timm as `sparse_dictionary`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import register_model
from torch import Tensor, nn

from pretask.pretexts.sparse_codes import admm

RHO = 1.0


class SparseDictionary(nn.Module):
    """Codes s = argmin |x - s B|^2 + 2 penalty |s|_1 of samples x of length 1, by ADMM.

    Nothing here learns by gradients: whoever trains it calls `set_atoms`. The matrix that ADMM multiplies
    with is kept beside the atoms, so that coding is made of nothing but products and thresholds.

    Args:
        in_chans: channels of the pictures.
        num_classes: 0; kept for timm's sake, as is `global_pool`.
        atoms: rows of B, the width of the codes.
        penalty: epsilon.
        side: pictures are averaged down to so many pixels a side; without a `front` these are x.
        front: a timm model whose pooled features are x; it is frozen. Its weights are timm's published ones
            where the encoder is asked for as `pretrained`.
        iterations: of ADMM.
        pretrained: see `front`.
    """

    atoms: nn.Parameter
    solver: Tensor

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 0,
        global_pool: str = "avg",
        atoms: int = 100,
        penalty: float = 0.125,
        side: int = 16,
        front: str | None = None,
        iterations: int = 100,
        pretrained: bool = False,
    ):
        super().__init__()
        self.num_classes, self.num_features = num_classes, atoms
        self.penalty, self.side, self.iterations = penalty, side, iterations
        self.front: Any = None
        if front is None:
            self.mean, self.std = (0.0,) * in_chans, (1.0,) * in_chans  # pixels as they are
            dim = in_chans * side**2
        else:
            import timm

            self.front = timm.create_model(front, pretrained, in_chans=in_chans, num_classes=0)
            self.front.requires_grad_(False)
            dim = self.front.num_features
        self.atoms = nn.Parameter(torch.randn(atoms, dim), requires_grad=False)
        self.register_buffer("solver", torch.empty(atoms, atoms))
        self.set_atoms(F.normalize(self.atoms, dim=1))

    @torch.no_grad()
    def set_atoms(self, atoms: Float[Tensor, "atoms dim"]) -> None:
        """Take other atoms."""
        self.atoms.copy_(atoms)
        gram = (self.atoms @ self.atoms.T).double().cpu()
        gram.diagonal().add_(RHO)
        self.solver.copy_(torch.linalg.inv(gram))

    def train(self, mode: bool = True) -> SparseDictionary:
        """The front is frozen: it never normalises by its batch."""
        super().train(mode)
        if self.front is not None:
            self.front.eval()
        return self

    def represent(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch dim"]:
        """x: pixels or features, of length 1."""
        if self.front is not None:
            x = self.front(image)
        else:
            x = F.adaptive_avg_pool2d(image, self.side).flatten(1)
        return F.normalize(x.float(), dim=1)

    def code(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch atoms"]:
        """The codes of x, with the matrix at hand."""
        with torch.autocast(x.device.type, enabled=False):
            fit = x.float() @ self.atoms.T
            return admm(fit, lambda rows: rows @ self.solver, self.penalty, RHO, self.iterations)

    def forward_features(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch atoms 1 1"]:
        return self.code(self.represent(x))[:, :, None, None]

    def forward_head(self, x: Float[Tensor, "batch atoms 1 1"], pre_logits: bool = True) -> Tensor:
        return x.flatten(1)

    def forward(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch atoms"]:
        return self.forward_head(self.forward_features(x))


@register_model
def sparse_dictionary(pretrained: bool = False, **kwargs: Any) -> SparseDictionary:
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    return SparseDictionary(pretrained=pretrained, **kwargs)
