"""Sparse codes: every sample as a combination of few rows of a dictionary (the lasso, by ADMM)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def soft_threshold(x: Tensor, by: float) -> Tensor:
    """Nearer to 0 by so much, and 0 where it was nearer already: what an l1 penalty does to one number."""
    return x.sign() * (x.abs() - by).clamp(min=0)


def ridge_solver(dictionary: Float[Tensor, "atoms dim"], rho: float) -> Callable[[Tensor], Tensor]:
    """What multiplies rows by (D D^T + rho I)^-1; with more atoms than dimensions by way of D^T D."""
    atoms, dim = dictionary.shape
    if atoms <= dim:
        gram = dictionary @ dictionary.T
        gram.diagonal().add_(rho)
        factor = torch.linalg.cholesky(gram)
        return lambda rows: torch.cholesky_solve(rows.T, factor).T
    scatter = dictionary.T @ dictionary
    scatter.diagonal().add_(rho)
    factor = torch.linalg.cholesky(scatter)
    return lambda rows: (rows - torch.cholesky_solve((rows @ dictionary).T, factor).T @ dictionary.T) / rho


def admm(
    fit: Float[Tensor, "batch atoms"],
    solve: Callable[[Tensor], Tensor],
    penalty: float,
    rho: float = 1.0,
    iterations: int = 30,
    start: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "batch atoms"]:
    """Minimise s G s^T - 2 s fit + 2 penalty |s|_1 from (fit, G) by the alternating direction method of
    multipliers (Boyd et al., 2011):

        s = (fit + rho z - t) (G + rho I)^-1,   z = soft(s + t / rho, penalty / rho),   t += rho (s - z)

    Args:
        fit: products of samples and atoms.
        solve: multiplies rows by (G + rho I)^-1.
        penalty: on the absolute values; the threshold is `penalty / rho`, so the objective has it twice.
        rho: of the method: it changes the way, not the goal.
        iterations: how often; more come nearer.
        start: z and t at first; 0 by default.

    Returns:
        z, whose zeros are exact.
    """
    z, t = start or (torch.zeros_like(fit), torch.zeros_like(fit))
    for _ in range(iterations):
        s = solve(fit + rho * z - t)
        z = soft_threshold(s + t / rho, penalty / rho)
        t = t + rho * (s - z)
    return z


@torch.no_grad()
def sparse_codes(
    target: Float[Tensor, "batch dim"],
    dictionary: Float[Tensor, "atoms dim"],
    penalty: float,
    rho: float = 1.0,
    iterations: int = 30,
    start: Float[Tensor, "batch atoms"] | None = None,
) -> Float[Tensor, "batch atoms"]:
    """Codes s that minimise |y - s D|^2 + 2 penalty |s|_1 for all samples y at once: see `admm`.

    With codes to start from, t is what it is where they are right, (y - s D) D^T within the penalty: from
    the solution it goes nowhere.
    """
    with torch.autocast(target.device.type, enabled=False):
        target = target.to(dictionary.dtype)
        fit, begin = target @ dictionary.T, None
        if start is not None:
            begin = start, ((target - start @ dictionary) @ dictionary.T).clamp(-penalty, penalty)
        return admm(fit, ridge_solver(dictionary, rho), penalty, rho, iterations, begin)
