"""iBOT and DINO against the papers' loops, on every token, in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.dino import DINO
from pretask.methods.image.ibot import IBOT, hidden_places
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=24,num_heads=2"
B, N, K = 3, 64, 20


def encoder(name: str = VIT, size: int = 32):
    return build_encoder(name, image_size=size, seed=0)


def make(cls=IBOT, **options):
    torch.manual_seed(0)
    return cls(encoder(), **{"prototypes": K, "num_local": 2, "drop_path": 0.0} | options)


def batch(size: int = B):
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(size, 3, 40, 40, generator=generator), "index": torch.arange(size)}


def stray(task):
    """A teacher that differs from its student, and centres that are not 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in task.teacher.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        for name, value in task.named_buffers():
            if "centre" in name:
                value.normal_(generator=generator)
    return task


def fixed_inputs(task, monkeypatch):
    """Crops and masks that the reference sees too; one crop has no mask."""
    generator = torch.Generator().manual_seed(2)
    sizes = [32, 32, 16, 16]
    views = [torch.rand(B, 3, s, s, generator=generator, dtype=torch.float64) for s in sizes]
    hidden = torch.rand(2 * B, N, generator=generator) < 0.3
    hidden[1] = False
    monkeypatch.setattr(task, "views", lambda batch, step: views)
    monkeypatch.setattr(task, "hide", lambda batch, step, attention: hidden, raising=False)
    return views, hidden


def reference(task, views, hidden, epoch_temperature):
    """The official loss, dense: every token through the head, every pair of views by itself."""
    student, teacher = task.encoder, task.teacher
    t = teacher.encoder(torch.cat(views[:2]))
    s = student(torch.cat(views[:2]), hidden=hidden, mask_token=task.mask_token)
    local = task.head(student(torch.cat(views[2:])).prefix[:, 0])
    student_cls = (torch.cat([task.head(s.prefix[:, 0]), local]) / 0.1).chunk(4)
    student_patch = (task.head(s.tokens) / 0.1).chunk(2)
    z_cls, z_patch = teacher.head(t.prefix[:, 0]).detach(), teacher.head(t.tokens).detach()
    target_cls = F.softmax((z_cls - task.centre.value) / epoch_temperature, -1).chunk(2)
    target_patch = F.softmax((z_patch - task.patch_centre.value) / epoch_temperature, -1).chunk(2)
    cls, patch, masks = [], [], hidden.chunk(2)
    for q in range(2):
        for v in range(4):
            if v == q:
                ce = torch.sum(-target_patch[q] * F.log_softmax(student_patch[v], -1), -1)
                patch.append((torch.sum(ce * masks[v], -1) / masks[v].sum(-1).clamp(min=1)).mean())
            else:
                cls.append(torch.sum(-target_cls[q] * F.log_softmax(student_cls[v], -1), -1).mean())
    return sum(cls) / len(cls), sum(patch) / len(patch), z_cls, z_patch


def test_the_loss_is_the_official_one_with_its_gradients(monkeypatch):
    task = stray(make(cls_weight=1.0, patch_weight=0.7).double())
    views, hidden = fixed_inputs(task, monkeypatch)
    step = Step.at(35, total=1000, steps_per_epoch=10)  # epoch 3 of 100: 10 epochs of warm-up
    losses = task(batch(), step)
    cls, patch, z_cls, z_patch = reference(task, views, hidden, 0.04 + 0.03 * 3 / 9)
    torch.testing.assert_close(losses["cls"], cls)
    torch.testing.assert_close(losses["patch"], patch)
    learning = [p for p in task.parameters() if p.requires_grad]
    ours = torch.autograd.grad(task.total(losses), learning)
    for a, b in zip(ours, torch.autograd.grad(cls + 0.7 * patch, learning), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)  # a crop's weights are in single precision
    old, old_patch = task.centre.value.clone(), task.patch_centre.value.clone()
    task.after_step(step)
    torch.testing.assert_close(task.centre.value, 0.9 * old + 0.1 * z_cls.mean(0))
    torch.testing.assert_close(task.patch_centre.value, 0.9 * old_patch + 0.1 * z_patch.mean((0, 1)))


def test_without_masks_and_patches_ibot_is_dino(monkeypatch):
    ibot, dino = make(mask_probability=0.0).double(), make(DINO, teacher_temperature=0.07).double()
    dino.load_state_dict({k: v for k, v in ibot.state_dict().items() if k in dino.state_dict()})
    views, _ = fixed_inputs(dino, monkeypatch)
    monkeypatch.setattr(ibot, "views", lambda batch, step: views)
    step = Step.at(3, total=10)
    losses = ibot(batch(), step)
    assert losses["patch"].item() == 0
    torch.testing.assert_close(losses["cls"], dino(batch(), step)["cls"])


