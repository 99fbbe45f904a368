"""Worlds small enough to be enumerated: every joint distribution of X1, X2 and a class Y, exactly.

The notation is that of Predicting What You Already Know Helps (Lee et al., NeurIPS 2021): psi*(x1) = E[X2 | x1]
is what the pretext learns, f*(x1) = E[Y | x1] what the task asks, A = E[X2 | Y] a row a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

DOUBLE = torch.float64
RANK = 1e-12  # singular values below this share of the largest are taken for 0


def dirichlet(*shape: int, generator: torch.Generator) -> Tensor:
    """Distributions over the last axis, uniform over all there are."""
    weight = -torch.rand(*shape, generator=generator, dtype=DOUBLE).clamp(min=1e-300).log()
    return weight / weight.sum(-1, keepdim=True)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def left_over(
    features: Float[Tensor, "ones dim"], target: Float[Tensor, "ones classes"], weight: Float[Tensor, "ones"]
) -> float:
    """min over W of E|target - W' features|^2; features may be rank deficient."""
    root = weight.sqrt()[:, None]
    basis = torch.linalg.svd(root * features, full_matrices=False)
    kept = basis.U[:, basis.S / basis.S[0] > RANK]
    wanted = root * target
    return float((wanted - kept @ (kept.T @ wanted)).square().sum())


@dataclass(frozen=True)
class DiscreteWorld:
    """P(y, x1, x2) as a table, and where each value of x2 lies.

    Args:
        joint: probabilities, summing to 1.
        values: X2 as a vector, for each of its values.
    """

    joint: Float[Tensor, "classes ones twos"]
    values: Float[Tensor, "twos dim"]

    @classmethod
    def of(
        cls,
        py: Float[Tensor, "classes"],
        p1: Float[Tensor, "classes ones"],
        p2: Float[Tensor, "classes twos"],
        values: Float[Tensor, "twos dim"],
        eps: float = 0.0,
        other: Float[Tensor, "classes ones twos"] | None = None,
    ) -> DiscreteWorld:
        """X1 and X2 independent given Y, but for a share `eps` of another joint distribution."""
        product = py[:, None, None] * p1[:, :, None] * p2[:, None, :]
        return cls(product if other is None else (1 - eps) * product + eps * other, values)

    @classmethod
    def draw(
        cls,
        generator: torch.Generator,
        eps: float = 0.0,
        *,
        ones: int = 12,
        twos: int = 12,
        classes: int = 3,
        dim: int = 6,
        rank: int | None = None,
    ) -> DiscreteWorld:
        """A random world.

        Args:
            generator: of all that is random.
            eps: share of a random joint distribution that breaks conditional independence.
            ones: values of X1.
            twos: values of X2.
            classes: of Y.
            dim: of X2.
            rank: of P(x2 | y); fewer than classes makes the last ones mixtures of the first.
        """
        py, p1 = dirichlet(classes, generator=generator), dirichlet(classes, ones, generator=generator)
        p2 = dirichlet(classes, twos, generator=generator)
        if rank is not None and rank < classes:
            p2[rank:] = dirichlet(classes - rank, rank, generator=generator) @ p2[:rank]
        values = normal(twos, dim, generator=generator)
        other = dirichlet(classes * ones * twos, generator=generator).view(classes, ones, twos)
        return cls.of(py, p1, p2, values, eps, other)

    @cached_property
    def p1(self) -> Float[Tensor, "ones"]:
        """P(x1)."""
        return self.joint.sum((0, 2))

    @cached_property
    def p12(self) -> Float[Tensor, "ones twos"]:
        return self.joint.sum(0)

    @cached_property
    def target(self) -> Float[Tensor, "ones classes"]:
        """f*: P(y | x1); its rows sum to 1, so that no intercept is needed."""
        return self.joint.sum(2).T / self.p1[:, None]

    @cached_property
    def psi(self) -> Float[Tensor, "ones dim"]:
        """psi*: E[X2 | x1]."""
        return self.p12 @ self.values / self.p1[:, None]

    @cached_property
    def means(self) -> Float[Tensor, "classes dim"]:
        """A = E[X2 | Y], not centred."""
        p2 = self.joint.sum(1)
        return p2 @ self.values / p2.sum(1, keepdim=True)

    @property
    def dependence(self) -> float:
        """eps_CI^2 = E|E[X2 | X1] - E[E[X2 | Y] | X1]|^2."""
        return self.expected_square(self.psi - self.target @ self.means)

    @property
    def beta(self) -> float:
        """The classes-th singular value of A, 0 where X2 has fewer dimensions."""
        return smallest(self.means, len(self.means))

    def expected_square(self, x: Float[Tensor, "ones dim"]) -> float:
        return float((self.p1 * x.square().sum(1)).sum())

    def approximation(self, features: Float[Tensor, "ones dim"]) -> float:
        """e_apx: the error of the best linear head on features of x1."""
        return left_over(features, self.target, self.p1)

    def by_inverse(self) -> float:
        """The error of the head the proof uses, W = A^+."""
        return self.expected_square(self.target - self.psi @ torch.linalg.pinv(self.means))

    @cached_property
    def correlation(self) -> Float[Tensor, "ones twos"]:
        """M = D1^-1/2 P12 D2^-1/2, the operator (T g)(x1) = E[g(X2) | x1] between whitened functions."""
        p2 = self.p12.sum(0)
        return self.p12 / (self.p1.sqrt()[:, None] * p2.sqrt())

    def cca(self, count: int) -> tuple[Float[Tensor, "ones count"], Float[Tensor, "values"]]:
        """The first functions of nonlinear CCA, the constant among them, and all singular values."""
        u, s, _ = torch.linalg.svd(self.correlation)
        return u[:, :count] / self.p1.sqrt()[:, None], s

    def ace(
        self, count: int, generator: torch.Generator, steps: int = 300, whiten: bool = True
    ) -> tuple[Float[Tensor, "ones count"], float]:
        """Alternate psi <- E[eta | X1] and eta <- E[psi | X2], whitened each time; E<psi, eta> at the end.

        Without whitening every function is normalised by itself, as SimSiam normalises.
        """
        u = balanced(normal(len(self.p1), count, generator=generator), whiten)
        for _ in range(steps):
            v = balanced(self.correlation.T @ u, whiten)
            u = balanced(self.correlation @ v, whiten)
        return u / self.p1.sqrt()[:, None], float((u * (self.correlation @ v)).sum())

    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "items"], Int[Tensor, "items"], Int[Tensor, "items"]]:
        """(x1, x2, y) by number."""
        drawn = torch.multinomial(self.joint.flatten(), count, replacement=True, generator=generator)
        _, ones, twos = self.joint.shape
        return drawn // twos % ones, drawn % twos, drawn // (ones * twos)


