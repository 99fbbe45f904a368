"""VoCo: boxes and overlaps against counted voxels, changes against numpy, losses against loops, when the teacher
follows."""

import math

import numpy as np
import pytest
import torch

import tiny
from pretask.encoders.volume import build
from pretask.errors import UsageError
from pretask.methods.volume.voco import VoCo
from pretask.objectives.overlap import likeness, repulsion, share_losses
from pretask.pretexts.crops3d import (
    Changes,
    Drawn,
    change,
    cut,
    draw_changes,
    draw_starts,
    grid_starts,
    outlined,
    overlap,
    tinted,
    upright,
)
from pretask.reports.panels import volume as drawing
from pretask.task import Step
from pretask.training.optimisers import make_optimiser, set_rates
from pretask.training.plan import make_plan


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def task(name: str = "resnet:width=8", size=(16, 16, 8), **options) -> VoCo:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VoCo(build(name, size=size), **options)


class TestBoxes:
    def test_the_papers_grid(self):
        """4 x 4 boxes of 96 in 384 x 384 x 96, centres at (i + 1/2) 96, x slower than y."""
        starts, crop = grid_starts((384, 384, 96), (4, 4, 1))
        centres = [((i + 0.5) * 96, (j + 0.5) * 96, 48) for i in range(4) for j in range(4)]
        assert crop == (96, 96, 96) and (starts + 48).tolist() == [
            [int(c) for c in centre] for centre in centres
        ]

    @pytest.mark.parametrize(
        ("size", "grid"), [((8, 8, 4), (4, 4, 1)), ((6, 9, 8), (2, 3, 2)), ((7, 5, 3), (3, 1, 1))]
    )
    def test_boxes_tile_and_overlaps_are_counted(self, size, grid):
        bases, crop = grid_starts(size, grid)
        count = torch.zeros(size)
        for d, h, w in bases.tolist():
            count[d : d + crop[0], h : h + crop[1], w : w + crop[2]] += 1
        assert count.max() == 1 and count.sum() == len(bases) * math.prod(crop)
        starts = draw_starts(size, grid, 3, 5, generator())
        share = overlap(starts, bases, crop)
        for row in range(3):
            for k in range(5):
                mine = set(voxels(starts[row, k].tolist(), crop))
                for n, base in enumerate(bases.tolist()):
                    expected = len(mine & set(voxels(base, crop))) / len(mine)
                    assert float(share[row, k, n]) == pytest.approx(expected)
        assert torch.allclose(share.sum(-1), torch.ones(3, 5)), "no part of a crop lies outside of the grid"
        assert (share > 0).sum(-1).max() <= 2 ** sum(cells > 1 for cells in grid)

    def test_where_crops_are_drawn(self):
        starts = draw_starts((384, 384, 96), (4, 4, 1), 4000, 2, generator()).flatten(0, 1)
        assert set(starts[:, 2].tolist()) == {0}, "z is not localised"
        for axis in range(2):  # centres are whole numbers from 48 to 335
            assert starts[:, axis].min() == 0 and starts[:, axis].max() == 287
            assert abs(float(starts[:, axis].float().mean()) - 143.5) < 3
        assert not torch.equal(starts[:, 0], starts[:, 1])

    def test_crops_are_the_voxels_there_scan_by_scan(self):
        volume, crop = noise(2, 3, 8, 9, 7), (4, 4, 4)
        starts = torch.tensor([[[0, 0, 0], [4, 5, 3]], [[1, 2, 3], [2, 0, 1]]])
        found = cut(volume, starts, crop, 4)
        for row in range(2):
            for k in range(2):
                d, h, w = starts[row, k].tolist()
                assert torch.equal(found[2 * row + k], volume[row, :, d : d + 4, h : h + 4, w : w + 4])

    def test_stretching_keeps_corners_and_ramps(self):
        ramp = torch.arange(6).double().view(1, 1, 6, 1, 1).expand(1, 1, 6, 4, 5)
        found = cut(ramp, torch.zeros(1, 1, 3).long(), (6, 4, 5), 11)
        assert torch.allclose(found[0, 0, :, 3, 7], torch.linspace(0, 5, 11).double())


class TestChanges:
    def test_against_numpy(self):
        crops = noise(6, 2, 4, 4, 4)
        flip = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
        turns, shift = torch.tensor([0, 1, 2, 3, 1, 0]), torch.tensor([0.0, 0.05, -0.1, 0, 0, 0.1])
        found = change(crops, Drawn(flip, turns, shift))
        for row in range(6):
            expected = crops[row].numpy()
            for axis in range(3):
                expected = np.flip(expected, axis + 1) if flip[row, axis] else expected
            expected = np.rot90(expected, int(turns[row]), (1, 2)) + shift[row].double().item()
            assert np.allclose(found[row], expected)

    def test_how_often(self):
        flip, turns, shift = draw_changes(Changes(), 2000, 5, generator())
        assert torch.allclose(flip.float().mean(0), torch.tensor(0.2), atol=0.02)
        assert torch.allclose(
            turns.bincount() / 10_000, torch.tensor([0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3]), atol=0.02
        )
        assert float((shift != 0).float().mean()) == pytest.approx(0.1, abs=0.02)
        assert 0.09 < shift.max() <= 0.1 and -0.1 <= shift.min() < -0.09