def test_the_student_does_not_see_hidden_pixels_and_the_teacher_does(monkeypatch):
    task = stray(make(num_local=0).double())
    views, hidden = fixed_inputs(task, monkeypatch)
    del views[2:]
    seen = {}
    for name, net in (("student", task.encoder), ("teacher", task.teacher.encoder)):
        net.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o.tokens.detach()))
    task(batch(), Step.at())
    before = dict(seen)
    pixels = F.interpolate(hidden.view(-1, 1, 8, 8).double(), 32)
    views[0].add_(pixels[:B]), views[1].add_(pixels[B:])
    task(batch(), Step.at())
    torch.testing.assert_close(seen["student"], before["student"])
    assert not torch.allclose(seen["teacher"], before["teacher"])


def test_the_mask_token_starts_at_zero_and_takes_the_place_of_the_patch_not_of_its_position():
    task = make().double()
    assert task.mask_token.shape == (1, 24) and not task.mask_token.any()
    everything = torch.ones(1, N, dtype=torch.bool)
    x, _ = task.encoder.embed(torch.rand(1, 3, 32, 32).double(), everything, task.mask_token)
    torch.testing.assert_close(x[:, 1:], task.encoder.model.pos_embed[:, 1:])


def test_gradients_reach_the_student_alone():
    task = make(mask_probability=1.0)
    losses = task(batch(), Step.at())
    task.total(losses).backward()
    assert all(p.grad is None and not p.requires_grad for p in task.teacher.parameters())
    missing = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert task.mask_token.grad.any()


def test_the_teacher_follows_in_a_cosine_by_step():
    task = make(momentum=0.9)
    for index in range(4):
        before = copy.deepcopy(dict(task.teacher.named_parameters()))
        with torch.no_grad():
            for p in task.head.parameters():
                p.add_(0.1)
        task.after_step(Step.at(index, total=4))
        m = 1 + 0.5 * (0.9 - 1) * (1 + math.cos(math.pi * index / 4))
        for name, p in task.teacher.named_parameters():
            torch.testing.assert_close(p, m * before[name] + (1 - m) * task.get_parameter(name))


def test_the_teachers_temperature_climbs_by_epoch():
    task = make()
    steps = (0, 9, 10, 99, 100, 999)
    at = [task.sharpness(Step.at(index, total=1000, steps_per_epoch=10)) for index in steps]
    assert at == pytest.approx([0.04, 0.04, 0.04 + 0.03 / 9, 0.07, 0.07, 0.07])
    long = [task.sharpness(Step.at(epoch, total=800)) for epoch in (0, 15, 29, 30)]
    assert long == pytest.approx([0.04, 0.04 + 0.03 * 15 / 29, 0.07, 0.07])


def test_prototypes_rest_in_the_first_epoch_and_each_gradient_is_clipped():
    task = make(unit_prototypes=False, freeze_last_layer=1)
    for index, frozen in ((0, True), (9, True), (10, False)):
        for p in task.parameters():
            p.grad = torch.full_like(p, 10.0) if p.requires_grad else None
        task.after_backward(Step.at(index, total=100, steps_per_epoch=10))
        assert all((p.grad is None) == frozen for p in task.head.last_layer.parameters())
        norms = [p.grad.norm() for p in task.parameters() if p.grad is not None]
        torch.testing.assert_close(torch.stack(norms), torch.full((len(norms),), 3.0))


def test_prototypes_learn_even_in_a_run_within_one_epoch():
    task = make()
    for index, frozen in ((0, True), (4, True), (5, False)):
        task.head.last_layer.weight_v.grad = torch.ones_like(task.head.last_layer.weight_v)
        task.after_backward(Step.at(index, total=50, steps_per_epoch=1000))
        assert (task.head.last_layer.weight_v.grad is None) == frozen


def test_half_of_the_crops_are_masked_by_blocks_up_to_their_share():
    task = make()
    share = task.hide(1000, Step.at()).float().mean(1)
    assert abs((share == 0).float().mean() - 0.5) < 0.05
    assert share.max() <= 0.5 and 0.2 < share[share > 0].mean() < 0.31


def test_random_masks_hide_the_whole_number_of_patches():
    task = make(mask="random", mask_ratio=(0.3, 0.3), mask_probability=1.0)
    hidden = task.hide(50, Step.at())
    assert (hidden.sum(1) == int(0.3 * N)).all()
    assert len(hidden.unique(dim=0)) == 100
    spread = make(mask="random", mask_probability=1.0).hide(400, Step.at()).sum(1)
    assert spread.min() >= int(0.1 * N) and spread.max() <= int(0.5 * N) and len(spread.unique()) > 20


def test_places_on_an_accelerator_weigh_the_same():
    hidden = torch.rand(6, N, generator=torch.Generator().manual_seed(0)) < 0.3
    hidden[2] = False
    place, weight = hidden_places(hidden, 0.5)
    assert place.tolist() == hidden.flatten().nonzero().squeeze(1).tolist()
    assert weight.sum().item() == pytest.approx(5 / 6)
    dense = torch.zeros(6 * N).index_add_(0, place, weight)
    torch.testing.assert_close(dense.view(6, N), hidden / hidden.sum(1, keepdim=True).clamp(min=1) / 6)

    class Elsewhere(torch.Tensor):  # pretends to live where nothing may be counted
        device = torch.device("cuda")

    found = hidden_places(hidden.as_subclass(Elsewhere), 0.5)
    place, weight = (value.as_subclass(torch.Tensor) for value in found)
    assert len(place) == 6 * 32 and len(place.unique()) == len(place)
    again = torch.zeros(6 * N).index_add_(0, place, weight)
    torch.testing.assert_close(again, dense)


