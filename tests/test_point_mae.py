"""Point-MAE against its official forward pass, a sample and a patch at a time."""

import math

import pytest
import torch
from torch import Tensor

from pretask.data.geometry import Groups, distances
from pretask.encoders import build_encoder
from pretask.encoders.points import build
from pretask.errors import UsageError
from pretask.methods.points.point_mae import PointMAE
from pretask.pretexts.masks import Shuffle
from pretask.pretexts.points import place
from pretask.task import Step

SMALL = "point_vit_tiny:embed_dim=32,depth=2,num_heads=2,groups=10,group_size=6"


def make(**options) -> PointMAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PointMAE(build(SMALL), **{"decoder_depth": 2, "drop_path": 0.0} | options).double()


def batch(count: int = 3, points: int = 40) -> dict[str, Tensor]:
    cloud = torch.randn(count, points, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"points": cloud / cloud.norm(dim=-1).amax(1)[:, None, None]}


def hidden(task: PointMAE, given: dict[str, Tensor], step: Step) -> tuple[Tensor, Groups, Shuffle]:
    """What `loss` hides at this step."""
    pose, (points,) = task.cloud(given, step)
    points = place(pose, points)
    return points, *task.hide(points, step)


def naive_chamfer(a: list, b: list, kind: str) -> float:
    power = 2 if kind == "l2" else 1
    there = sum(min(math.dist(p, q) ** power for q in b) for p in a) / len(a)
    back = sum(min(math.dist(p, q) ** power for p in a) for q in b) / len(b)
    return there + back if kind == "l2" else (there + back) / 2


@pytest.mark.parametrize("kind", ["l2", "l1"])
@pytest.mark.parametrize("mask", ["random", "block"])
def test_the_loss_is_the_mean_chamfer_distance_of_hidden_patches(kind, mask):
    task = make(chamfer=kind, mask=mask).eval()
    points, groups, order = hidden(task, batch(), Step.at(2))
    rebuilt = task.rebuild(points, groups, order, Step.at(2))
    assert rebuilt.shape == (3, 6, 6, 3), "int(0.6 * 10) patches are hidden"
    terms = []
    for i in range(3):
        assert order.hidden[i].tolist() == sorted(order.hidden[i].tolist()), "in the order they had"
        for j, patch in enumerate(order.hidden[i]):
            truth = points[i, groups.members[i, patch]] - groups.centres[i, patch]  # seen from the centre
            terms.append(naive_chamfer(rebuilt[i, j].tolist(), truth.tolist(), kind))
    assert task.loss(batch(), Step.at(2))["chamfer"].item() == pytest.approx(sum(terms) / len(terms))


def test_hidden_points_reach_the_network_through_batch_normalisation_alone():
    """In evaluation nothing inside a hidden patch changes what is answered; its centre does."""
    task = make().eval()
    points, groups, order = hidden(task, batch(), Step.at(0))
    answers = task.rebuild(points, groups, order, Step.at(0))
    inside = torch.zeros(3, 10, dtype=torch.bool).scatter_(1, order.hidden, True)[..., None, None]
    other = groups._replace(patches=torch.where(inside, 5.0, groups.patches))
    assert torch.equal(task.rebuild(points, other, order, Step.at(0)), answers)
    moved = groups._replace(centres=torch.where(inside.squeeze(-1), 0.5 * groups.centres, groups.centres))
    assert not torch.allclose(task.rebuild(points, moved, order, Step.at(0)), answers)


def test_each_axis_has_its_own_factor_and_shift():
    pose, _ = make().cloud(batch(200), Step.at(0))
    scale = pose.scale[:, 0]
    assert scale.min() >= 2 / 3 and scale.max() <= 1.5 and (scale[:, 0] - scale[:, 1]).abs().max() > 0.3
    assert 0.15 < pose.shift.abs().max() <= 0.2
    assert torch.equal(pose.turn, torch.eye(3).expand(200, 3, 3)), "and none is turned"


def test_of_larger_clouds_some_points_are_drawn_anew_each_step():
    task, given = make(num_points=40), batch(points=90)
    seen = [task.cloud(given, Step.at(index))[1][0] for index in (0, 0, 1)]
    assert seen[0].shape == (3, 40, 3)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    whole = make(num_points=90).cloud(given, Step.at(0))[1][0]
    assert torch.equal(whole, given["points"]), "as they come, where there are no more"


def test_branches_are_dropped_only_while_training():
    losses = {}
    for training in (True, False):
        for rate in (0.5, 0.0):
            task = make(drop_path=rate).train(training)
            losses[training, rate] = task.loss(batch(), Step.at(0))["chamfer"].item()
    assert losses[True, 0.5] != pytest.approx(losses[True, 0.0])
    assert losses[False, 0.5] == losses[False, 0.0]


def test_points_may_carry_more_than_their_place():
    encoder = build(SMALL, in_chans=5)
    task = PointMAE(encoder, drop_path=0.0)
    points = torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(0))
    assert task.loss({"points": points}, Step.at(0))["chamfer"].isfinite()


@pytest.mark.parametrize("ratio", [0.05, 1.0])
def test_a_mask_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(UsageError, match="some must be hidden"):
        PointMAE(build(SMALL), mask_ratio=ratio)


def test_a_picture_encoder_is_refused():
    encoder = build_encoder("resnet10t:stem_width=8,channels=[8,8,8,8]", image_size=32)
    with pytest.raises(UsageError, match="point transformer"):
        PointMAE(encoder)


def test_the_preview_puts_patches_back_where_they_were():
    task, given = make().eval(), batch()
    with torch.no_grad():
        sheet = task.preview(given, Step.at(0))
    points, groups, order = hidden(task, given, Step.at(0))
    seen, _, truth = sheet.rows[0]
    assert seen.content.shape == (4 * 6, 6) and truth.content.shape == (10 * 6, 6)
    expected = {tuple(p) for p in points[0, groups.members[0].flatten()].tolist()}
    there = torch.tensor(sorted(expected), dtype=torch.float64)
    assert distances(truth.content[None, :, :3], there[None]).amin(2).max() < 1e-9