class TestLosses:
    def test_against_loops(self):
        x, bases = noise(2, 3, 5), noise(2, 4, 5, seed=1)
        told = likeness(x, bases)
        share = overlap(
            draw_starts((8, 8, 4), (2, 2, 1), 2, 3, generator()), *grid_starts((8, 8, 4), (2, 2, 1))
        )
        share = share.double()
        share[0, 0] = torch.tensor([0.0, 1.0, 0, 0])
        there, none = share_losses(told, share)
        for row in range(2):
            positive = weight = negative = zeros = 0.0
            for k in range(3):
                for n in range(4):
                    a, b, y = x[row, k], bases[row, n], float(share[row, k, n])
                    cos = max(float(a @ b / (a.norm() * b.norm())), 0.0)
                    assert float(told[row, k, n]) == pytest.approx(cos)
                    positive -= y * math.log(1 - abs(y - cos) + 1e-6)
                    weight += y
                    if y == 0:
                        negative, zeros = negative + cos**2, zeros + 1
            assert float(there[row]) == pytest.approx(positive / (weight + 1e-6))
            assert float(none[row]) == pytest.approx(negative / zeros, rel=1e-5)

    def test_the_truth_costs_nothing_and_no_zero_nothing(self):
        share = torch.tensor([[[0.25, 0.75]]]).double()
        there, none = share_losses(share, share)
        assert float(there) == pytest.approx(0, abs=1e-5) and float(none) == 0

    def test_repulsion_stops_at_the_second_of_each_pair(self):
        bases = noise(1, 4, 5).requires_grad_()
        found = repulsion(bases)
        own = bases.detach()[0]
        total, parts = 0.0, []
        for i in range(4):
            leaf = own[i].clone().requires_grad_()
            pairs = [torch.relu(torch.cosine_similarity(leaf, own[j], dim=0)) ** 2 for j in range(i + 1, 4)]
            value = torch.stack(pairs).sum() / 6 if pairs else leaf.sum() * 0
            value.backward()
            parts.append(leaf.grad)
            total += float(value.detach())
        found.sum().backward()
        assert float(found.detach()) == pytest.approx(total)
        assert torch.allclose(bases.grad[0], torch.stack(parts)) and not bases.grad[0, 3].any()


