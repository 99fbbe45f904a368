"""A hidden part, and its refinement by labels: what is shown, what is asked, and what labels change."""

import pytest
import torch

import tiny
from pretask import catalog
from pretask.errors import UsageError
from pretask.methods.image.predict_part import PredictPart, dividing
from pretask.methods.image.refined_part import RefinedPart
from pretask.objectives.independence import conditional_covariance
from pretask.pretexts.parts import PARTS, only
from pretask.task import Step

PLAIN, REFINED = (catalog.find(slug) for slug in ("predict-part", "refined-part"))


def batch(count=8):
    return tiny.BATCHES["image"](count)


class TestPredictPart:
    @pytest.mark.parametrize("hidden", PARTS)
    def test_the_hidden_part_is_not_seen(self, hidden):
        task = PredictPart(tiny.encoder("grid"), hidden, cells=8)
        data = batch(2)
        image = task.seen(data)
        changed = image.clone()
        mask = task.enlarged(task.mask)
        assert mask.shape == image.shape[2:] and 0 < int(mask.sum()) < mask.numel()
        changed[:, :, mask] = 0.123
        assert torch.equal(task.shown(changed), task.shown(image))
        assert not torch.equal(task.target(changed), task.target(image))
        changed = image.clone()
        changed[:, :, ~mask] = 0.123
        torch.testing.assert_close(task.target(changed), task.target(image))
        assert torch.equal(task.shown(image)[:, :, ~mask], image[:, :, ~mask])
        colour = task.encoder.mean.expand(-1, int(mask.sum()), 1)[..., 0]
        torch.testing.assert_close(task.shown(image)[0][:, mask], colour)

    def test_the_loss_by_loops(self):
        task = PredictPart(tiny.encoder("grid"), "right", cells=4)
        data = batch(3)
        image, side = task.seen(data), task.encoder.image_size // 4
        said = task.head(task.encoder(task.shown(image)).pooled).detach()
        total = count = 0
        for n in range(3):
            k = 0
            for c in range(3):
                for row in range(4):
                    for column in (2, 3):
                        cell = task.encoder.normalise(image)[
                            n, c, row * side : (row + 1) * side, column * side : (column + 1) * side
                        ]
                        total += float((said[n, k] - cell.mean()) ** 2)
                        k, count = k + 1, count + 1
        assert task.loss(data, Step.at())["regression"].item() == pytest.approx(total / count, rel=1e-4)

    def test_the_true_answer_fills_the_picture(self):
        task = PredictPart(tiny.encoder("grid"), "left", cells=tiny.SIDE)
        image = task.seen(batch(2))
        torch.testing.assert_close(task.filled(image, task.target(image)), image, atol=1e-5, rtol=0)

    def test_cells_divide_the_picture(self):
        assert [dividing(*pair) for pair in ((32, 16), (28, 16), (17, 16), (8, 16), (224, 16))] == [
            16, 14, 17, 8, 16,
        ]  # fmt: skip

    def test_the_question_is_the_split(self):
        task = PredictPart(tiny.encoder("grid"))
        data = batch(4)
        question = task.question(data, Step.at())
        image = task.seen(data)
        assert torch.equal(question.shown, task.shown(image))
        assert torch.equal(question.answer, task.target(image))


class TestRefinedPart:
    def test_kept_directions_violate_least(self):
        task = tiny.task(REFINED)
        data = batch(64)
        image = task.seen(data)
        task.keep, task.components = 4, 20
        task.matrix.resize_(4, task.matrix.shape[1])
        task.labelled = 64
        cells = task.means(image).double()
        labels = torch.arange(64) % 4
        task.refine(cells, labels)
        x1, asked = only(cells, ~task.mask), task.target(image).double()
        assert float(asked.mean(0).abs().max()) < 1e-3
        torch.testing.assert_close(
            asked.T @ asked / 64, torch.eye(4, dtype=torch.float64), atol=1e-3, rtol=0
        )  # orthonormal directions of whitened components: uncorrelated, of variance 1
        left = float(conditional_covariance(x1, asked, labels).norm())
        z = only(cells, task.mask)
        z = z - z.mean(0)
        u, _, _ = torch.linalg.svd(z, full_matrices=False)
        whole = u[:, :20] * 64**0.5
        for seed in range(10):
            other = torch.linalg.qr(
                torch.randn(20, 4, generator=torch.Generator().manual_seed(seed)).double()
            ).Q
            assert left <= float(conditional_covariance(x1, whole @ other, labels).norm()) + 1e-9

    def test_only_some_labels_choose(self):
        data = batch(64)
        found = []
        for flipped in (False, True):
            task = tiny.task(REFINED)
            task.labelled = 10
            generator = torch.Generator().manual_seed(task.seed)
            read = torch.randperm(64, generator=generator)[:10]
            label = torch.arange(64) % 4
            if flipped:
                others = torch.ones(64, dtype=torch.bool)
                others[read] = False
                label[others] = 3 - label[others]
            task.prepare([{**data, "label": label}], 64)
            found.append(task.matrix.clone())
        assert torch.equal(*found)
        task.prepare([{**data, "label": 3 - torch.arange(64) % 4 // 2}], 64)
        assert not torch.equal(task.matrix, found[0])

    def test_the_loss_reads_no_label(self):
        task, data = tiny.task(REFINED), batch()
        expected = task.loss(data, Step.at())["regression"]
        bare = {key: value for key, value in data.items() if key != "label"}
        assert torch.equal(task.loss(bare, Step.at())["regression"], expected)

    def test_order_does_not_matter(self):
        task, data = tiny.task(REFINED), batch(32)
        task.prepare([data], 32)
        first = task.matrix.clone()
        turned = {key: value.flip(0) for key, value in data.items()}
        task.prepare([turned], 32)
        assert torch.equal(task.matrix, first)

    def test_few_samples_leave_answers_at_0(self):
        task = tiny.task(REFINED)  # 16 samples: 15 components at most
        assert int(task.matrix.any(1).sum()) <= 15 and task.matrix.isfinite().all()
        assert task.chance(8)["regression"] == pytest.approx(float(task.matrix.any(1).float().mean()))

    def test_an_answer_is_shown_as_a_part(self):
        task, data = tiny.task(REFINED), batch(4)
        image = task.seen(data)
        target = task.target(image)
        again = (task.part_of(target) - task.centre) @ task.matrix.T
        torch.testing.assert_close(again, target, atol=1e-3, rtol=1e-3)

    def test_errors(self):
        data = {key: value for key, value in batch().items() if key != "label"}
        with pytest.raises(UsageError, match="needs some labels"):
            tiny.task(REFINED).prepare([data], 8)
        with pytest.raises(UsageError, match="none of these samples"):
            tiny.task(REFINED).prepare([{**batch(), "label": torch.full((8,), -1)}], 8)
        with pytest.raises(UsageError, match="keep=9"):
            RefinedPart(tiny.encoder("grid"), components=8, keep=9)
