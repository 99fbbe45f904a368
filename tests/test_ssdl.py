"""SSDL against its alternation written out with samples as columns, on real digits."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from sklearn.decomposition import sparse_encode

from pretask.data import open_data
from pretask.encoders import build_encoder, load_encoder, save_encoder
from pretask.encoders.dictionary import SparseDictionary
from pretask.errors import UsageError
from pretask.export import export
from pretask.methods.image.ssdl import SSDL, few
from pretask.task import Step
from pretask.training.loop import fit
from pretask.training.plan import make_plan

DIGITS = load_digits()
IMAGES = torch.from_numpy(DIGITS.images).float()[:, None] / 16
LABELS = torch.from_numpy(DIGITS.target)
COUNT = 120


def digits(start=0, stop=COUNT, label=True):
    batch = {"image": IMAGES[start:stop], "index": torch.arange(stop - start)}
    return batch | {"label": LABELS[start:stop]} if label else batch


def dictionary(atoms=30, **inputs):
    return build_encoder(
        f"sparse_dictionary:atoms={atoms},side=8", image_size=8, in_chans=1, seed=0, **inputs
    )


def make(batch=None, encoder=None, seed=0, **options):
    torch.manual_seed(seed)
    task = SSDL(encoder or dictionary(), **{"labelled_per_class": 3, **options})
    task.prepare([batch or digits()], COUNT)
    return task


@pytest.fixture(scope="module")
def prepared():
    return make()


@pytest.fixture
def task(prepared):
    return copy.deepcopy(prepared)


def step(task, batch=None, index=0):
    here = Step.at(index, 20, 1)
    losses = task.loss(batch or digits(), here)
    task.after_step(here)
    return losses


class TestAlternation:
    def naive(self, task, rounds):
        """min |X - BS|^2 + lambda |P - WS|^2 + omega |Q - MS|^2 + 2 epsilon |S|_1, one column after the other."""
        lam, om, eps, rho = task.label_weight, task.code_weight, task.model.penalty, task.rho
        x = task.represent(digits()).double().numpy().T
        p = task.soft.double().numpy().T
        q = np.stack([p[k * 10 // 30] for k in range(30)])
        b, w, m, s = (
            part.detach().double().numpy().T.copy()
            for part in (task.model.atoms, task.reader, task.mixer, task.bank.codes)
        )
        costs = []
        for _ in range(rounds):
            gram = b.T @ b + lam * w.T @ w + om * m.T @ m
            fit = b.T @ x + lam * w.T @ p + om * m.T @ q
            z, t = s, np.clip(fit - gram @ s, -eps, eps)
            for _ in range(task.iterations):
                inner = np.linalg.solve(gram + rho * np.eye(30), fit + rho * z - t)
                moved = inner + t / rho
                z = np.sign(moved) * np.maximum(np.abs(moved) - eps / rho, 0)
                t = t + rho * (inner - z)
            s = z
            terms = [((y - d @ s) ** 2).sum() for y, d in ((x, b), (p, w), (q, m))]
            costs.append(terms[0] + lam * terms[1] + om * terms[2] + 2 * eps * np.abs(s).sum())
            for y, d in ((x, b), (p, w), (q, m)):
                for k in range(30):
                    if not s[k].any():
                        continue
                    rest = y - d @ s + np.outer(d[:, k], s[k])
                    best = rest @ s[k] / (s[k] @ s[k])
                    d[:, k] = best / max(1.0, np.linalg.norm(best))
        return costs, b, w, m, s

    def test_rounds_over_all_samples_are_the_papers(self, task):
        costs, b, w, m, s = self.naive(task, 3)
        found = [float(task.total(step(task, index=number))) * COUNT for number in range(3)]
        np.testing.assert_allclose(found, costs, rtol=1e-4)
        for ours, theirs in ((task.model.atoms, b), (task.reader, w), (task.mixer, m), (task.bank.codes, s)):
            np.testing.assert_allclose(ours.numpy(), theirs.T, atol=2e-3)

    def test_the_objective_falls(self, task):
        totals = [float(task.total(step(task, index=number))) for number in range(15)]
        assert all(later <= earlier * (1 + 1e-3) for earlier, later in zip(totals, totals[1:], strict=False))
        assert totals[-1] < 0.95 * totals[0]

    def test_no_row_is_longer_than_1(self, task):
        for number in range(3):
            step(task, index=number)
        for rows in (task.model.atoms, task.reader, task.mixer):
            assert (rows.norm(dim=1) <= 1 + 1e-5).all()

    def test_parts_of_the_samples_replace_their_own_codes(self, task):
        """Whatever comes, even a sample twice: sums are those of the last codes of all."""
        every = digits()
        for rows in ([0, 1, 2, 3], [2, 3, 50, 119, 2], [2]):
            step(task, {key: value[rows] for key, value in every.items()})
        bank, targets = task.bank, torch.cat(task.targets(task.represent(every), task.soft), 1)
        torch.testing.assert_close(bank.gram, bank.codes.T @ bank.codes, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(bank.cross, bank.codes.T @ targets, atol=1e-4, rtol=1e-4)

    def test_an_unused_atom_becomes_the_worst_sample(self, task):
        task.bank.codes[:, [4, 7]] = 0
        samples = task.represent(digits())
        error = torch.rand(COUNT, generator=torch.Generator().manual_seed(0))
        first, second = error.topk(2).indices.tolist()
        before = task.model.atoms.clone()
        task.revive(task.targets(samples, task.soft), error)
        assert torch.equal(task.model.atoms[4], samples[first]) and torch.equal(
            task.model.atoms[7], samples[second]
        )
        assert torch.equal(task.model.atoms[:4], before[:4])
        task.descend()
        assert torch.equal(task.model.atoms[4], samples[first]), "nothing moves it until it is used"

    def test_no_gradient_anywhere(self, task):
        losses = task.loss(digits(), Step.at())
        assert not any(value.requires_grad for value in losses.values())
        assert not any(parameter.requires_grad for parameter in task.parameters())


class TestPretext:
    def test_soft_labels_are_distributions_and_stay_soft(self, task):
        torch.testing.assert_close(task.soft.sum(1), torch.ones(COUNT))
        certain = (task.soft.amax(1) == 1).sum()
        assert certain == 30, "three labels a class, and nothing else is sure"
        assert task.soft.amax(1).min() < 0.6, "even what is hardly known takes part as it is"
        samples, soft, code_targets = task.targets(task.represent(digits()), task.soft)
        assert torch.equal(soft, task.soft)
        for atom in (0, 14, 29):
            assert torch.equal(code_targets[:, atom], task.soft[:, atom * 10 // 30])

    def test_they_name_digits(self, task):
        unknown = task.soft.amax(1) < 1
        assert (task.soft.argmax(1) == LABELS[:COUNT])[unknown].float().mean() > 0.7

    def test_only_a_few_labels_are_read(self, task):
        generator = torch.Generator().manual_seed(task.seed)
        told = few(LABELS[:COUNT], 3, generator)
        assert LABELS[:COUNT][told].bincount().tolist() == [3] * 10
        labels = LABELS[:COUNT].clone()
        labels[~told] = -1
        again = make({**digits(), "label": labels})
        # the drawing depends on which samples are labelled: only those few are left to draw from
        assert torch.equal(again.soft, task.soft)

    def test_seeds_read_others(self, task):
        assert not torch.equal(make(seed=1).soft, task.soft)

    def test_no_label_is_read_by_default(self):
        blind, other = (make(batch, labelled_per_class=0) for batch in (digits(label=False), digits()))
        for name, value in blind.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
        given = {**digits(), "label": LABELS[:COUNT].flip(0)}
        assert float(blind.total(blind.loss(given, Step.at()))) == float(
            other.total(other.loss(digits(), Step.at()))
        )

    @pytest.mark.parametrize("clustering", ["spectral", "kmeans"])
    def test_without_labels_clusters_are_digits(self, clustering):
        task = make(digits(label=False), labelled_per_class=0, clustering=clustering)
        table = torch.zeros(10, 10, dtype=torch.long)
        found = task.soft.argmax(1)
        table.index_put_((found, LABELS[:COUNT]), torch.tensor(1), accumulate=True)
        rows, columns = linear_sum_assignment(-table.numpy())
        assert table[rows, columns].sum() / COUNT > 0.5, "matched as well as can be; chance is near 0.2"
        assert task.soft.amax(1).max() < 1, "clusters are no truth"

    def test_samples_outside_the_hypergraph_look_into_it(self):
        task = make(graph_samples=60)
        assert len(task.inside) == 60
        torch.testing.assert_close(task.soft.sum(1), torch.ones(COUNT))
        outside = [row for row in range(COUNT) if row not in task.inside.tolist()]
        torch.testing.assert_close(task.soft[outside], task.guess(task.represent(digits())[outside]))
        assert (task.soft.argmax(1) == LABELS[:COUNT])[outside].float().mean() > 0.5

    @pytest.mark.parametrize(
        "options",
        [{"hypergraph": "nearest"}, {"laplacian": "eigenvectors"}, {"shared": True}, {"p": 2.0}, {"p": 1.3}],
        ids=str,
    )
    def test_other_ways(self, options, task):
        other = make(**options)
        assert not torch.equal(other.soft, task.soft)
        assert (other.soft.argmax(1) == LABELS[:COUNT]).float().mean() > 0.6
        step(other)

    def test_of_a_sample_nothing_is_known_of_nothing_is_learned(self, task):
        task.soft[5] = 0
        before = task.loss(digits(), Step.at())
        assert all(value.isfinite() for value in before.values())
        task.after_step(Step.at())
        assert not task.bank.codes[5].any() and task.bank.codes[6].any()


class TestAnswer:
    def test_codes_are_scikit_learns(self, task):
        for number in range(3):
            step(task, index=number)
        samples = task.represent(digits(200, 230))
        atoms = task.model.atoms.double().numpy()
        expected = sparse_encode(
            samples.double().numpy(), atoms, algorithm="lasso_cd", alpha=task.model.penalty, max_iter=100_000
        )
        task.model.iterations = 1000
        np.testing.assert_allclose(task.model.code(samples).numpy(), expected, atol=2e-3)
        pooled = task.encoder.eval()(IMAGES[200:230]).pooled
        torch.testing.assert_close(pooled, task.model.code(samples))

    def test_it_names_digits_it_has_not_seen(self, task):
        for number in range(10):
            step(task, index=number)
        samples = task.represent(digits(900, 1100))
        right = (task.answer(samples).argmax(1) == LABELS[900:1100]).float().mean()
        assert right > 0.55, "labels of 30 digits, chance 0.1"


class TestEncoder:
    def test_weights_round_trip(self, task, tmp_path):
        step(task)
        save_encoder(task.encoder, tmp_path / "encoder.safetensors")
        back = load_encoder(tmp_path / "encoder.safetensors")
        assert back.name == "sparse_dictionary:atoms=30,side=8" and back.dim == 30
        assert torch.equal(back.eval()(IMAGES[:4]).pooled, task.encoder.eval()(IMAGES[:4]).pooled)

    @pytest.mark.parametrize("format", ["torch", "onnx"])
    def test_export(self, tmp_path, format):
        """Coding is nothing but products and thresholds (a few iterations of them, for speed)."""
        name = "sparse_dictionary:atoms=30,side=8,iterations=5"
        encoder = build_encoder(name, image_size=8, in_chans=1, seed=0)
        save_encoder(encoder, tmp_path / "encoder.safetensors")
        expected = encoder.eval()(IMAGES[:3]).pooled
        folder = export(tmp_path / "encoder.safetensors", tmp_path / "out", format)
        if format == "torch":
            found = torch.export.load(folder / "encoder.pt2").module()(IMAGES[:3])
        else:
            session = pytest.importorskip("onnxruntime").InferenceSession(folder / "encoder.onnx")
            found = torch.from_numpy(session.run(None, {"image": IMAGES[:3].numpy()})[0])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    def test_timm_does_not_know_it(self, task, tmp_path):
        save_encoder(task.encoder, tmp_path / "encoder.safetensors")
        with pytest.raises(UsageError, match="safetensors or onnx or torch"):
            export(tmp_path / "encoder.safetensors", tmp_path / "out", "timm")

    def test_samples_have_length_1(self):
        model = SparseDictionary(in_chans=3, atoms=5, side=4)
        lengths = model.represent(torch.rand(3, 3, 9, 9)).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(3))

    def test_features_of_a_network(self):
        """The front is frozen, normalises as trained networks do, and is kept with the atoms."""
        name = "sparse_dictionary:atoms=12,front=resnet10t"
        encoder = build_encoder(name, image_size=32, in_chans=3, seed=0)
        assert encoder.mean.flatten().tolist() != [0.0, 0.0, 0.0]
        assert encoder.model.atoms.shape == (12, encoder.model.front.num_features)
        encoder.train()
        image = torch.rand(4, 3, 32, 32)
        torch.testing.assert_close(encoder(image).pooled[:2], encoder(image[:2]).pooled)
        assert any(key.startswith("front.") for key in encoder.model.state_dict())
        batch = {"image": image.repeat(3, 1, 1, 1) * torch.rand(12, 1, 1, 1), "index": torch.arange(12)}
        task = SSDL(encoder, classes=3, neighbours=4)
        task.prepare([batch], 12)
        front = {key: value.clone() for key, value in encoder.model.front.state_dict().items()}
        step(task, batch)
        assert all(torch.equal(value, encoder.model.front.state_dict()[key]) for key, value in front.items())


class TestUsage:
    def test_another_encoder_is_refused(self):
        with pytest.raises(UsageError, match="sparse_dictionary"):
            SSDL(build_encoder("resnet10t", image_size=32))

    @pytest.mark.parametrize("p", [1.0, 2.5])
    def test_p(self, p):
        with pytest.raises(UsageError, match="above 1 and at most 2"):
            SSDL(dictionary(), p=p)

    def test_labels_that_are_not_there(self):
        with pytest.raises(UsageError, match="label"):
            make(digits(label=False))
        with pytest.raises(UsageError, match="labelled_per_class"):
            make({**digits(), "label": torch.full((COUNT,), -1)})

    def test_too_few(self):
        with pytest.raises(UsageError, match="sparse_dictionary:atoms=100"):
            make(encoder=dictionary(atoms=8))
        with pytest.raises(UsageError, match="known number"):
            SSDL(dictionary()).prepare([digits()], 0)
        task = SSDL(dictionary())
        with pytest.raises(UsageError, match="10 clusters"):
            task.prepare([digits(0, 5)], 5)
        with pytest.raises(UsageError, match="prepare"):
            task.loss(digits(), Step.at())

    def test_a_run(self, tmp_path):
        """The loop knows that nothing here has a gradient."""
        data = open_data("digits").subset(torch.arange(100))
        size, chans = data.inputs["image_size"], data.inputs["in_chans"]
        encoder = build_encoder("sparse_dictionary:atoms=20,side=8", image_size=size, in_chans=chans, seed=0)
        task = SSDL(encoder, labelled_per_class=2)
        before = encoder.model.atoms.clone()
        fit(task, data, make_plan(task.recipe, 100, batch_size=50, max_steps=4), tmp_path / "run", seed=0)
        assert not torch.equal(before, encoder.model.atoms)
