"""Dictionary learning from sums over codes: the last codes of every sample, and the atoms that fit them best."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

UNUSED = 1e-10  # sum of squared codes below which an atom counts as unused


class CodeBank(nn.Module):
    """The last codes S of every sample, and what atoms are learned from: S^T S and S^T Y.

    New codes of some samples take the place of their old ones in the sums. With all samples at once that is
    plain alternation, with few the incremental form of it.

    Args:
        codes: S at first, a row a sample.
        targets: Y, what the codes are to rebuild.
    """

    codes: Float[Tensor, "samples atoms"]
    gram: Float[Tensor, "atoms atoms"]
    cross: Float[Tensor, "atoms dim"]

    def __init__(self, codes: Float[Tensor, "samples atoms"], targets: Float[Tensor, "samples dim"]):
        super().__init__()
        self.register_buffer("codes", codes.clone())
        self.register_buffer("gram", codes.T @ codes)
        self.register_buffer("cross", codes.T @ targets)

    @torch.no_grad()
    def replace(
        self, index: Int[Tensor, "n"], codes: Float[Tensor, "n atoms"], targets: Float[Tensor, "n dim"]
    ) -> None:
        """Other codes for samples, each of which is named once."""
        old = self.codes[index]
        self.gram += codes.T @ codes - old.T @ old
        self.cross += (codes - old).T @ targets
        self.codes[index] = codes

    def idle(self) -> Int[Tensor, "some"]:
        """Atoms that no sample uses; their sums, 0 but for rounding, are made 0."""
        idle = (~self.codes.any(0)).nonzero().flatten()
        self.gram[idle], self.gram[:, idle], self.cross[idle] = 0, 0, 0
        return idle


def each_once(index: Int[Tensor, "n"]) -> tuple[Int[Tensor, "different"], Int[Tensor, "different"]]:
    """The different numbers, and where each stands first."""
    different, which = index.unique(return_inverse=True)
    place = torch.arange(len(index), device=index.device)
    return different, torch.full_like(different, len(index)).scatter_reduce(0, which, place, "amin")


def in_ball(rows: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Rows longer than 1 drawn back to length 1."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1)


@torch.no_grad()
def update_atoms(
    atoms: Float[Tensor, "atoms dim"],
    gram: Float[Tensor, "atoms atoms"],
    cross: Float[Tensor, "atoms dim"],
) -> Float[Tensor, "atoms dim"]:
    """One round of block coordinate descent on |Y - S D|^2 over the rows of D, each of length at most 1.

    Row k becomes (Y - sum_j!=k s_j d_j)^T s_k / |s_k|^2, drawn back onto the unit ball where it is longer:
    the best there is for the others as they are. Codes are not rescaled. Unused atoms stay.

    Args:
        atoms: D.
        gram: S^T S of the codes S (a row a sample).
        cross: S^T Y.
    """
    atoms, used = atoms.clone(), gram.diagonal() > UNUSED
    for k in range(len(atoms)):
        best = in_ball(atoms[k] + (cross[k] - gram[k] @ atoms) / gram[k, k].clamp(min=UNUSED))
        atoms[k] = torch.where(used[k], best, atoms[k])
    return atoms
