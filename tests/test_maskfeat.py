"""MaskFeat's loss against a loop, its masks, start and optimisation against the official code's rules."""

import pytest
import torch
from torch import nn

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.maskfeat import MaskFeat
from pretask.objectives.reconstruction import greyed
from pretask.pretexts.hog import by_patch, hog
from pretask.pretexts.masks import draw_blocks
from pretask.pretexts.views import draw_view
from pretask.task import Step
from pretask.training.optimisers import groups
from pretask.training.plan import Schedule

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def make(side: int = 32, patch: int = 4, **options):
    torch.manual_seed(0)
    return MaskFeat(build_encoder(VIT, image_size=side, patch_size=patch, seed=0), **options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(5))}


@pytest.mark.parametrize(("side", "patch", "values"), [(32, 4, 27), (64, 16, 108)])
def test_the_loss_is_the_mean_square_over_all_covered_patches_of_the_batch(side, patch, values):
    task = make(side, patch)
    loss = task.loss(batch(), Step.at(seed=1))["hog"]
    view, hidden, _ = task.puzzle(batch(), Step.at(seed=1))
    model = task.encoder.model
    x = model.patch_embed((view - task.encoder.mean) / task.encoder.std).flatten(1, 2)
    x = torch.where(hidden[..., None], task.mask_token, x)
    x = torch.cat([model.cls_token.expand(3, -1, -1), x], 1) + model.pos_embed
    tokens = model.norm(model.blocks(x))[:, 1:]
    truth, errors = by_patch(hog(view, min(patch, 8)), patch // min(patch, 8)), []
    for n in range(3):
        for place in range(hidden.shape[1]):
            if hidden[n, place]:
                said = task.head.weight @ tokens[n, place] + task.head.bias
                assert len(said) == values
                errors += [(said[v] - truth[n, place, v]) ** 2 for v in range(values)]
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_the_target_is_the_crops_whatever_it_is_normalised_by():
    """The official code takes histograms of the normalised picture; a channel's scale changes nothing."""
    task = make(64, 16)
    view, _, truth = task.puzzle(batch(), Step.at(seed=1))
    torch.testing.assert_close(by_patch(hog(task.encoder.normalise(view)), 2), truth, atol=1e-3, rtol=1e-3)


def test_blocks_cover_at_most_two_fifths_and_have_a_fifth_of_that():
    assert make(224, 16).num_hidden == 78
    task = make()
    assert task.num_hidden == 26
    _, hidden, _ = task.puzzle(batch(40), Step.at(seed=2))
    step = Step.at(seed=2)
    draw_view(task.view, 40, step.generator)
    assert torch.equal(hidden, draw_blocks((8, 8), 26, 40, step.generator, 5))
    assert hidden.sum(1).max() <= 26 and hidden.float().mean() > 0.3


def test_crops_are_bicubic_and_half_the_picture_at_least():
    view = make().view
    assert (view.scale, view.flip, view.interpolation, view.jitter) == ((0.5, 1.0), 0.5, "bicubic", 0.0)


def test_it_starts_as_the_official_network():
    task = make()
    model = task.encoder.model
    for name, parameter in task.named_parameters():
        if name.endswith("bias") and "patch_embed" not in name:
            zero = name.startswith(("head", "encoder.model.norm."))
            assert (parameter == (0.0 if zero else 0.02)).all(), name
    for weight in (
        model.blocks[1].mlp.fc2.weight,
        model.patch_embed.proj.weight,
        model.pos_embed,
        task.head.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.cls_token.abs().max() > 1e-3 and (model.blocks[0].norm1.weight == 1).all()


def test_of_pretrained_weights_nothing_is_drawn_anew():
    encoder = build_encoder(VIT, image_size=32, patch_size=4, seed=0)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.pretrained = True
    MaskFeat(encoder)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_the_rate_climbs_for_30_epochs_and_ends_where_it_began():
    recipe = MaskFeat.recipe
    schedule = Schedule(recipe, 1.0, 0, 301)
    rates = [schedule.peak * schedule.shape(epoch) for epoch in range(301)]
    assert rates[0] == pytest.approx(1e-6) and rates[30] == pytest.approx(2e-4)
    assert rates[15] == pytest.approx(1e-6 + (2e-4 - 1e-6) / 2) and rates[300] == pytest.approx(
        1e-6, rel=1e-2
    )
    assert (recipe.lr_batch, recipe.weight_decay, recipe.clip, recipe.betas) == (
        256,
        0.05,
        0.02,
        (0.9, 0.999),
    )


def test_all_but_biases_and_norms_decays():
    """`ZERO_WD_1D_PARAM` without `ZERO_DECAY_POS_CLS`: positions, class and mask token decay."""
    task = make()
    parts = groups(task.named_parameters(), Schedule(task.recipe, 1.0, 0, 10), task.encoder)
    decayed = {id(p) for part in parts if part["decays"] for p in part["params"]}
    for name, parameter in task.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1), name


def test_cells_may_be_chosen_and_must_fit():
    assert make(64, 16).cells == 2 and make().cells == 1
    finer = make(64, 16, cell=4)
    assert finer.head.out_features == 3 * 9 * 16
    assert finer.loss(batch(), Step.at())["hog"].isfinite()
    with pytest.raises(UsageError, match="does not divide"):
        make(64, 16, cell=5)
    for share in (0.0, 1.0):
        with pytest.raises(UsageError, match="some must be"):
            make(mask_ratio=share)


def test_a_norm_behind_the_pooling_serves_as_well():
    torch.manual_seed(0)
    task = MaskFeat(build_encoder(VIT + ",global_pool=avg", image_size=32, patch_size=4, seed=0))
    model = task.encoder.model
    assert isinstance(model.norm, nn.Identity) and (model.fc_norm.bias == 0).all()
    with torch.no_grad():
        model.fc_norm.bias.fill_(0.5)
        model.fc_norm.weight.zero_()
        view, hidden, _ = task.puzzle(batch(), Step.at())
        expected = (0.5 * task.head.weight.sum(1) + task.head.bias).expand(3, 2, -1)
        torch.testing.assert_close(task.answer(view, hidden, torch.zeros(3, 2, dtype=torch.long)), expected)


def test_a_sheet_tells_edges_of_covered_patches_only():
    task = make().eval()
    with torch.no_grad():
        sheet = task.preview(batch(), Step.at())
        _, hidden, _ = task.puzzle(batch(), Step.at())
    told, true = sheet.rows[0][1], sheet.rows[0][2]
    assert (told.role, true.role) == ("answer", "truth")
    where = hidden[0].view(8, 8).repeat_interleave(15, 0).repeat_interleave(15, 1)
    assert torch.equal(told.content[0][~where], true.content[0][~where])
    assert not torch.equal(told.content[0][where], true.content[0][where])


def test_covered_patches_are_shown_grey():
    view = torch.rand(2, 3, 8, 12)
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[0, 4] = True  # the second row's second patch
    expected = view.clone()
    expected[0, :, 4:8, 4:8] = 0.5
    assert torch.allclose(greyed(view, hidden, 4, (2, 3)), expected)
