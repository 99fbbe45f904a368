"""data2vec's targets and loss against loops over layers, places and numbers."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.data2vec import Data2Vec
from pretask.pretexts.masks import draw_blocks
from pretask.pretexts.views import apply_view, draw_view
from pretask.task import Step
from pretask.training.optimisers import groups
from pretask.training.plan import make_plan

VIT = "vit_tiny_patch16_224:depth=3,embed_dim=32,num_heads=2,init_values=0.5"
BEIT = "beit_base_patch16_224:depth=3,embed_dim=32,num_heads=2,use_rel_pos_bias=false,use_shared_rel_pos_bias=true"


def make(name: str = VIT, **options) -> Data2Vec:
    torch.manual_seed(0)
    task = Data2Vec(build_encoder(name, image_size=32, patch_size=4, seed=0), **{"drop_path": 0.0} | options)
    with torch.no_grad():  # a teacher that is not its student, and scales that tell layers and channels apart
        for parameter in task.teacher.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return task


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(5))}


def standard(vector: list[float]) -> list[float]:
    centre = sum(vector) / len(vector)
    variance = sum((x - centre) ** 2 for x in vector) / len(vector)
    return [(x - centre) / math.sqrt(variance + 1e-5) for x in vector]


def naive_truth(task: Data2Vec, image: torch.Tensor, layers: int, renormalise: bool = True) -> torch.Tensor:
    """Block by block, place by place, number by number."""
    model = task.teacher.model
    patches = model.patch_embed((image - task.teacher.mean) / task.teacher.std)
    x = model._pos_embed(patches)
    told = []
    for block in model.blocks:
        x = x + block.ls1(block.attn(block.norm1(x)))
        added = block.ls2(block.mlp(block.norm2(x)))
        x = x + added
        told.append(x if task.target == "block" else added)
    truth = torch.zeros(len(image), 64, 32, dtype=image.dtype)
    for n in range(len(image)):
        for place in range(64):
            each = [standard(out[n, 1 + place].tolist()) for out in told[-layers:]]
            average = [sum(values) / len(each) for values in zip(*each, strict=True)]
            truth[n, place] = torch.tensor(standard(average) if renormalise else average, dtype=image.dtype)
    return truth


@pytest.mark.parametrize("target", ["block", "feed-forward"])
@pytest.mark.parametrize(("layers", "renormalise"), [(1, True), (2, False), (2, True), (6, True)])
def test_the_target_is_the_mean_of_the_last_blocks_each_normalised(target, layers, renormalise):
    task = make(target=target, target_layers=layers, renormalise=renormalise).double()
    image = batch(2)["image"][..., :32, :32].double()
    with torch.no_grad():
        expected = naive_truth(task, image, min(layers, 3), renormalise)
    torch.testing.assert_close(task.truth(image), expected, rtol=1e-9, atol=1e-9)


def test_the_network_with_shared_relative_positions_teaches_too():
    task = make(BEIT, target_layers=2).double()
    image = batch(2)["image"][..., :32, :32].double()
    with torch.no_grad():
        outputs = task.teacher.model.forward_intermediates(
            task.teacher.normalise(image), 2, norm=False, output_fmt="NLC", intermediates_only=True
        )
    average = sum(F.layer_norm(out, (32,)) for out in outputs) / 2
    torch.testing.assert_close(task.truth(image), F.layer_norm(average, (32,)))
    assert not any(block._forward_hooks for block in task.teacher.model.blocks)


def test_the_loss_is_the_mean_over_all_covered_places_and_their_numbers():
    task = make(beta=0.7).double()
    image = {"image": batch()["image"].double()}
    loss = task.loss(image, Step.at(seed=18))["features"].item()
    view, hidden = task.puzzle(image, Step.at(seed=18))
    model = task.encoder.model
    with torch.no_grad():
        truth = naive_truth(task, view, 3)
        x = model.patch_embed(task.encoder.normalise(view)).flatten(1, 2)
        x = torch.where(hidden[..., None], task.mask_token, x)
        x = torch.cat([model.cls_token.expand(3, -1, -1), x], 1) + model.pos_embed
        said = task.head(model.norm(model.blocks(x)))[:, 1:]
    errors = []
    for n, place in hidden.nonzero().tolist():
        for a, b in zip(said[n, place].tolist(), truth[n, place].tolist(), strict=True):
            distance = abs(a - b)
            errors.append(distance**2 / 1.4 if distance < 0.7 else distance - 0.35)
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-9)
    assert len(set(hidden.sum(1).tolist())) > 1, "pictures hide unequally many"


def test_the_teacher_sees_all_and_learns_nothing():
    task, step = make(), Step.at(seed=1)
    seen = []
    task.teacher.register_forward_hook(
        lambda _, inputs, kwargs, out: seen.append((inputs, kwargs)), with_kwargs=True
    )
    task.loss(batch(), step)["features"].backward()
    ((inputs, kwargs),) = seen
    assert torch.equal(inputs[0], task.puzzle(batch(), Step.at(seed=1))[0]) and not kwargs
    assert all(p.grad is None and not p.requires_grad for p in task.teacher.parameters())
    assert all(p.grad is not None for p in (task.mask_token, *task.head.parameters()))
    assert step.metrics["spread"] > 0
    assert task.learned is task.encoder


def test_blocks_are_skipped_for_the_student_in_training_alone():
    task = make(drop_path=0.9)
    view, _ = task.puzzle(batch(), Step.at(seed=1))
    trained, still = (task.train(mode).loss(batch(), Step.at(seed=1))["features"] for mode in (True, False))
    assert trained != still == make().loss(batch(), Step.at(seed=1))["features"]
    assert torch.equal(task.train().truth(view), task.eval().truth(view))


def test_the_teacher_follows_at_one_pace():
    for index in (0, 9):
        task = make(momentum=0.9)
        before = [p.clone() for p in task.teacher.parameters()]
        task.after_step(Step.at(index, total=10))
        for old, new, own in zip(before, task.teacher.parameters(), task.encoder.parameters(), strict=True):
            torch.testing.assert_close(new, 0.9 * old + 0.1 * own)


def test_it_begins_as_its_student():
    encoder = build_encoder(VIT, image_size=32, patch_size=4, seed=0)
    task = Data2Vec(encoder)
    for own, slow in zip(task.encoder.parameters(), task.teacher.parameters(), strict=True):
        assert torch.equal(own, slow)
    assert encoder.model.pos_embed.abs().max() <= 0.02 and task.head.weight.abs().max() <= 0.02
    assert 0 < task.mask_token.abs().max() <= 0.02 and not task.head.bias.any()


def test_masks_are_beits_and_cover_120_of_196():
    task = Data2Vec(build_encoder(VIT, image_size=56, patch_size=4, seed=0))
    assert task.num_hidden == 120
    _, hidden = task.puzzle(batch(20), Step.at(seed=2))
    step = Step.at(seed=2)
    draw_view(task.view, 20, step.generator)
    assert torch.equal(hidden, draw_blocks((14, 14), 120, 20, step.generator, 16))


def test_colours_change_before_the_crop():
    """Contrast changes about the mean of the whole picture."""
    task = make()
    task.view = replace(task.view, scale=(0.2, 0.2), flip=0.0, brightness=0.0, saturation=0.0)
    view, _ = task.puzzle(batch(), Step.at(seed=4))
    drawn = draw_view(task.view, 3, Step.at(seed=4).generator)
    plain = replace(task.view, jitter=0.0)
    for n, image in enumerate(batch()["image"]):
        grey = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).mean()
        changed = (grey + drawn.factors[n, 1] * (image - grey)).clamp(0, 1)
        own = draw_view(plain, 3, Step.at(seed=4).generator)
        expected = apply_view(plain, changed.expand(3, -1, -1, -1), own)[n]
        torch.testing.assert_close(view[n], expected, atol=2e-3, rtol=0)


def test_the_rate_and_what_decays_are_those_of_the_released_run():
    """800 epochs of 10 steps: linear to 2e-3 in 10 of them, then a cosine that ends on 1e-5."""
    schedule = make_plan(Data2Vec.recipe, 2048 * 10, batch_size=2048, epochs=800).schedule(Data2Vec.recipe)
    for index in (0, 50, 99, 100, 4000, 7999):
        cosine = 1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * (index - 100) / 7900)) / 2
        expected = 2e-3 * index / 99 if index < 100 else cosine
        assert schedule.peak * schedule.shape(index) == pytest.approx(expected, rel=1e-6)
    task = make()
    parts = groups(task.named_parameters(), schedule, task.encoder)
    decays = {name for part in parts for name in part["names"] if part["decays"]}
    assert {"mask_token", "head.weight"} <= decays
    assert not {"encoder.model.cls_token", "encoder.model.pos_embed", "head.bias"} & decays


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="covers 0"):
        make(mask_ratio=0.0)
    with pytest.raises(UsageError, match="target_layers must be at least 1"):
        make(target_layers=0)
