"""MaskFeat3D against the formulas of the paper and its code, a query at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretask.encoders.points import build
from pretask.errors import UsageError
from pretask.methods.points.maskfeat3d import MaskFeat3D
from pretask.pretexts.points import face, place
from pretask.task import Step

SMALL = "point_vit_tiny:embed_dim=32,depth=2,num_heads=2,groups=10,group_size=6"


def make(**options) -> MaskFeat3D:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = MaskFeat3D(build(SMALL), **{"decoder_depth": 2, "drop_path": 0.0} | options).double()
        for head in task.heads.values():
            head.bias.data.normal_()
    return task


def batch(count: int = 3, points: int = 40) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    cloud, normals = torch.randn(2, count, points, 3, generator=generator, dtype=torch.float64)
    variation = torch.rand(count, points, 1, generator=generator, dtype=torch.float64) / 3
    return {"points": cloud, "normals": F.normalize(normals, dim=-1), "variation": variation}


def naive(task: MaskFeat3D, given: dict, step: Step, normal_loss: str) -> tuple[float, float]:
    """Both losses from what the heads say, one hidden point after the other."""
    pose, (points, normals, variation) = task.cloud(given, step, "normals", "variation")
    points = place(pose, points)
    groups, order = task.hide(points, step)
    queries = [[p for g in order.hidden[i].tolist() for p in groups.members[i, g].tolist()] for i in range(3)]
    places = torch.stack([points[i, queries[i]] for i in range(3)])
    answers = task.answer(points, groups, order, places, step)
    cosine, length, square, gap = [], [], [], []
    for i in range(3):
        for j, p in enumerate(queries[i]):
            truth = (normals[i, p] @ pose.turn[i].double()).tolist()  # turned with the cloud, not scaled
            said = answers["normal"][i, j].tolist()
            size = math.hypot(*said)
            dot = sum(a * b for a, b in zip(said, truth, strict=True)) / size
            cosine.append(1 - (abs(dot) if normal_loss == "abs_cosine" else dot))
            length.append((size - 1) ** 2)
            square += [(a - b) ** 2 for a, b in zip(said, truth, strict=True)]
            gap.append(abs(answers["variation"][i, j].item() - variation[i, p].item()))
    count = len(cosine)
    assert count == 3 * 6 * 6, "every point of every hidden patch, as often as patches hold it"
    normal = (
        sum(square) / (3 * count) if normal_loss == "mse" else sum(cosine) / count + 0.1 * sum(length) / count
    )
    return normal, sum(gap) / count


@pytest.mark.parametrize("kind", ["cosine", "abs_cosine", "mse"])
@pytest.mark.parametrize("mask", ["random", "block"])
def test_losses_are_the_papers(kind, mask):
    task = make(normal_loss=kind, mask=mask).eval()
    losses = task.loss(batch(), Step.at(3))
    normal, variation = naive(task, batch(), Step.at(3), kind)
    assert losses["normal"].item() == pytest.approx(normal)
    assert losses["variation"].item() == pytest.approx(variation)
    assert task.total(losses).item() == pytest.approx(normal + variation), "weights of 1"


def test_queries_are_the_true_places_and_their_own_targets():
    task, given = make(), batch()
    points, groups, order, hidden = task.puzzle(given, Step.at(0))
    for i in range(3):
        for j in (0, 17, 35):
            p = int(groups.members[i, order.hidden[i, j // 6], j % 6])
            assert torch.equal(hidden.places[i, j], points[i, p]), "absolute, not seen from a centre"
            assert torch.equal(hidden.variation[i, j], given["variation"][i, p])


def test_turns_carry_normals_and_scales_are_alike_on_all_axes():
    task, given = make(), batch(50)
    pose, (points, normals, _) = task.cloud(given, Step.at(0), "normals", "variation")
    assert (pose.scale == pose.scale[..., :1]).all() and pose.scale.min() > 0.66 and pose.scale.max() < 1.5
    assert not pose.shift.any()
    found = (place(pose, points) * face(pose, normals)).sum(-1) / pose.scale[..., 0]
    torch.testing.assert_close(found, (points * normals).sum(-1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        place(pose, points)[..., 1] / pose.scale[..., 0], points[..., 1], atol=1e-6, rtol=0
    )


def test_normals_never_reach_the_network():
    task, given = make().eval(), batch()
    before = task.puzzle(given, Step.at(0))
    after = task.puzzle(
        {**given, "normals": -given["normals"], "variation": 0 * given["variation"]}, Step.at(0)
    )
    answers = [task.answer(*each[:3], each[3].places, Step.at(0)) for each in (before, after)]
    assert all(torch.equal(answers[0][name], answers[1][name]) for name in ("normal", "variation"))


def test_normals_of_unknown_sign_are_compared_without_it():
    given, step = batch(), lambda: Step.at(0)
    flipped = {**given, "normals": -given["normals"]}
    unknown = torch.zeros(3, dtype=torch.bool)
    losses = [
        make().eval().loss({**each, "oriented": unknown}, step())["normal"] for each in (given, flipped)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], make(normal_loss="abs_cosine").eval().loss(given, step())["normal"])
    known = [make().eval().loss({**given, **more}, step())["normal"] for more in ({}, {"oriented": ~unknown})]
    assert torch.equal(*known) and not torch.allclose(known[0], losses[0])


def test_fewer_queries_are_the_first():
    full, part = make().eval(), make(query_share=0.4).eval()
    everything, some = full.puzzle(batch(), Step.at(0))[3], part.puzzle(batch(), Step.at(0))[3]
    assert some.places.shape == (3, 14, 3), "int(0.4 * 36)"
    assert torch.equal(some.normal, everything.normal[:, :14])


@pytest.mark.parametrize("targets", ["normal", "variation"])
def test_one_target_alone(targets):
    task = make(targets=targets)
    assert list(task.loss(batch(), Step.at(0))) == [targets] and list(task.heads) == [targets]


def test_prediction_is_not_normalised():
    """Twice as long an answer has the same angle and another loss."""
    task = make().eval()
    before = task.loss(batch(), Step.at(0))["normal"]
    with torch.no_grad():
        task.heads["normal"].weight *= 2
        task.heads["normal"].bias *= 2
    assert not torch.allclose(task.loss(batch(), Step.at(0))["normal"], before)


def test_what_is_missing_is_named():
    given = batch()
    for key in ("points", "normals", "variation"):
        with pytest.raises(UsageError, match=key):
            make().loss({name: value for name, value in given.items() if name != key}, Step.at(0))
    with pytest.raises(UsageError, match="query_share"):
        make(query_share=0.0)


def test_half_precision_keeps_angles():
    task, given = make().float().eval(), {name: value.float() for name, value in batch().items()}
    exact = task.loss(given, Step.at(0))
    with torch.autocast("cpu", torch.bfloat16):
        rough = task.loss(given, Step.at(0))
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32 and rough[name].item() == pytest.approx(
            value.item(), rel=0.05
        )


def test_the_preview_paints_what_is_asked():
    task = make().eval()
    with torch.no_grad():
        sheet = task.preview(batch(), Step.at(0))
    assert [panel.role for panel in sheet.rows[0]] == ["input", "truth", "answer", "truth", "answer"]
    hidden = task.puzzle(batch(), Step.at(0))[3]
    painted = sheet.rows[0][1].content[24:]
    torch.testing.assert_close(painted[:, 3:], (hidden.normal[0] + 1) / 2)
    assert all(panel.content[:, 3:].min() >= 0 and panel.content[:, 3:].max() <= 1 for panel in sheet.rows[1])
