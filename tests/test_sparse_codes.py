"""Sparse codes and dictionary updates against scikit-learn, optimality conditions and loops."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import Lasso

from pretask.objectives.dictionary import CodeBank, each_once, in_ball, update_atoms
from pretask.pretexts.homotopy import combination
from pretask.pretexts.sparse_codes import ridge_solver, soft_threshold, sparse_codes


def unit(*shape, seed=0):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def digits(count):
    rows = torch.from_numpy(load_digits().data[:count])
    return rows / rows.norm(dim=1, keepdim=True)


def violation(left, codes, penalty):
    """How far codes are from optimal: products of atoms with what is left must be within the penalty, and at
    it, with the code's sign, where the code is not 0."""
    inside = (left.abs() - penalty).clamp(min=0).max()
    active = ((left - penalty * codes.sign()) * (codes != 0)).abs().max()
    return float(max(inside, active))


def test_soft_threshold():
    x = torch.tensor([-3.0, -0.5, 0.0, 0.2, 1.5])
    assert torch.equal(soft_threshold(x, 0.5), torch.tensor([-2.5, 0.0, 0.0, 0.0, 1.0]))


@pytest.mark.parametrize("atoms", [5, 12, 30])
def test_ridge_solver_inverts(atoms):
    """With fewer atoms than dimensions and with more."""
    dictionary, rows = unit(atoms, 12), unit(7, atoms, seed=1)
    inverse = torch.linalg.inv(dictionary @ dictionary.T + 0.3 * torch.eye(atoms))
    torch.testing.assert_close(ridge_solver(dictionary, 0.3)(rows), rows @ inverse)


class TestADMM:
    def test_three_steps_by_hand(self):
        """The updates as they stand in the paper's form, samples as columns."""
        b, x, epsilon, rho = unit(4, 6).T.numpy(), unit(3, 6, seed=1).T.numpy(), 0.1, 0.7
        z = t = np.zeros((4, 3))
        for _ in range(3):
            s = np.linalg.solve(b.T @ b + rho * np.eye(4), b.T @ x + rho * z - t)
            moved = s + t / rho
            z = np.sign(moved) * np.maximum(np.abs(moved) - epsilon / rho, 0)
            t = t + rho * (s - z)
        found = sparse_codes(torch.from_numpy(x.T.copy()), torch.from_numpy(b.T.copy()), epsilon, rho, 3)
        np.testing.assert_allclose(found.numpy(), z.T, atol=1e-12)

    @pytest.mark.parametrize("penalty", [0.01, 0.05, 0.2])
    @pytest.mark.parametrize("atoms", [40, 100])
    def test_it_arrives_at_scikit_learns(self, penalty, atoms):
        """|y - s D|^2 + 2 penalty |s|_1 is twice scikit-learn's objective with alpha = penalty."""
        samples = digits(160)
        dictionary, target = samples[:atoms], samples[-20:]
        expected = sparse_encode(
            target.numpy(), dictionary.numpy(), algorithm="lasso_cd", alpha=penalty, max_iter=100_000
        )

        def cost(codes):
            return float((target - codes @ dictionary).square().sum() + 2 * penalty * codes.abs().sum())

        found = sparse_codes(target, dictionary, penalty, rho=0.3, iterations=3000)
        assert abs(cost(found) - cost(torch.from_numpy(expected))) < 1e-7
        left = (target - found @ dictionary) @ dictionary.T
        assert violation(left, found, penalty) < 1e-4
        assert (found == 0).double().mean() > 0.2, "zeros are exact"

    def test_start_is_the_way_not_the_goal(self):
        samples = digits(60)
        dictionary, target = samples[:30], samples[30:]
        found = [
            sparse_codes(target, dictionary, 0.1, 1.0, 2000, start)
            for start in (None, torch.ones(30, 30, dtype=torch.float64))
        ]
        torch.testing.assert_close(*found, atol=1e-5, rtol=0)
        torch.testing.assert_close(sparse_codes(target, dictionary, 0.1, 1.0, 5, found[0]), found[0])

    def test_autocast_changes_nothing(self):
        dictionary, target = unit(20, 10).float(), unit(5, 10, seed=1).float()
        expected = sparse_codes(target, dictionary, 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(sparse_codes(target, dictionary, 0.1), expected)


class TestHomotopy:
    @pytest.mark.parametrize("penalty", [0.1, 0.4])
    def test_scikit_learn_finds_the_same(self, penalty):
        samples = digits(120)
        found = combination(samples, samples, penalty, torch.arange(120))
        assert not found.diagonal().any()
        for i in range(0, 120, 30):
            others = [j for j in range(120) if j != i]
            lasso = Lasso(penalty / 2 / 64, fit_intercept=False, tol=1e-12, max_iter=1_000_000)
            lasso.fit(samples[others].T.numpy(), samples[i].numpy())
            np.testing.assert_allclose(found[i, others].numpy(), lasso.coef_, atol=1e-6)

    @pytest.mark.parametrize("case", range(30))
    def test_optimality(self, case):
        """Few samples and many, few dimensions and many, weak penalties, equal and opposite samples."""
        rng = np.random.default_rng(case)
        count, dim, penalty = int(rng.integers(2, 60)), int(rng.integers(1, 80)), 10 ** -rng.uniform(0, 4)
        samples = unit(count, dim, seed=case)
        if case % 3 == 0 and count > 8:
            samples[5], samples[7], samples[6] = samples[3], samples[3], -samples[3]
        found = combination(samples, samples, penalty, torch.arange(count))
        left = ((samples - found @ samples) @ samples.T).fill_diagonal_(0)
        assert violation(left, found, penalty / 2) < 1e-9

    def test_a_sample_among_the_parts_is_itself(self):
        samples = digits(50)
        found = combination(samples[:5], samples, 0.1)
        assert found[:, :5].argmax(1).tolist() == [0, 1, 2, 3, 4]
        torch.testing.assert_close(found[:, :5].diagonal(), torch.full((5,), 0.95, dtype=torch.float64))

    def test_a_strong_penalty_leaves_nothing(self):
        samples = digits(20)
        assert not combination(samples, samples, 2.0, torch.arange(20)).any()

    def test_precision_of_the_samples_is_kept(self):
        samples = digits(30)
        found = combination(samples.float(), samples.float(), 0.1, torch.arange(30))
        assert found.dtype == torch.float32
        expected = combination(samples, samples, 0.1, torch.arange(30))
        torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)


