"""Methods that compare two views of a picture: their losses against loops in float64."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.methods.image.barlow_twins import BarlowTwins
from pretask.methods.image.byol import BYOL
from pretask.methods.image.deepcluster_v2 import DeepClusterV2
from pretask.methods.image.moco import MoCo
from pretask.methods.image.nnclr import NNCLR
from pretask.methods.image.simsiam import SimSiam
from pretask.methods.image.swav import SwAV
from pretask.methods.image.vicreg import VICReg
from pretask.objectives.decorrelation import barlow_twins, covariance, variance_hinge
from pretask.objectives.sinkhorn import sinkhorn
from pretask.pretexts.views import simclr_views
from pretask.task import Step

GRID = "resnet10t:stem_width=8,channels=[8,16,24,32],zero_init_last=false"
ALL = (BYOL, SimSiam, MoCo, NNCLR, SwAV, BarlowTwins, VICReg)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(cls, **options):
    torch.manual_seed(0)
    return cls(build_encoder(GRID, image_size=32, seed=0), **options).double()


def batch(count: int = 6):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5), dtype=torch.float64)}


def cosines(a, b):
    return [F.cosine_similarity(x, y, dim=0) for x, y in zip(a, b, strict=True)]


# ---- blocks


def test_sinkhorn_is_the_official_loop():
    scores = torch.randn(7, 4, dtype=torch.float64, generator=generator()) / 3
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 4
        q = q / q.sum(0, keepdim=True) / 7
    assert torch.allclose(sinkhorn(scores), (q * 7).T, atol=1e-12)
    assert torch.allclose(sinkhorn(scores).sum(1), torch.ones(7, dtype=torch.float64))
    even = sinkhorn(scores, iterations=200).sum(0)
    assert torch.allclose(even, torch.full((4,), 7 / 4, dtype=torch.float64), atol=1e-2)


def test_barlow_twins_is_the_papers():
    a, b = torch.randn(2, 9, 5, dtype=torch.float64, generator=generator())
    z = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b)]
    total = 0.0
    for i in range(5):
        for j in range(5):
            c = sum(float(z[0][n, i] * z[1][n, j]) for n in range(9)) / 9
            total += (1 - c) ** 2 if i == j else 0.1 * c**2
    assert barlow_twins(a, b, 0.1).item() == pytest.approx(total)


def test_variance_and_covariance_are_vicregs():
    x = 0.3 * torch.randn(8, 4, dtype=torch.float64, generator=generator())
    mean = x.mean(0)
    hinge = [max(0, 1 - math.sqrt(float(((x[:, i] - mean[i]) ** 2).sum()) / 7 + 1e-4)) for i in range(4)]
    assert variance_hinge(x).item() == pytest.approx(sum(hinge) / 4)
    total = 0.0
    for i in range(4):
        for j in range(4):
            c = float(((x[:, i] - mean[i]) * (x[:, j] - mean[j])).sum()) / 7
            total += c**2 if i != j else 0
    assert covariance(x).item() == pytest.approx(total / 4)


# ---- methods


def test_byol_is_two_minus_two_cosines_both_ways():
    task = make(BYOL)
    first, second = task.views(batch(), Step.at(1)).chunk(2)
    said = [task.compared(view) for view in (first, second)]
    true = [task.target(view) for view in (second, first)]
    total = sum(2 - 2 * torch.stack(cosines(p, z)).mean() for p, z in zip(said, true, strict=True))
    assert make(BYOL).loss(batch(), Step.at(1))["byol"].item() == pytest.approx(total.item())


def test_byols_target_follows_encoder_and_projector_and_gets_no_gradient():
    task = make(BYOL, momentum=0.9)
    task.loss(batch(), Step.at())["byol"].backward()
    assert all(p.grad is None for p in task.target.parameters())
    assert all(p.grad is not None for p in task.predictor.parameters())
    before = {name: p.clone() for name, p in task.target.named_parameters()}
    with torch.no_grad():
        for p in task.projector.parameters():
            p.add_(1.0)
    task.after_step(Step.at(0, 10))
    for name, p in task.target.named_parameters():
        moved = 0.1 if name.startswith("projector") else 0.0
        assert torch.allclose(p, before[name] + moved, atol=1e-6)


def test_simsiam_is_minus_half_the_cosines_and_stops_the_gradient():
    task = make(SimSiam)
    z = [task.compared(view) for view in task.views(batch(), Step.at(1)).chunk(2)]
    p = [task.predictor(part) for part in z]
    expected = -(torch.stack(cosines(p[0], z[1])).mean() + torch.stack(cosines(p[1], z[0])).mean()) / 2
    again = make(SimSiam)
    loss = again.loss(batch(), Step.at(1))["simsiam"]
    assert loss.item() == pytest.approx(expected.item())
    assert not task.projector[-1].affine
    grads = []
    for stop in (True, False):
        one = make(SimSiam, stop_gradient=stop)
        one.loss(batch(), Step.at(1))["simsiam"].backward()
        grads.append(one.projector[0].weight.grad)
    assert not torch.allclose(*grads), "without the stop more gradient comes back"


def test_moco_finds_the_key_among_the_queue():
    task = make(MoCo, queue=10)
    first, second = task.views(batch(), Step.at(1)).chunk(2)
    q, k = F.normalize(task.compared(first)), F.normalize(task.target(second))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ task.queue.rows.T], 1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    fresh = make(MoCo, queue=10)
    rows = fresh.queue.rows.clone()
    assert fresh.loss(batch(), Step.at(1))["info_nce"].item() == pytest.approx(expected.item())
    assert torch.equal(fresh.queue.rows, rows), "the keys enter behind the loss"
    fresh.after_step(Step.at(1, 10))
    assert torch.allclose(fresh.queue.rows[:6], k, atol=1e-6) and torch.equal(fresh.queue.rows[6:], rows[6:])


def test_looking_at_moco_enqueues_nothing():
    task = make(MoCo, queue=10)
    rows = task.queue.rows.clone()
    with torch.no_grad():
        task.loss(batch(), Step.at())
    task.eval().loss(batch(), Step.at())
    task.after_step(Step.at(0, 10))
    assert torch.equal(task.queue.rows, rows)


def test_nnclr_contrasts_neighbours_with_predictions_both_ways():
    task = make(NNCLR, queue=12)
    z = [task.compared(view) for view in task.views(batch(), Step.at(1)).chunk(2)]
    p = [F.normalize(task.predictor(part)) for part in z]
    total = 0.0
    for own, other in ((z[0], p[1]), (z[1], p[0])):
        for i in range(6):
            near = max(
                task.queue.rows, key=lambda row, i=i, own=own: (F.normalize(own[i], dim=0) @ row).item()
            )
            logits = [(near @ other[j]).item() / 0.1 for j in range(6)]
            total += (math.log(sum(math.exp(v) for v in logits)) - logits[i]) / 12
    fresh = make(NNCLR, queue=12)
    assert fresh.loss(batch(), Step.at(1))["nnclr"].item() == pytest.approx(total, rel=1e-6)
    fresh.after_step(Step.at(1, 10))
    assert torch.allclose(fresh.queue.rows[:6], F.normalize(z[0]), atol=1e-6)


def test_nnclrs_views_are_simclrs_bicubic():
    task = make(NNCLR, queue=12)
    assert (
        task.first == task.second == replace(simclr_views(task.encoder.image_size), interpolation="bicubic")
    )


def test_swav_predicts_the_other_crops_assignments():
    task = make(SwAV, prototypes=5, num_local=1)
    step = Step.at(1)
    views, local = task.views(batch(), step).chunk(2), task.small_crops(batch(), step)
    # the encoder sees crops of one size together, the projector all crops, as the official forward pass
    pooled = torch.cat([task.encoder(torch.cat(views)).pooled, task.encoder(local[0]).pooled])
    scores = task.prototypes(F.normalize(task.projector(pooled))).chunk(3)
    codes = [sinkhorn(s) for s in scores[:2]]
    terms = [
        -(codes[i] * (scores[v] / 0.1).log_softmax(1)).sum(1).mean()
        for i in range(2)
        for v in range(3)
        if v != i
    ]
    fresh = make(SwAV, prototypes=5, num_local=1)
    loss = fresh.loss(batch(), Step.at(1))["swav"]
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item())


def test_swavs_queue_is_assigned_with_the_batch_once_it_is_full():
    task = make(SwAV, prototypes=5, num_local=0, queue=12, queue_from=0)
    for number in range(3):
        step = Step.at(number, 100, 10)
        vectors = [v.detach() for v in task.crops(batch(), Step.at(number, 100, 10))]
        queues = [queue.rows.clone() for queue in task.queues]
        codes = [
            sinkhorn(task.prototypes(torch.cat([v, q]) if number == 2 else v))[:6]
            for v, q in zip(vectors, queues, strict=True)
        ]
        terms = [
            -(codes[i] * (task.prototypes(vectors[1 - i]) / 0.1).log_softmax(1)).sum(1).mean()
            for i in range(2)
        ]
        assert task.loss(batch(), step)["swav"].item() == pytest.approx(torch.stack(terms).mean().item())
        task.after_step(step)
        for v, before, queue in zip(vectors, queues, task.queues, strict=True):
            written = slice(6 * number % 12, 6 * number % 12 + 6)
            torch.testing.assert_close(queue.rows[written], v)
            assert torch.equal(queue.rows[written.stop :], before[written.stop :])
    late = make(SwAV, prototypes=5, queue=12, queue_from=3)
    assert late.filling_from(Step.at(0, 1000, 10)) == 30 and late.filling_from(Step.at(0, 100, 10)) == 10


def test_swavs_prototypes_have_length_one_and_wait_an_epoch():
    task = make(SwAV, prototypes=5)
    assert torch.allclose(task.prototypes.weight.norm(dim=1), torch.ones(5, dtype=torch.float64))
    for index, frozen in ((3, True), (30, False)):
        step = Step.at(index, total=100, steps_per_epoch=10)
        task.zero_grad()
        task.loss(batch(), step)["swav"].backward()
        task.after_backward(step)
        assert (task.prototypes.weight.grad is None) == frozen
    with torch.no_grad():
        task.prototypes.weight.mul_(3)
    task.after_step(Step.at())
    assert torch.allclose(task.prototypes.weight.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_barlow_twins_and_vicreg_project_each_view_alone():
    for cls, names in ((BarlowTwins, {"barlow"}), (VICReg, {"invariance", "variance", "covariance"})):
        task = make(cls, dim=16)
        first, second = (copy.deepcopy(task).compared(v) for v in task.views(batch(), Step.at(1)).chunk(2))
        losses = task.loss(batch(), Step.at(1))
        assert set(losses) == names
        if cls is BarlowTwins:
            assert losses["barlow"].item() == pytest.approx(barlow_twins(first, second).item())
        else:
            assert losses["invariance"].item() == pytest.approx(F.mse_loss(first, second).item())
            expected = (variance_hinge(first) + variance_hinge(second)).item() / 2
            assert losses["variance"].item() == pytest.approx(expected)
            assert task.weights == {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}


def test_heads_are_the_official_ones():
    byol, twins, vicreg = make(BYOL), make(BarlowTwins, dim=16), make(VICReg, dim=16)
    for head in (byol.projector, byol.predictor, twins.projector, vicreg.projector):
        assert [layer.bias for layer in head if isinstance(layer, torch.nn.Linear)] == [None] * (
            len(head) // 3 + 1
        )
    simsiam = make(SimSiam, dim=64)
    shapes = [tuple(layer.weight.shape) for layer in simsiam.projector if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(32, 32), (32, 32), (64, 32)] and simsiam.predictor[-1].bias is not None


def test_the_blur_of_small_views_is_not_cut_short():
    """PIL's and cv2's with 23 taps: of a deviation of 2 nothing is missing."""
    moco, swav = (cls(build_encoder(GRID, image_size=112)) for cls in (MoCo, SwAV))
    assert moco.first.blur_radius == swav.first.blur_radius == swav.local.blur_radius == 11


def test_rates_end_where_the_official_codes_end():
    assert [cls.recipe.final_lr for cls in (BarlowTwins, VICReg, SwAV, BYOL)] == [1e-3, 1e-3, 1e-3, 0.0]
    # the released scripts warm up from 0.3 to 4.8, both ends included
    assert SwAV.recipe.warmup_arrives and DeepClusterV2.recipe.warmup_arrives
    assert [cls.recipe.warmup_from for cls in (SwAV, DeepClusterV2, BYOL)] == [0.0625, 0.0625, 0.0]


def test_byols_second_view_is_solarised_and_the_first_is_not():
    task = make(BYOL)
    assert task.first.solarise == 0 and task.second.solarise == 0.2
    large = BYOL(build_encoder(GRID, image_size=96), hidden_dim=8)
    assert large.first.blur == 1.0 and large.second.blur == 0.1


@pytest.mark.parametrize("cls", ALL)
def test_transformers_get_a_rate_they_learn_at(cls):
    vit = build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2", image_size=32)
    assert cls(vit).recipe.optimizer == "adamw" and cls.recipe.optimizer != "adamw"


@pytest.mark.parametrize(("items", "dim"), [(5, 12), (12, 5), (6, 6)])
def test_many_dimensions_or_many_items_make_no_difference(items, dim):
    """The loss by the small product is that by the matrix of dimensions, entry by entry."""
    generator = torch.Generator().manual_seed(items)
    a, b = (torch.randn(items, dim, dtype=torch.double, generator=generator) for _ in range(2))
    scaled = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in (a, b)]
    total = 0.0
    for i in range(dim):
        for j in range(dim):
            entry = sum(float(scaled[0][n, i] * scaled[1][n, j]) for n in range(items)) / items
            total += (1 - entry) ** 2 if i == j else 0.1 * entry**2
    assert barlow_twins(a, b, 0.1).item() == pytest.approx(total)
    c = a.T.cov()
    off = sum(float(c[i, j]) ** 2 for i in range(dim) for j in range(dim) if i != j)
    assert covariance(a).item() == pytest.approx(off / dim)
    a.requires_grad_()
    torch.autograd.gradcheck(lambda x: barlow_twins(x, b, 0.1) + covariance(x), a)
