"""Against a network: the answer it believes in least, and the smallest change of its input that hurts it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def least_likely(logits: Float[Tensor, "batch classes"]) -> Int[Tensor, "batch"]:
    """The class each row holds least probable (Kurakin et al., 2017); a constant, no gradient passes."""
    return logits.detach().argmin(1)


def fast_gradient_sign(loss: Float[Tensor, ""], inputs: Sequence[Tensor], epsilon: float) -> list[Tensor]:
    """What to add to each input to raise the loss by a step of `epsilon` in every pixel (Goodfellow et al.,
    ICLR 2015): epsilon sign(gradient). Parameters get no gradient.

    Args:
        loss: depends on the inputs; its graph is kept.
        inputs: that require a gradient.
        epsilon: the step; inputs are not held within any range.
    """
    gradients = torch.autograd.grad(loss, list(inputs), retain_graph=True)
    return [epsilon * gradient.sign() for gradient in gradients]