class TestAtoms:
    def naive(self, atoms, codes, target):
        """Column by column as in the paper, with the residual written out."""
        atoms = atoms.clone()
        for k in range(len(atoms)):
            others = [j for j in range(len(atoms)) if j != k]
            rest = target - codes[:, others] @ atoms[others]
            best = codes[:, k] @ rest / (codes[:, k] @ codes[:, k])
            atoms[k] = best / max(1.0, float(best.norm()))
        return atoms

    def test_against_the_residual(self):
        generator = torch.Generator().manual_seed(0)
        codes = torch.randn(40, 6, generator=generator, dtype=torch.float64)
        for size in (0.1, 10.0):  # atoms inside the ball, and on it
            target = size * torch.randn(40, 5, generator=generator, dtype=torch.float64)
            atoms = unit(6, 5)
            found = update_atoms(atoms, codes.T @ codes, codes.T @ target)
            torch.testing.assert_close(found, self.naive(atoms, codes, target))
            assert (found.norm(dim=1) <= 1 + 1e-12).all()
        assert torch.allclose(found.norm(dim=1), torch.ones(6, dtype=torch.float64))

    def test_the_objective_never_rises(self):
        generator = torch.Generator().manual_seed(1)
        codes = torch.randn(40, 8, generator=generator, dtype=torch.float64)
        target, atoms = torch.randn(40, 5, generator=generator, dtype=torch.float64), unit(8, 5)
        costs = []
        for _ in range(10):
            costs.append(float((target - codes @ atoms).square().sum()))
            atoms = update_atoms(atoms, codes.T @ codes, codes.T @ target)
        assert all(later <= earlier + 1e-9 for earlier, later in zip(costs, costs[1:], strict=False))
        assert costs[-1] < 0.9 * costs[0]

    def test_unused_atoms_stay(self):
        codes = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        codes[:, 1] = 0
        gram, atoms = codes.T @ codes, unit(3, 4)
        assert torch.equal(update_atoms(atoms, gram, codes.T @ unit(10, 4))[1], atoms[1])


class TestBank:
    def test_sums_are_those_of_the_last_codes(self):
        generator = torch.Generator().manual_seed(0)
        targets = torch.randn(20, 4, generator=generator, dtype=torch.float64)
        codes = torch.randn(20, 6, generator=generator, dtype=torch.float64)
        bank = CodeBank(codes, targets)
        for rows in ([0, 3, 5], [5, 19], [0]):
            new = torch.randn(len(rows), 6, generator=generator, dtype=torch.float64)
            codes[rows] = new
            bank.replace(torch.tensor(rows), new, targets[rows])
        torch.testing.assert_close(bank.codes, codes)
        torch.testing.assert_close(bank.gram, codes.T @ codes)
        torch.testing.assert_close(bank.cross, codes.T @ targets)

    def test_idle_atoms_have_no_sums(self):
        codes = torch.ones(4, 3)
        bank = CodeBank(codes, torch.ones(4, 2))
        assert len(bank.idle()) == 0 and bank.gram.all()
        codes[:, 1] = 0
        bank.codes.copy_(codes)  # the sums still hold what rounding would leave
        assert bank.idle().tolist() == [1]
        assert not bank.gram[1].any() and not bank.gram[:, 1].any() and not bank.cross[1].any()
        assert bank.gram[0, 2] == 4

    def test_each_once(self):
        different, first = each_once(torch.tensor([7, 2, 7, 0, 2]))
        assert different.tolist() == [0, 2, 7] and first.tolist() == [3, 1, 0]

    def test_in_ball(self):
        rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
        torch.testing.assert_close(in_ball(rows), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
