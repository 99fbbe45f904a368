"""Gaussian worlds with every expectation in closed form, and samples of them to learn from.

Y (numbers, or a class) and a latent U enter X1 and X2 linearly, with unit noise. Without U the two are
independent given Y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.studies.theory.worlds import DOUBLE, RANK, normal, smallest


class Sample(NamedTuple):
    """Items of a world; `y` holds numbers or classes."""

    x1: Float[Tensor, "items ones"]
    x2: Float[Tensor, "items twos"]
    y: Tensor


@dataclass(frozen=True)
class GaussianWorld:
    """X1 = B1 Y + C1 U + noise, X2 = B2 Y + C2 U + noise; Y and U standard normal.

    Args:
        one: B1.
        two: B2.
        latent_one: C1.
        latent_two: C2.
    """

    one: Float[Tensor, "ones numbers"]
    two: Float[Tensor, "twos numbers"]
    latent_one: Float[Tensor, "ones latent"]
    latent_two: Float[Tensor, "twos latent"]

    @classmethod
    def draw(
        cls,
        generator: torch.Generator,
        *,
        d1: int = 40,
        d2: int = 30,
        k: int = 3,
        shared: int = 0,
        r: float = 0.0,
        scale: float = 0.5,
    ) -> GaussianWorld:
        """Random loadings.

        Args:
            generator: of the loadings.
            d1: dimensions of X1.
            d2: dimensions of X2.
            k: dimensions of Y.
            shared: dimensions of U.
            r: strength of U, in units of Y's.
            scale: standard deviation of an entry of B1 and B2.
        """
        b1, b2 = (scale * normal(d, k, generator=generator) for d in (d1, d2))
        c1, c2 = (r * scale * normal(d, shared, generator=generator) for d in (d1, d2))
        return cls(b1, b2, c1, c2)

    @property
    def k(self) -> int:
        return self.one.shape[1]

    @cached_property
    def s11(self) -> Float[Tensor, "ones ones"]:
        """Cov(X1)."""
        return (
            self.one @ self.one.T
            + self.latent_one @ self.latent_one.T
            + torch.eye(len(self.one), dtype=DOUBLE)
        )

    @property
    def s12(self) -> Float[Tensor, "ones twos"]:
        return self.one @ self.two.T + self.latent_one @ self.latent_two.T

    @property
    def partial(self) -> Float[Tensor, "ones twos"]:
        """S_{12|Y} = S_12 - S_1Y S_YY^-1 S_Y2: 0 if and only if X1 and X2 are independent given Y."""
        return self.s12 - self.one @ self.two.T

    @cached_property
    def target(self) -> Float[Tensor, "numbers ones"]:
        """f*(x1) = E[Y | x1] as a matrix."""
        return torch.linalg.solve(self.s11, self.one).T

    @cached_property
    def psi(self) -> Float[Tensor, "twos ones"]:
        """psi*(x1) = E[X2 | x1] as a matrix."""
        return torch.linalg.solve(self.s11, self.s12).T

    @property
    def dependence(self) -> float:
        """eps_CI^2 = |S_11^-1/2 S_{12|Y}|_F^2."""
        return float((self.partial * torch.linalg.solve(self.s11, self.partial)).sum())

    @property
    def beta(self) -> float:
        """Smallest singular value of A, where E[X2 | Y] = A' Y."""
        return smallest(self.two, self.k)

    @property
    def beta_with_latent(self) -> float:
        """1 / |S_{Y Ybar} S_{X2 Ybar}^+| with Ybar = [Y, U]."""
        inverse = torch.linalg.pinv(torch.cat([self.two, self.latent_two], dim=1))
        return 1 / float(torch.linalg.matrix_norm(inverse[: self.k], 2))

    @property
    def noise(self) -> float:
        """sigma^2 = E|Y - f*(X1)|^2, which no head takes away."""
        return self.k - float((self.target * self.one.T).sum())

    def square(self, matrix: Float[Tensor, "out ones"]) -> float:
        """E|matrix x1|^2."""
        return float(((matrix @ self.s11) * matrix).sum())

    def risk(self, head: Float[Tensor, "numbers ones"]) -> float:
        """ER = E|f*(X1) - head x1|^2."""
        return self.square(self.target - head)

    def best_head(self, features: Float[Tensor, "dim ones"]) -> Float[Tensor, "numbers ones"]:
        """The best linear head on features of X1, as a matrix on x1 (pseudo-inverse: ranks may be low)."""
        moments = features @ self.s11 @ features.T
        return (
            self.target
            @ self.s11
            @ features.T
            @ torch.linalg.pinv(moments, hermitian=True, rtol=RANK)
            @ features
        )

    def approximation(self, features: Float[Tensor, "dim ones"]) -> float:
        """e_apx of features of X1."""
        return self.risk(self.best_head(features))

    def sample(self, count: int, generator: torch.Generator) -> Sample:
        y, u = (normal(count, b.shape[1], generator=generator) for b in (self.one, self.latent_one))
        x1 = y @ self.one.T + u @ self.latent_one.T + normal(count, len(self.one), generator=generator)
        x2 = y @ self.two.T + u @ self.latent_two.T + normal(count, len(self.two), generator=generator)
        return Sample(x1, x2, y)


