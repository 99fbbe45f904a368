"""DropPos against the paper's formulas, written as loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.droppos import DropPos, Puzzle
from pretask.pretexts.masks import Shuffle
from pretask.pretexts.places import smoothed_places, squared_distances
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def make(**options):
    torch.manual_seed(0)
    return DropPos(build_encoder(VIT, image_size=32, patch_size=4, seed=0), **options)


def batch(count: int = 3):
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(count, 3, 40, 40, generator=generator)}


def test_smoothing_is_a_gaussian_on_the_grid_with_rows_of_one():
    rows, columns, sigma = 3, 4, 0.8
    found = smoothed_places(rows * columns, columns, sigma)
    for i in range(rows * columns):
        near = [
            math.exp(-((i // columns - j // columns) ** 2 + (i % columns - j % columns) ** 2) / sigma**2)
            for j in range(rows * columns)
        ]
        assert found[i].tolist() == pytest.approx([value / sum(near) for value in near], abs=1e-6)
    assert torch.equal(smoothed_places(12, 4, 0.0), torch.eye(12))
    assert squared_distances(12, 4)[1, 11] == 2**2 + 2**2


def test_a_quarter_is_visible_and_a_quarter_of_that_knows_its_place():
    puzzle = make().puzzle(batch(), Step.at())
    assert puzzle.order.visible.shape == (3, 16) and puzzle.order.hidden.shape == (3, 48)
    assert puzzle.lost.sum(1).tolist() == [16 - 4] * 3
    assert len({tuple(row) for row in puzzle.lost.tolist()}) == 3


def test_the_loss_is_that_of_the_paper():
    task = make().double()
    step = Step.at(12, total=40, steps_per_epoch=10, seed=3)
    loss = task.loss({"image": batch()["image"].double()}, step)["position"]
    puzzle = task.puzzle({"image": batch()["image"].double()}, Step.at(12, seed=3))
    logits, model = task.answers(puzzle), task.encoder
    sigma = 1.0 * (1 - 1 / 4)  # epoch 1 of 4
    above, below = 0.0, 0.0
    features = model(puzzle.image)
    for n in range(3):
        cos = [
            F.cosine_similarity(features.prefix[n, 0], token, dim=0).item() for token in features.tokens[n]
        ]
        share = [math.exp(c / 0.1) for c in cos]
        seen = puzzle.order.visible[n].tolist()
        weight = [share[place] / sum(share[other] for other in seen) for place in seen]
        for k, place in enumerate(seen):
            if not puzzle.lost[n, k]:
                continue
            near = [
                math.exp(-((place // 8 - j // 8) ** 2 + (place % 8 - j % 8) ** 2) / sigma**2)
                for j in range(64)
            ]
            scores = logits[n, k].tolist()
            total = math.log(sum(math.exp(s) for s in scores))
            error = -sum(w / sum(near) * (s - total) for w, s in zip(near, scores, strict=True))
            above, below = above + weight[k] * error, below + weight[k]
    assert loss.item() == pytest.approx(above / below, rel=1e-6)


def test_without_extras_it_is_cross_entropy_over_the_lost_ones():
    task = make(smoothing=0.0, attentive=False)
    loss = task.loss(batch(), Step.at(seed=1))["position"]
    puzzle = task.puzzle(batch(), Step.at(seed=1))
    logits = task.answers(puzzle)
    expected = F.cross_entropy(logits[puzzle.lost], puzzle.order.visible[puzzle.lost])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_lost_patches_do_not_know_their_place_and_anchors_do():
    """The answers for an unordered set of patches follow the patches, unless an anchor is moved."""
    task = make()
    image = batch()["image"][..., :32, :32]
    visible = torch.stack(
        [torch.randperm(64, generator=torch.Generator().manual_seed(n))[:16] for n in range(3)]
    )
    lost = torch.zeros(3, 16, dtype=torch.bool)
    lost[:, :12] = True
    order = Shuffle(visible, visible[:, :0], visible)
    answers = task.answers(Puzzle(image, order, lost))
    turn = torch.arange(16).roll(5)
    moved = task.answers(Puzzle(image, Shuffle(visible[:, turn], visible[:, :0], visible), lost[:, turn]))
    assert torch.allclose(moved, answers[:, turn], atol=1e-5), "order carries no information"
    model = task.encoder.model
    with torch.no_grad():
        model.pos_embed[0, 1 + visible[0, 0]] += torch.linspace(
            -1, 1, 32
        )  # the position of a lost patch of the first picture
        assert torch.allclose(task.answers(Puzzle(image, order, lost))[0], answers[0], atol=1e-6)
        model.pos_embed[0, 1 + visible[0, 15]] += torch.linspace(-1, 1, 32)  # of an anchor
        assert not torch.allclose(task.answers(Puzzle(image, order, lost))[0], answers[0], atol=1e-3)


def test_weights_carry_no_gradient_and_sum_to_one():
    task = make()
    weight = task.importance(task.puzzle(batch(), Step.at()))
    assert not weight.requires_grad
    assert torch.allclose(weight.sum(1), torch.ones(3))


def test_confident_answers_can_be_left_out():
    task = make(ignore_confident=True)
    puzzle = task.puzzle(batch(), Step.at())
    sure = torch.full((3, 16, 64), -50.0).scatter(2, puzzle.order.visible[..., None], 50.0)
    task.answers = lambda _: sure
    assert task.loss(batch(), Step.at())["position"] == 0, "all are surer than they are asked to be"
    exact = make(ignore_confident=True, smoothing=0.0, attentive=False)
    exact.answers = lambda puzzle: torch.full((3, 16, 64), -150.0).scatter(
        2, puzzle.order.visible[..., None], 0.0
    )
    step = Step.at()
    exact.loss(batch(), step)
    assert step.metrics["position_accuracy"] == 0, "as sure as asked is sure enough"
    spread = make(ignore_confident=True)
    assert spread.loss(batch(), Step.at())["position"] > 3  # nobody is sure yet


def test_lost_positions_may_be_zeros_or_those_of_one_another():
    zeros, wrong, learned = (make(instead=kind).double() for kind in ("zeros", "wrong", "learned"))
    pictures = {"image": batch()["image"].double()}
    puzzle = zeros.puzzle(pictures, Step.at())
    learned.load_state_dict({**zeros.state_dict(), "position_token": torch.zeros(1, 1, 32)})
    assert torch.equal(zeros.answers(puzzle), learned.answers(puzzle))
    assert [name for name, _ in zeros.named_parameters() if "position" in name] == []
    puzzle = wrong.puzzle(pictures, Step.at())
    visible, lost, model = puzzle.order.visible, puzzle.lost, wrong.encoder.model
    rows = []
    for n in range(3):
        assert torch.equal(puzzle.told[n][~lost[n]], visible[n][~lost[n]]), "anchors keep theirs"
        found, own = puzzle.told[n][lost[n]].tolist(), visible[n][lost[n]].tolist()
        assert sorted(found) == sorted(own) and found != own
        patches = wrong.encoder.contents(puzzle.image[n : n + 1])[0]
        tokens = [
            patches[i] + model.pos_embed[0, 1 + j] for i, j in zip(visible[n], puzzle.told[n], strict=True)
        ]
        rows.append(torch.stack([model.cls_token[0, 0] + model.pos_embed[0, 0], *tokens]))
    features = wrong.encoder.transform(torch.stack(rows))
    expected = wrong.decoder(torch.cat([features.prefix, features.tokens], 1))[:, 1:]
    assert torch.allclose(wrong.answers(puzzle), expected, atol=1e-10)
    loss = wrong.loss(pictures, Step.at())["position"]
    assert loss.isfinite() and loss.requires_grad


def test_an_untrained_network_guesses():
    assert make().loss(batch(16), Step.at())["position"].item() == pytest.approx(math.log(64), abs=0.5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="at least 1"):
        make(position_ratio=0.0)
    with pytest.raises(UsageError, match="at least 1"):
        make(mask_ratio=1.0)
    bare = build_encoder(VIT + ",class_token=false,global_pool=avg", image_size=32, patch_size=4)
    with pytest.raises(UsageError, match="class token"):
        DropPos(bare)
    with pytest.raises(UsageError, match="fc_norm=false"):
        DropPos(build_encoder(VIT + ",global_pool=avg", image_size=32, patch_size=4))


@pytest.mark.parametrize("pretrained", [False, True])
def test_positions_are_never_learned(pretrained):
    encoder = build_encoder(VIT, image_size=32, patch_size=4, seed=0)
    encoder.pretrained = pretrained
    task = DropPos(encoder)
    task.loss(batch(), Step.at())["position"].backward()
    assert not encoder.model.pos_embed.requires_grad and encoder.model.pos_embed.grad is None
    assert encoder.model.cls_token.grad.abs().sum() > 0