def smallest(a: Tensor, count: int) -> float:
    """The count-th singular value; 0 where there are fewer, or where it is rounding."""
    values = torch.linalg.svdvals(a)
    return float(values[count - 1]) if len(values) >= count and values[count - 1] > RANK * values[0] else 0.0


def balanced(x: Float[Tensor, "values count"], whiten: bool) -> Float[Tensor, "values count"]:
    """Columns made orthonormal, or only of length 1."""
    if not whiten:
        return x / x.norm(dim=0)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    return left @ right


@dataclass(frozen=True)
class LatentWorld:
    """A discrete world with a latent Z: X1 and X2 are independent given (Y, Z), not given Y alone.

    Args:
        both: the world whose class is the pair (y, z), z the faster.
        classes: of Y.
    """

    both: DiscreteWorld
    classes: int

    @property
    def alone(self) -> DiscreteWorld:
        """The same with Z forgotten."""
        joint = self.both.joint
        return DiscreteWorld(joint.unflatten(0, (self.classes, -1)).sum(1), self.both.values)

    @property
    def beta(self) -> float:
        """1 / |S_{Y Ybar} S_{X2 Ybar}^+|, Ybar the pair as one-hot."""
        py = self.both.joint.sum((1, 2))
        pairs = py.view(self.classes, -1)
        cross = torch.block_diag(*pairs)  # S_{Y Ybar}: which pairs belong to a class
        return 1 / float(torch.linalg.matrix_norm(cross @ torch.linalg.pinv(self.both.means.T * py), 2))