@dataclass(frozen=True)
class ClassWorld:
    """X1 = m1[Y] + L1 U + noise, X2 = m2[Y] + G[Y] U + noise; Y one of equally likely classes.

    Args:
        means_one: m1.
        means_two: m2.
        one: L1.
        two: G, which may differ from class to class.
    """

    means_one: Float[Tensor, "classes ones"]
    means_two: Float[Tensor, "classes twos"]
    one: Float[Tensor, "ones latent"]
    two: Float[Tensor, "classes twos latent"]

    @classmethod
    def draw(
        cls,
        generator: torch.Generator,
        b: float = 1.5,
        *,
        d1: int = 40,
        d2: int = 30,
        k: int = 4,
        r: int = 8,
        scale: float = 0.5,
    ) -> ClassWorld:
        """Random means and loadings; X2's means are orthogonal to its loadings.

        Args:
            generator: of all of them.
            b: strength of U: how far X1 and X2 are from independent given Y.
            d1: dimensions of X1.
            d2: dimensions of X2.
            k: classes.
            r: dimensions of U.
            scale: standard deviation of an entry of the means, and of the loadings where b is 1.
        """
        one, two = (b * scale * normal(d, r, generator=generator) for d in (d1, d2))
        means_one, means_two = (scale * normal(k, d, generator=generator) for d in (d1, d2))
        basis = torch.linalg.qr(two).Q
        return cls(means_one, means_two - means_two @ basis @ basis.T, one, two.expand(k, -1, -1))

    @property
    def classes(self) -> int:
        return len(self.means_one)

    @property
    def covariances(self) -> Float[Tensor, "classes ones twos"]:
        """Cov(X1, X2 | Y = c) of every class."""
        return torch.einsum("or,ctr->cot", self.one, self.two)

    @property
    def covariance(self) -> Float[Tensor, "ones twos"]:
        """Cov(X1, X2 | Y), pooled."""
        return self.covariances.mean(0)

    def violation(self, refinement: Float[Tensor, "keep twos"]) -> float:
        """|Cov(X1, f(X2) | Y)|_F in the population, for f(x2) = refinement x2."""
        return float((self.covariance @ refinement.T).norm())

    def violations(self, refinement: Float[Tensor, "keep twos"]) -> Float[Tensor, "classes"]:
        """The same class by class."""
        return (self.covariances @ refinement.T).norm(dim=(1, 2))

    def sample(
        self, count: int, generator: torch.Generator, only: Int[Tensor, "seen"] | None = None
    ) -> Sample:
        """Items of all classes, or of some `only`."""
        seen = torch.arange(self.classes) if only is None else only
        y = seen[torch.randint(len(seen), (count,), generator=generator)]
        u = normal(count, self.one.shape[1], generator=generator)
        x1 = self.means_one[y] + u @ self.one.T + normal(count, len(self.one), generator=generator)
        x2 = self.means_two[y] + normal(count, self.two.shape[1], generator=generator)
        for c in seen.tolist():
            x2[y == c] += u[y == c] @ self.two[c].T
        return Sample(x1, x2, y)
