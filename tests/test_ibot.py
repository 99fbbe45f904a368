"""iBOT and DINO against the papers' loops, on every token, in float64."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.dino import DINO
from pretask.methods.image.ibot import IBOT, hidden_places
from pretask.task import Step
from pretask.training.plan import Schedule

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


def looked_up(old: int, new: int):
    """What of `old` places each of `new` is made of: cubic convolution with A = -0.75, corners not aligned, the
    border repeated, for a scale of (new + 0.1) / old."""
    found = torch.zeros(new, old, dtype=torch.float64)
    for place in range(new):
        at = (place + 0.5) / ((new + 0.1) / old) - 0.5
        for near in range(math.floor(at) - 1, math.floor(at) + 3):
            x = abs(at - near)
            cubic = 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            found[place, min(max(near, 0), old - 1)] += cubic
    return found


def official(encoder, image, hidden=None, mask_token=None):
    """Class token and patches of the official vision transformer, with the weights of ours."""
    model, size = encoder.model, encoder.patch_size
    conv = model.patch_embed.proj
    x = F.conv2d((image - encoder.mean) / encoder.std, conv.weight, conv.bias, stride=size)
    (old, _), new = encoder.grid, x.shape[-1]
    x = x.flatten(2).transpose(1, 2)
    if hidden is not None:
        x = torch.stack([torch.where(h[:, None], mask_token, v) for h, v in zip(hidden, x, strict=True)])
    first, places = model.pos_embed[0, :1], model.pos_embed[0, 1:]
    if new != old:
        maps = places.unflatten(0, (old, old))
        places = torch.einsum("ia,jb,abd->ijd", looked_up(old, new), looked_up(old, new), maps).flatten(0, 1)
    x = torch.cat([(model.cls_token[0] + first).expand(len(x), 1, -1), x + places], dim=1)
    for block in model.blocks:
        x = block(x)
    return model.norm(x)


def reference(task, views, hidden, epoch_temperature):
    """The official loss, dense: every token through the head, every pair of views by itself."""
    student, teacher = task.encoder, task.teacher
    t = official(teacher.encoder, torch.cat(views[:2]))
    s = official(student, torch.cat(views[:2]), hidden, task.mask_token)
    local = task.head(official(student, torch.cat(views[2:]))[:, 0])
    student_cls = (torch.cat([task.head(s[:, 0]), local]) / 0.1).chunk(4)
    student_patch = (task.head(s[:, 1:]) / 0.1).chunk(2)
    z_cls, z_patch = teacher.head(t[:, 0]).detach(), teacher.head(t[:, 1:]).detach()
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
    step = Step.at(35, total=1000, steps_per_epoch=10)  # epoch 3 of 100: 30 epochs of warm-up
    losses = task(batch(), step)
    cls, patch, z_cls, z_patch = reference(task, views, hidden, 0.04 + 0.03 * 3 / 29)
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


@pytest.mark.parametrize("cls", [DINO, IBOT])
def test_positions_of_local_crops_are_resized_as_in_the_official_code(cls):
    """14 x 14 to 6 x 6, as of 224 and 96 pixels; timm's differ by most of their size."""
    plain = build_encoder(VIT, image_size=56, patch_size=4, seed=0).double()
    task = cls(copy.deepcopy(plain), prototypes=K)
    assert task.view_specs[2].size == 28
    for size in (56, 24):
        image = torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        for network in (task.encoder, task.teacher.encoder, task.learned):
            torch.testing.assert_close(network(image).pooled, official(network, image)[:, 0])
    there = [model.embed(image)[0][:, 1:] - model.contents(image) for model in (task.encoder, plain)]
    assert (there[0] - there[1]).norm() > 0.5 * there[1].norm()
    torch.testing.assert_close(
        plain(image).tokens, plain.model.forward_features(plain.normalise(image))[:, 1:]
    )  # outside these methods


@pytest.mark.parametrize("name", [VIT + ",reg_tokens=2", VIT + ",reg_tokens=2,no_embed_class=true"])
def test_other_tokens_keep_their_positions_in_local_crops(name):
    task = DINO(encoder(name), prototypes=K)
    crop = torch.rand(2, 3, 16, 16)
    x, _ = task.encoder.embed(crop)
    model = task.encoder.model
    first = torch.cat([model.cls_token, model.reg_token], dim=1)
    if "no_embed_class" not in name:
        first = first + model.pos_embed[:, :3]
    torch.testing.assert_close(x[:, :3], first.expand(2, -1, -1))
    table = model.pos_embed[0, -N:].view(8, 8, -1).double()
    expected = torch.einsum("ia,jb,abd->ijd", looked_up(8, 4), looked_up(8, 4), table).flatten(0, 1)
    torch.testing.assert_close((x[:, 3:] - task.encoder.contents(crop))[0], expected.float())


@pytest.mark.parametrize("cls", [DINO, IBOT])
def test_the_class_token_starts_as_in_the_official_code_unless_it_was_learned(cls):
    wide = "vit_tiny_patch16_224:depth=1,embed_dim=2048,num_heads=2"
    task = cls(encoder(wide), prototypes=K)
    token = task.encoder.model.cls_token
    assert token.std().item() == pytest.approx(0.02, rel=0.1) and token.abs().max() > 0.04
    assert torch.equal(token, task.teacher.encoder.model.cls_token)
    known = encoder()
    known.pretrained, before = True, known.model.cls_token.clone()
    assert torch.equal(cls(known, prototypes=K).encoder.model.cls_token, before)


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


@pytest.mark.parametrize("epochs", [100, 300, 800])
def test_the_teachers_temperature_climbs_for_30_of_the_papers_epochs(epochs):
    task = make()
    at = [task.sharpness(Step.at(10 * epoch + 9, 10 * epochs, 10)) for epoch in range(epochs)]
    official = torch.cat([torch.linspace(0.04, 0.07, 30), torch.full((epochs - 30,), 0.07)])
    assert at == pytest.approx(official.tolist(), rel=1e-5)


def test_it_climbs_for_three_tenths_of_a_short_run_but_as_long_as_it_is_told():
    task = make()
    short = [task.sharpness(Step.at(epoch, total=20)) for epoch in range(20)]
    assert short == pytest.approx([0.04 + 0.03 * epoch / 5 for epoch in range(6)] + [0.07] * 14)
    task = make(temperature_epochs=15)
    told = [task.sharpness(Step.at(epoch, total=20)) for epoch in range(20)]
    assert told == pytest.approx([0.04 + 0.03 * epoch / 14 for epoch in range(15)] + [0.07] * 5)
    assert make(temperature_epochs=0).sharpness(Step.at(0, total=20)) == 0.07


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


def test_the_rate_is_the_official_schedules():
    """cosine_scheduler(2e-3, 1e-6, 800 epochs, 3 steps each, 10 epochs of warm-up)."""
    schedule = Schedule(IBOT(encoder(VIT, 224)).recipe, 1024 / 256, 0, 2400)
    rest = np.arange(2370)
    falling = 1e-6 + 0.5 * (2e-3 - 1e-6) * (1 + np.cos(np.pi * rest / 2370))
    official = np.concatenate([np.linspace(0, 2e-3, 30), falling])
    found = [schedule.peak * schedule.shape(i) for i in range(2400)]
    assert found == pytest.approx(official.tolist(), rel=1e-9, abs=1e-15)


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
