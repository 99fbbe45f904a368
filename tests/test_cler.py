"""CLER: puzzles against numpy and loops, the loss against the paper's steps, what is easy to get wrong."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.encoders import build_encoder
from pretask.encoders.batch_norm import untracked
from pretask.encoders.branch import Branch
from pretask.errors import UsageError
from pretask.methods.image.cler import BORDER, CLER, tile_orders
from pretask.objectives.continual import asymmetric_cross_entropy, asymmetric_mask
from pretask.objectives.distributed import SyncBatchNorm
from pretask.pretexts.permutation import draw_moves, shuffle_tiles
from pretask.pretexts.rotation import rotate, rotate_by
from pretask.pretexts.shift import apply_shift, draw_shift
from pretask.task import Step


def cler(kind: str = "grid", **options) -> CLER:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = CLER(tiny.encoder(kind), **options)
    task.prepare([tiny.images(16)], 16)
    return task


def in_task(task: CLER, number: int, count: int = 8, start: int = 0) -> dict:
    """Digits of one task of two classes."""
    batch = tiny.images(200, start=start)
    rows = (batch["label"] // 2 == number).nonzero().flatten()[:count]
    return tiny.take(batch, rows)


def learn(task: CLER, batch: dict, index: int, lr: float = 0.01) -> dict[str, torch.Tensor]:
    step = Step.at(index, 100, 100)
    losses = task.loss(batch, step)
    task.zero_grad()
    task.total(losses).backward()
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    task.after_step(step)
    return losses


class TestPuzzles:
    @pytest.mark.parametrize(("height", "side"), [(8, 2), (9, 3), (32, 3), (7, 2), (10, 4)])
    def test_tiles_move_as_in_a_loop(self, height, side):
        """New place s gets old tile order[s]; what does not divide is padded top left and cut there."""
        image = torch.rand(3, 2, height, height)
        order = torch.stack([torch.randperm(side**2) for _ in range(3)])
        pad = (side - height % side) % side
        for x, permutation, out in zip(image.numpy(), order, shuffle_tiles(image, order, side), strict=True):
            padded = np.pad(x, ((0, 0), (pad, 0), (pad, 0)))
            size, moved = padded.shape[1] // side, np.empty_like(padded)
            for new, old in enumerate(permutation.tolist()):
                (r, c), (s, d) = divmod(new, side), divmod(old, side)
                moved[:, r * size : (r + 1) * size, c * size : (c + 1) * size] = padded[
                    :, s * size : (s + 1) * size, d * size : (d + 1) * size
                ]
            assert np.array_equal(out, moved[:, pad:, pad:])

    @pytest.mark.parametrize("turns", range(4))
    def test_right_angles_by_a_grid_are_rot90(self, turns):
        image = torch.rand(2, 3, 9, 9)
        turned = rotate_by(image, torch.full((2,), 90.0 * turns))
        torch.testing.assert_close(turned, rotate(image, turns), atol=1e-5, rtol=0)
        task = cler(pretext="rotation")
        assert torch.equal(
            task.puzzles[0].transform(image, torch.full((2, 1), turns)), torch.rot90(image, turns, (2, 3))
        )

    def test_eight_angles_hold_the_four_and_lie_between_them(self):
        image = tiny.images(2)["image"].float() / 255
        eight = cler(pretext="rotation", rotations=8).puzzles[0]
        assert eight.classes == 8
        torch.testing.assert_close(
            eight.transform(image, torch.full((2, 1), 2)), image.rot90(1, (2, 3)), atol=1e-4, rtol=0
        )
        half = eight.transform(image, torch.ones(2, 1, dtype=torch.long))
        assert half[:, :, 0, 0].abs().max() == 0, "corners come from outside"
        two = cler(pretext="rotation", rotations=2).puzzles[0]
        assert torch.equal(two.transform(image, torch.ones(2, 1, dtype=torch.long)), image.rot90(2, (2, 3)))

    def test_a_flip_is_upside_down(self):
        image, flip = torch.rand(2, 1, 4, 4), cler(pretext="flip").puzzles[0]
        out = flip.transform(image, torch.tensor([[0], [1]]))
        assert torch.equal(out[0], image[0]) and torch.equal(out[1], image[1].flip(1))

    def test_orders(self):
        all_24 = set(itertools.permutations(range(4)))
        orders = tile_orders(4, 100, identity=True)
        assert set(map(tuple, orders.tolist())) == all_24 and len(orders) == 24
        without = tile_orders(4, 100, identity=False)
        assert set(map(tuple, without.tolist())) == all_24 - {(0, 1, 2, 3)} and len(without) == 23
        assert len(tile_orders(4, 5, identity=True)) == 5
        many = tile_orders(9, 100, identity=True)
        assert many.shape == (100, 9) and (many.sort(1).values == torch.arange(9)).all()
        torch.manual_seed(1)
        one = tile_orders(4, 100, identity=True)
        assert not torch.equal(one, tile_orders(4, 100, identity=True)), "the rows' order is random"

    def test_both_leaves_staying_to_rotation(self):
        task = cler(pretext="both")
        assert [puzzle.classes for puzzle in task.puzzles] == [23, 4]
        assert task.chance(8)["pretext"] == pytest.approx((math.log(23) + math.log(4)) / 2)
        assert cler().chance(8)["pretext"] == pytest.approx(math.log(24))

    def test_moves_change_no_more_than_was_asked(self):
        order = draw_moves(3000, 4, 2, torch.Generator().manual_seed(0))
        assert (order.sort(1).values == torch.arange(4)).all()
        moved = (order != torch.arange(4)).sum(1)
        assert set(moved.tolist()) == {0, 2}
        assert abs((moved == 0).double().mean() - 0.5) < 4 * 0.5 / 3000**0.5
        assert torch.equal(order.gather(1, order), torch.arange(4).expand(3000, 4)), "swaps undo themselves"
        stays = (order == torch.arange(4)).double().mean()
        entropy = -stays * stays.log() - (1 - stays) * ((1 - stays) / 3).log()
        assert cler(pretext="location").chance(1)["pretext"] == pytest.approx(float(entropy), abs=0.02)

    def test_the_table_is_saved_and_not_drawn_anew(self):
        task = cler()
        other = CLER(tiny.encoder("grid"))
        assert not torch.equal(task.puzzles[0].orders, other.puzzles[0].orders)
        other.load_state_dict(task.state_dict())
        assert torch.equal(task.puzzles[0].orders, other.puzzles[0].orders)


class TestErAce:
    def naive_mask(self, present: list[int], seen: list[int], classes: int) -> list[bool]:
        allowed = [c in present for c in range(classes)]
        if max(seen) < classes - 1:
            for c in range(max(seen), classes):
                allowed[c] = True
        return allowed

    @pytest.mark.parametrize(
        ("present", "seen", "expected"),
        [
            ([2, 3], [0, 1, 2, 3], [0, 0, 1, 1, 1, 1]),
            ([2], [0, 1, 2, 3], [0, 0, 1, 1, 1, 1]),  # from the highest seen on, itself included
            ([4, 5], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 1]),  # all were seen: nothing is free
            ([4], [0, 1, 2, 3, 4], [0, 0, 0, 0, 1, 1]),
            ([1], [0, 1], [0, 1, 1, 1, 1, 1]),
        ],
    )
    def test_mask(self, present, seen, expected):
        def flags(some):
            return torch.tensor([c in some for c in range(6)])

        mask = asymmetric_mask(flags(present), flags(seen))
        assert mask.int().tolist() == expected
        assert mask.tolist() == self.naive_mask(present, seen, 6)

    def test_loss_is_cross_entropy_among_the_allowed(self):
        logits, labels = torch.randn(5, 6, dtype=torch.float64), torch.tensor([2, 3, 3, 5, 2])
        allowed = torch.tensor([False, False, True, True, False, True])
        naive = 0.0
        for row, label in zip(logits, labels, strict=True):
            naive -= float(row[label] - math.log(sum(math.exp(row[c]) for c in (2, 3, 5)))) / 5
        assert float(asymmetric_cross_entropy(logits, labels, allowed)) == pytest.approx(naive, rel=1e-12)
        logits.requires_grad_()
        asymmetric_cross_entropy(logits, labels, allowed).backward()
        assert logits.grad[:, ~allowed].abs().max() == 0, "old classes are not pushed at"

    def test_masking_and_replay_begin_with_the_second_task(self):
        task = cler(num_tasks=5, buffer_size=20)
        first, second = in_task(task, 0), in_task(task, 1)
        losses = learn(task, first, 0)
        assert losses["replay"] == 0 and int(task.buffer.seen) == 8
        assert task.seen.nonzero().flatten().tolist() == [0, 1]
        losses = learn(task, first, 1)
        assert losses["replay"] == 0, "still the first task"
        losses = learn(task, second, 2)
        assert losses["replay"] > 0
        assert task.seen.nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("pretext", "kind"), [("jigsaw", "grid"), ("both", "grid"), ("location", "patches")])
def test_the_loss_is_the_papers(pretext, kind):
    """Steps 2 to 10 written out, with the draws in their order, on a stream in its second task."""
    task = cler(kind, pretext=pretext, num_tasks=5, buffer_size=20)
    learn(task, in_task(task, 0), 0)
    batch, naive = in_task(task, 1, start=100), copy.deepcopy(task)
    step = Step.at(7, 10, 10, seed=3)
    losses, generator = task.loss(batch, step), Step.at(7, 10, 10, seed=3).generator

    plain, net = task.pictures(batch), naive.encoder
    augmented = apply_shift(plain, draw_shift(8, BORDER, generator), BORDER)
    logits = naive.classifier(net(augmented).pooled)
    allowed = torch.tensor([False, False] + [True] * 8)  # classes 2, 3 are there, 4 to 9 not known yet
    stream = F.cross_entropy(logits.masked_fill(~allowed, torch.finfo(logits.dtype).min), batch["label"])
    places = naive.buffer.draw(8, generator)
    old, old_labels = naive.buffer.images[places].float() / 255, naive.buffer.labels[places]
    augmented = apply_shift(old, draw_shift(8, BORDER, generator), BORDER)
    replay = F.cross_entropy(naive.classifier(net(augmented).pooled), old_labels)

    shown, mean, parts = torch.cat([plain, old]), net.mean, []
    for puzzle in naive.puzzles:
        answer = torch.cat([puzzle.draw(8, generator), puzzle.draw(8, generator)])
        if puzzle.name == "rotation":
            moved = torch.stack([x.rot90(int(k), (1, 2)) for x, k in zip(shown, answer[:, 0], strict=True)])
        else:
            order = puzzle.orders[answer[:, 0]] if puzzle.name == "jigsaw" else answer
            moved = shuffle_tiles(shown, order, 2)
        with untracked(net):
            maps = puzzle.branch(net, moved)
        if puzzle.name == "location":
            cells = F.adaptive_avg_pool2d(maps, 2)
            said = torch.einsum("bdij,kd->bkij", cells, puzzle.classify.weight)
            said = (said + puzzle.classify.bias.view(1, -1, 1, 1)).reshape(16, 4, 4)
            parts.append(F.cross_entropy(said, answer))
        else:
            parts.append(F.cross_entropy(puzzle.classify(maps.mean((2, 3))), answer[:, 0]))
    assert mean.shape == (3, 1, 1)
    expected = {"stream": stream, "replay": replay, "pretext": sum(parts) / len(parts)}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(
        task.total(losses), stream + replay + 1.7 * expected["pretext"], rtol=1e-4, atol=1e-5
    )


def test_what_is_filled_in_is_the_encoders_mean():
    """The official code shuffles and pads normalised pictures; zeros there are the mean colour here."""
    task = cler(pretext="jigsaw", patches=9)
    puzzle, image = task.puzzles[0], torch.rand(4, 3, 32, 32)
    shown, answer = task.transformed(puzzle, [image], Step.at())
    normal = shuffle_tiles(task.encoder.normalise(image), puzzle.orders[answer[:, 0]], 3)
    torch.testing.assert_close(task.encoder.normalise(shown), normal, atol=1e-5, rtol=0)


class TestBranch:
    def test_the_head_starts_as_the_last_stage_and_is_its_own(self):
        encoder = tiny.encoder("grid").eval()
        branch = Branch(encoder, 3)
        image = torch.rand(4, 3, 32, 32)
        maps = encoder.model.forward_features(encoder.normalise(image))
        torch.testing.assert_close(branch(encoder, image), maps, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(branch.own.parameters(), encoder.model.layer4.parameters(), strict=True):
            assert torch.equal(ours, theirs) and ours is not theirs
        assert branch.lower(encoder, image).shape[1] == 48, "stage 3"

    def test_a_transformers_last_quarter(self):
        encoder = build_encoder(
            "vit_tiny_patch16_224:depth=8,embed_dim=24,num_heads=2", image_size=32, seed=0
        )
        image = torch.rand(2, 3, 32, 32)
        features = encoder(image)
        for shared, blocks in ((3, 2), (4, 0)):
            branch = Branch(encoder, shared)
            maps = branch(encoder, image).flatten(2).transpose(1, 2)
            torch.testing.assert_close(maps, features.tokens)
            assert len(branch.own) == (blocks + 1 if blocks else 0)

    @pytest.mark.parametrize(("shared", "reached"), [(3, False), (4, True)])
    def test_the_pretext_reaches_the_shared_stages_only(self, shared, reached):
        task = cler(shared_stages=shared)
        losses = task.loss(tiny.images(8), Step.at())
        losses["pretext"].backward()
        model = task.encoder.model
        assert all(p.grad.any() for p in model.layer3.parameters())
        assert any(p.grad is not None and bool(p.grad.any()) for p in model.layer4.parameters()) == reached
        assert task.classifier.weight.grad is None

    def test_other_networks_are_refused(self):
        with pytest.raises(UsageError, match="four stages"):
            Branch(build_encoder("convnext_atto", image_size=32, seed=0))


class TestStatistics:
    def statistics(self, task: CLER) -> dict[str, torch.Tensor]:
        return {
            name: b.clone() for name, b in task.encoder.named_buffers() if "running" in name or "num" in name
        }

    def test_shuffled_pictures_leave_no_trace_in_the_encoder(self):
        with_pretext, without = cler(), cler(pretext="none")
        before = self.statistics(with_pretext)
        for task in (with_pretext, without):
            task.loss(tiny.images(8), Step.at())
        after = self.statistics(with_pretext)
        assert before and all(not torch.equal(before[name], after[name]) for name in before)
        for name, value in self.statistics(without).items():
            assert torch.equal(value, after[name]), name
        own = [
            b for name, b in with_pretext.puzzles[0].named_buffers() if name.endswith("num_batches_tracked")
        ]
        assert all(b == 1 for b in own) and own, "the head's own statistics do follow"

    @pytest.mark.parametrize("kind", [torch.nn.BatchNorm2d, SyncBatchNorm])
    def test_untracked_normalises_by_the_batch(self, kind):
        layer = torch.nn.BatchNorm2d(3)
        layer = layer if kind is torch.nn.BatchNorm2d else kind(layer)
        image = 5 + 2 * torch.randn(8, 3, 4, 4)
        with untracked(layer):
            out = layer(image)
        assert out.mean().abs() < 1e-5 and abs(out.std() - 1) < 0.01
        assert layer.running_mean.abs().max() == 0 and layer.num_batches_tracked == 0
        assert layer.track_running_stats
        layer(image)
        assert layer.running_mean.min() > 0.1

    def test_an_error_inside_does_not_leave_it_untracked(self):
        layer = torch.nn.BatchNorm2d(3)
        with pytest.raises(RuntimeError), untracked(layer):
            raise RuntimeError
        assert layer.track_running_stats


class TestRuns:
    def test_what_is_remembered_is_not_augmented(self):
        task = cler(num_tasks=5, buffer_size=20)
        batch = in_task(task, 0)
        learn(task, batch, 0)
        expected = (task.pictures(batch) * 255).round().byte()
        assert torch.equal(task.buffer.images[:8], expected)
        assert torch.equal(task.buffer.labels[:8], batch["label"])

    def test_a_checkpoint_knows_the_number_of_classes(self):
        task = cler(num_tasks=5)
        learn(task, in_task(task, 0), 0)
        fresh = CLER(tiny.encoder("grid"))
        fresh.prepare([], 16)  # as a run is loaded where its data are not at hand
        fresh.load_state_dict(task.state_dict())
        image = torch.rand(2, 3, 32, 32)
        assert torch.equal(fresh.eval().classify(image), task.eval().classify(image))

    def test_unlabelled_data_are_refused(self):
        batch = tiny.images(8)
        del batch["label"]
        with pytest.raises(UsageError, match="no labels"):
            CLER(tiny.encoder("grid")).prepare([batch], 8)
        with pytest.raises(UsageError, match="prepare"):
            CLER(tiny.encoder("grid")).loss(tiny.images(8), Step.at())

    def test_finetuning_neither_masks_nor_remembers(self):
        task = cler(base="finetune", pretext="none")
        learn(task, in_task(task, 0), 0)
        batch, step = in_task(task, 3), Step.at(4)
        logits = []
        task.classify = lambda image: logits.append(CLER.classify(task, image)) or logits[0]
        losses = task.loss(batch, step)
        torch.testing.assert_close(losses["stream"], F.cross_entropy(logits[0], batch["label"]))
        assert set(losses) == {"stream", "replay"} and losses["replay"] == 0
        assert not hasattr(task, "buffer")

    def test_the_recipe_asks_for_a_stream(self):
        assert cler(num_tasks=3).recipe.tasks == 3
        recipe = cler().recipe
        assert (recipe.momentum, recipe.weight_decay, recipe.epochs, recipe.lr_batch) == (0, 0, 1, 0)

    def test_every_option_runs(self):
        for pretext, patches, rotations in (("jigsaw", 9, 4), ("jigsaw", 16, 4), ("rotation", 4, 8),
                                            ("location", 9, 4), ("flip", 4, 4)):  # fmt: skip
            task = cler(pretext=pretext, patches=patches, rotations=rotations, max_permutations=10)
            assert task.loss(tiny.images(4), Step.at())["pretext"].isfinite()
            question = task.question(tiny.images(4), Step.at())
            assert question.answer.ndim == 1