def test_looking_on_changes_nothing():
    task = make(drop_path=0.5)
    state = copy.deepcopy(task.state_dict())
    with torch.no_grad():
        task(batch(), Step.at())
        task.preview(batch(), Step.at())
    task.eval()
    task(batch(), Step.at())
    assert not task.centre.noted and not task.patch_centre.noted
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())


def test_the_seed_decides_everything_also_what_is_dropped():
    task = make(drop_path=0.5)
    first, again, other = (task(batch(), Step.at(seed=seed))["cls"].item() for seed in (0, 0, 1))
    assert first == again != other
    torch.manual_seed(1)
    assert task(batch(), Step.at(seed=0))["cls"].item() == first


def test_branches_are_dropped_in_training_only():
    task = make(drop_path=0.9, num_local=0)
    image = [torch.rand(B, 3, 32, 32)]
    assert not torch.allclose(task.encode(image, Step.at()).pooled, task.encoder(image[0]).pooled)
    task.eval()
    torch.testing.assert_close(task.encode(image, Step.at()).pooled, task.encoder(image[0]).pooled)


def test_chance_is_reached_when_all_answers_are_alike():
    task = make(mask_probability=1.0)
    with torch.no_grad():
        task.head.last_layer.weight_v.copy_(task.head.last_layer.weight_v[:1].expand(K, -1))
    losses = task(batch(), Step.at())
    for name, value in task.chance(B).items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4)
    assert make().chance(B)["patch"] == pytest.approx(0.5 * math.log(K))


def test_a_collapsed_teacher_shows_in_its_entropy():
    task, step = make(), Step.at()
    with torch.no_grad():
        task.teacher.head.last_layer.weight_v.copy_(task.teacher.head.last_layer.weight_v[:1].expand(K, -1))
    task(batch(), step)
    assert step.metrics["teacher_entropy"].item() == pytest.approx(math.log(K), rel=1e-4)


def test_sizes_are_the_papers_at_224_pixels_and_small_for_small_pictures():
    small, large = make(IBOT, prototypes=None, num_local=None), IBOT(encoder(VIT, 224))
    assert (small.prototypes, small.num_local, small.momentum) == (1024, 4, 0.99)
    assert [spec.size for spec in small.view_specs] == [32, 32, 16, 16, 16, 16]
    assert (large.prototypes, large.num_local, large.momentum) == (8192, 10, 0.996)
    assert [spec.size for spec in large.view_specs] == [224] * 2 + [96] * 10
    assert [layer.out_features for layer in large.head.mlp[::2]] == [2048, 2048, 256]
    first, second, local = large.view_specs[:3]
    assert (first.blur, first.solarise) == (1.0, 0.0) and (second.blur, second.solarise) == (0.1, 0.2)
    assert (local.blur, local.solarise) == (0.5, 0.0) and local.scale == (0.05, 0.25)
    assert large.recipe.weight_decay == 0.04 and large.recipe.weight_decay_end == 0.4


def test_dino_takes_a_convolutional_encoder_and_ibot_says_why_it_does_not():
    resnet = build_encoder("resnet18", image_size=32, seed=0)
    task = DINO(resnet, prototypes=K, num_local=1)
    loss = task(batch(), Step.at())["cls"]
    loss.backward()
    assert loss.isfinite()
    with pytest.raises(UsageError, match="vision transformer"):
        IBOT(resnet)
    with pytest.raises(UsageError, match="multiple"):
        IBOT(encoder(), local_size=15)


@pytest.mark.parametrize("cls", [DINO, IBOT])
def test_the_sheet_shows_every_picture(cls):
    sheet = make(cls).preview(batch(), Step.at())
    assert len(sheet.rows) == B
    for panel in sheet.rows[0]:
        assert panel.content.ndim == 3 and 0 <= panel.content.min() <= panel.content.max() <= 1
    assert {panel.role for panel in sheet.rows[0]} >= {"answer", "truth"}


def test_the_teacher_is_kept_and_can_be_fine_tuned():
    """The official evaluations look at the teacher."""
    task = make()
    with torch.no_grad():
        task.teacher.encoder.model.patch_embed.proj.bias.fill_(0.5)
    kept = task.learned
    assert (kept.model.patch_embed.proj.bias == 0.5).all()
    flags = [p.requires_grad for p in kept.parameters()]
    assert flags == [p.requires_grad for p in task.encoder.parameters()] and any(flags)
    assert not any(p.requires_grad for p in task.teacher.parameters())
