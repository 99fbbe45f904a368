"""The face encoders share, and the positions they are given."""

import math

import pytest
import timm
import torch

from pretask.encoders import EncoderSpec, build_encoder
from pretask.encoders.positions import sincos_2d
from pretask.errors import UsageError

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=2"


@pytest.fixture(scope="module")
def vit():
    return build_encoder(VIT, image_size=32, seed=0).eval()


def test_face_of_a_transformer(vit):
    features = vit(torch.rand(3, 3, 32, 32))
    assert features.pooled.shape == (3, 64)
    assert features.tokens.shape == (3, 64, 64) and features.prefix.shape == (3, 1, 64)
    assert features.grid == (8, 8) == vit.grid and vit.num_patches == 64


def test_pixels_are_all_of_a_small_picture_and_means_of_a_large_one():
    small, large = torch.rand(2, 3, 20, 20), torch.rand(2, 3, 96, 96)
    encoder = build_encoder("pixels", image_size=20)
    assert torch.equal(encoder(small).pooled, small.flatten(1)) and encoder.dim == 1200
    encoder = build_encoder("pixels", image_size=96)
    means = large.unflatten(2, (32, 3)).unflatten(4, (32, 3)).mean((3, 5))
    assert torch.allclose(encoder(large).pooled, means.flatten(1)) and encoder.dim == 3 * 32**2


@pytest.mark.parametrize(
    "name", ["resnet10t", "resnet18", "convnext_atto", "swin_tiny_patch4_window7_224:img_size=64"]
)
def test_face_of_a_grid(name):
    encoder = build_encoder(name, image_size=64, seed=0).eval()
    features = encoder(torch.rand(2, 3, 64, 64))
    rows, columns = features.grid
    assert features.pooled.shape == (2, encoder.dim)
    assert features.tokens.shape == (2, rows * columns, encoder.dim) and features.prefix.shape[1] == 0
    assert torch.isfinite(features.tokens).all()


def test_features_are_timms_own(vit):
    image = torch.rand(2, 3, 32, 32)
    assert torch.allclose(vit(image).pooled, vit.model(vit.normalise(image)), atol=1e-6)


def test_all_visible_in_any_order_is_the_whole_picture(vit):
    image = torch.rand(2, 3, 32, 32)
    order = torch.stack([torch.randperm(64) for _ in range(2)])
    whole, some = vit(image), vit(image, visible=order)
    expected = whole.tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, 64))
    assert torch.allclose(some.tokens, expected, atol=1e-5)
    assert torch.allclose(some.pooled, whole.pooled, atol=1e-5)


def test_dropped_patches_do_not_matter(vit):
    image = torch.rand(1, 3, 32, 32)
    visible = torch.arange(8, 64).view(1, -1)  # all but the first row of patches
    changed = image.clone()
    changed[:, :, :4] = 0
    assert torch.equal(vit(image, visible=visible).pooled, vit(changed, visible=visible).pooled)
    assert not torch.equal(vit(image).pooled, vit(changed).pooled)


def test_hidden_patches_are_overwritten(vit):
    image = torch.rand(1, 3, 32, 32)
    hidden = torch.zeros(1, 64, dtype=torch.bool)
    hidden[:, :8] = True
    changed = image.clone()
    changed[:, :, :4] = 0
    token = torch.zeros(64)
    assert torch.equal(
        vit(image, hidden=hidden, mask_token=token).tokens,
        vit(changed, hidden=hidden, mask_token=token).tokens,
    )


def test_other_sizes(vit):
    assert vit(torch.rand(2, 3, 16, 16)).grid == (4, 4)


def test_sincos_against_loops():
    """First half of the width: columns; second: rows; each [sin | cos], row 0 first."""
    dim, grid = 8, (3, 4)
    table = sincos_2d(dim, grid)
    for row in range(3):
        for column in range(4):
            expected = []
            for position in (column, row):
                omega = [10000 ** (-i / (dim / 4)) for i in range(dim // 4)]
                expected += [math.sin(position * w) for w in omega] + [math.cos(position * w) for w in omega]
            assert torch.allclose(table[row * 4 + column], torch.tensor(expected), atol=1e-6)
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_2d(6, grid)


def test_fixed_positions_have_no_gradient():
    encoder = build_encoder(VIT, image_size=32, seed=0)
    encoder.use_fixed_positions()
    encoder(torch.rand(1, 3, 32, 32)).pooled.sum().backward()
    assert encoder.model.pos_embed.grad is None
    assert torch.equal(encoder.model.pos_embed[0, 0], torch.zeros(64))
    assert torch.allclose(encoder.model.pos_embed[0, 1:], sincos_2d(64, (8, 8)))


def test_small_pictures_keep_their_resolution():
    model = build_encoder("resnet18", image_size=32, seed=0).model
    assert model.conv1.stride == (1, 1) and model.conv1.kernel_size == (3, 3)
    assert build_encoder("resnet18", image_size=96, seed=0).model.conv1.kernel_size == (7, 7)


def test_specs_survive_the_record():
    spec = EncoderSpec("resnet18:channels=[16, 32, 64, 128],stem_width=32", 5, 48)
    again = EncoderSpec(spec.full_name, **spec.inputs)
    assert (again.full_name, again.inputs) == (spec.full_name, spec.inputs) and again.kwargs["channels"] == [
        16,
        32,
        64,
        128,
    ]
    with pytest.raises(UsageError, match="key=value"):
        EncoderSpec("resnet18:channels=[16")


def test_normalisation_belongs_to_the_encoder():
    encoder = build_encoder("resnet10t", image_size=32, in_chans=2, mean=(0.2, 0.4), std=(0.1, 0.5), seed=0)
    image = torch.rand(1, 2, 32, 32)
    expected = torch.stack([(image[:, 0] - 0.2) / 0.1, (image[:, 1] - 0.4) / 0.5], dim=1)
    assert torch.allclose(encoder.normalise(image), expected, atol=1e-6)
    assert set(encoder.model.state_dict()) == set(
        timm.create_model("resnet10t", num_classes=0, in_chans=2).state_dict()
    )


def test_published_weights_see_pictures_as_they_were_trained_to():
    from types import SimpleNamespace

    from pretask.encoders.image import IMAGENET_MEAN, statistics

    half = (0.5, 0.5, 0.5)
    inception = SimpleNamespace(pretrained_cfg={"mean": half, "std": half})
    assert statistics(inception, 3, pretrained=True) == (half, half)
    assert statistics(inception, 3, pretrained=False)[0] == IMAGENET_MEAN
    assert statistics(inception, 5, pretrained=True)[0] == (0.5,) * 5