class TestMethod:
    def test_the_loss_is_the_formula(self):
        method, batch = task(grid=(2, 2, 1), crops=3), tiny.volumes(2)
        losses = method.loss(batch, Step.at(3))
        crops, starts, bases, crop = method.crops(batch, Step.at(3))
        assert crops.shape == (2 * 7, 1, 8, 8, 8) and crop == (8, 8, 8)
        student = method.projector(method.encoder(crops).pooled).view(2, 7, -1)
        teacher = method.teacher.projector(method.teacher.encoder(crops).pooled).view(2, 7, -1)
        share = overlap(starts, bases, crop)
        expected = torch.zeros(3)
        for row in range(2):
            told = likeness(student[row, :3], teacher[row, 3:]) + likeness(teacher[row, :3], student[row, 3:])
            parts = (*share_losses(told / 2, share[row]), repulsion(student[row, 3:]))
            expected += torch.stack(parts) / 2
        found = torch.stack([losses[name] for name in ("positive", "negative", "repulsion")])
        assert torch.allclose(found, expected, atol=1e-5)
        assert float(method.total(losses).detach()) == pytest.approx(float(expected.detach().sum()), rel=1e-5)

    def test_without_changes_a_crop_on_a_box_is_that_box(self):
        method = task(grid=(2, 2, 1), crops=1, flip=0.0, turn=0.0, shift=0.0).eval()
        batch = tiny.volumes(2)
        crops, starts, bases, crop = method.crops(batch, Step.at())
        volume = batch["volume"]
        for row in range(2):
            d, h, w = starts[row, 0].tolist()
            assert torch.equal(crops[5 * row], volume[row, :, d : d + 8, h : h + 8, w : w + 8])
            for n, (d, h, w) in enumerate(bases.tolist()):
                assert torch.equal(crops[5 * row + 1 + n], volume[row, :, d : d + 8, h : h + 8, w : w + 8])

    def test_the_teacher_is_the_codes_in_every_forward_pass(self):
        """There: student forward, teacher follows, teacher forward, optimiser. Here it follows behind that."""
        method, batch = task(grid=(2, 1, 1), crops=1), tiny.volumes(2)
        students = dict(method.named_parameters())
        own = {name: value.clone() for name, value in method.teacher.named_parameters()}
        optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
        for index in range(3):
            for name, value in own.items():  # the code's update in this step, before its teacher looks
                value.mul_(0.9).add_(0.1 * students[name].detach())
            for name, value in method.teacher.named_parameters():
                assert torch.allclose(value, own[name], atol=1e-6), name
            optimiser.zero_grad()
            method.total(method.loss(batch, Step.at(index))).backward()
            optimiser.step()
            method.after_step(Step.at(index))
        assert all(p.grad is None for p in method.teacher.parameters())

    def test_the_projector_knows_its_batch_alone(self):
        method = task()
        norms = [layer for layer in method.projector if isinstance(layer, torch.nn.BatchNorm1d)]
        assert len(norms) == 2 and not any([*layer.parameters(), *layer.buffers()] for layer in norms)
        x = noise(9, method.encoder.dim).float()
        assert torch.equal(method.projector(x), method.eval().projector(x)), (
            "its batch's statistics in evaluation too"
        )

    @pytest.mark.parametrize(
        ("size", "grid", "side", "wide"),
        [
            ((384, 384, 96), (4, 4, 1), 64, 2048),
            ((64, 64, 16), (4, 4, 1), 16, 256),
            ((32, 48, 36), (2, 3, 2), 24, 256),
        ],
    )
    def test_sizes_by_default(self, size, grid, side, wide):
        method = task(size=size, grid=grid)
        assert method.crop_size == side and method.projector[-1].out_features == wide

    def test_the_optimiser_is_the_codes(self):
        method = task()
        plan = make_plan(method.recipe, 10_000, epochs=method.recipe.epochs)
        assert plan.steps == 250_000 and plan.batch_size == 2 and plan.lr == 1e-4
        trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        schedule = plan.schedule(method.recipe)
        optimiser = make_optimiser(trained.items(), schedule, method.encoder)
        set_rates(optimiser, schedule, 0)
        assert isinstance(optimiser, torch.optim.AdamW) and all(g["amsgrad"] for g in optimiser.param_groups)
        (group,) = optimiser.param_groups
        assert len(group["params"]) == len(trained) and any(p.ndim == 1 for p in trained.values())
        assert group["weight_decay"] == 0.01, "norms and biases decay like the rest"

    def test_what_is_known_of_places_is_not_read(self):
        method, batch = task(), tiny.volumes(2)
        found = method.loss(batch, Step.at())
        bare = {key: value for key, value in batch.items() if key == "volume"}
        assert {k: float(v) for k, v in method.loss(bare, Step.at()).items()} == {
            k: float(v) for k, v in found.items()
        }

    def test_the_sheet_shows_the_crop_where_it_was(self):
        method = task(size=(16, 16, 8), grid=(4, 4, 1)).eval()
        with torch.no_grad():
            rows = method.preview(tiny.volumes(2), Step.at()).rows
        assert [panel.role for panel in rows[0]] == ["input", "asked", "answer", "truth"]
        for panel in rows[0]:
            assert panel.content.min() >= 0 and panel.content.max() <= 1
            assert drawing(panel.content).width > 200

    def test_drawings(self):
        grey = torch.full((3, 8, 8, 8), 0.5)
        boxed = outlined(grey, [1, 2, 3], (4, 4, 4), (1.0, 0.0, 0.0))
        for middle in (boxed[0, :, :, 3], boxed[0, :, :, 4]):
            rim = middle[1:5, 2:6].eq(1)
            assert rim[0].all() and rim[-1].all() and rim[:, 0].all() and rim[:, -1].all()
        assert boxed[0, 2, 3, 7] == 0.5 and grey.eq(0.5).all(), "other slices and the volume stay"
        person = torch.zeros(1, 4, 5, 6)
        person[0, 3, 4, 5] = 1  # right, in front, above
        assert upright(person)[0, 0, 0, 3] == 1, "above first, in front first, the right stays right"
        shown = tinted(
            grey, torch.tensor([[0, 0, 0], [4, 0, 0]]), (4, 8, 8), torch.tensor([0.0, 1.0]), (1.0, 0.5, 0.0)
        )
        assert shown[:, :4].eq(0.5).all() and shown[:, 6, 3, 3].tolist() == pytest.approx([0.8, 0.5, 0.2])

    def test_errors_say_what_to_do(self):
        with pytest.raises(UsageError, match="two boxes"):
            task(grid=(1, 1, 1))
        with pytest.raises(UsageError, match="learns nothing"):
            task("raw")
        with pytest.raises(UsageError, match="cannot be cut"):
            task().loss({"volume": torch.rand(1, 1, 3, 16, 16)}, Step.at())
        with pytest.raises(UsageError, match=r"takes volumes \(batch, 1,"):
            task().loss({"volume": torch.rand(1, 2, 16, 16, 8)}, Step.at())


def voxels(start: list[int], crop: tuple[int, int, int]) -> list[tuple[int, ...]]:
    return [tuple(start[axis] + at[axis] for axis in range(3)) for at in np.ndindex(*crop)]
