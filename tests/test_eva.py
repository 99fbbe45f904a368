"""EVA's loss against a loop, with pixels and with a frozen network of ours as teacher."""

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.encoders.weights import save_encoder
from pretask.errors import UsageError
from pretask.methods.image.eva import EVA
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def encoder():
    return build_encoder(VIT, image_size=32, patch_size=4, seed=0)


def make(**options):
    torch.manual_seed(0)
    return EVA(encoder(), **options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(5))}


def test_the_loss_is_the_mean_cosine_over_all_covered_patches_of_the_batch():
    task = make()
    loss = task.loss(batch(), Step.at(seed=1))["features"]
    view, hidden = task.puzzle(batch(), Step.at(seed=1))
    tokens = task.encoder(view, hidden=hidden, mask_token=task.mask_token).tokens
    truth, cosines = task.truth(view), []
    for n in range(3):
        for place in range(64):
            if hidden[n, place]:
                answer = task.head.weight @ tokens[n, place] + task.head.bias
                cosines.append(F.cosine_similarity(answer, truth[n, place], dim=0))
    assert loss.item() == pytest.approx(-torch.stack(cosines).mean().item(), abs=1e-5)
    assert 0 < hidden.sum() <= 3 * 26


def test_blocks_cover_about_forty_per_cent():
    task = make()
    _, hidden = task.puzzle(batch(200), Step.at())
    assert task.num_hidden == 26 and int(256 * 0.4102) == 105
    assert hidden.sum(1).max() <= 26 and hidden.float().mean() > 0.3


def test_a_teacher_sees_the_whole_crop_and_stands_still(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_encoder(build_encoder(VIT, image_size=32, patch_size=4, seed=3), path)
    task = make(teacher=str(path))
    view, _ = task.puzzle(batch(), Step.at())
    expected = build_encoder(VIT, image_size=32, patch_size=4, seed=3).eval()(view).tokens
    assert torch.allclose(task.truth(view), expected, atol=1e-5)
    before = {name: value.clone() for name, value in task.teacher.network.state_dict().items()}
    task.loss(batch(), Step.at())["features"].backward()
    assert all(p.grad is None for p in task.teacher.network.parameters())
    assert all(torch.equal(before[name], value) for name, value in task.teacher.network.state_dict().items())
    assert not any("teacher" in name for name in task.state_dict())


def test_without_masking_all_patches_are_told():
    task = make(everything=True)
    loss = task.loss(batch(), Step.at(seed=1))["features"]
    view, _ = task.puzzle(batch(), Step.at(seed=1))
    answer = task.head(task.encoder(view).tokens)
    assert loss.item() == pytest.approx(
        -F.cosine_similarity(answer, task.truth(view), dim=-1).mean().item(), abs=1e-5
    )
    assert task.mask_token is None


def test_a_mask_that_covers_nothing_is_refused():
    with pytest.raises(UsageError, match="covers 0"):
        make(mask_ratio=0.0)
