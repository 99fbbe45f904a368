"""Networks of the study of pretexts and backbones: reversible blocks against plain autograd, widths."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretask.encoders import build_encoder
from pretask.encoders.revnet import Downsample, ReversibleBlock, RevNet, Stage, ZeroPadPool, same_statistics

GRID = {
    "revnet50:width=1,layers=[2,2,1,1]": 512,
    "revnet50:width=2,layers=[1,1,1,1],last_relu=false": 1024,
    "vgg19_bn_wide:width=1,layers=[1,1,2,2,2],head_side=1": 512,
    "resnetv2_50:width_factor=0.25,layers=[1,1,1,1]": 512,
    "resnetv2_50:width_factor=0.25,layers=[1,1,1,1],preact=false": 512,
    "resnetv2_50_bare:width_factor=0.25,layers=[1,1,1,1]": 512,
}


def stage(save_memory: bool, seed: int = 0, finer: bool = False) -> Stage:
    torch.manual_seed(seed)
    blocks = [ReversibleBlock(16) for _ in range(4)]
    return Stage([Downsample(), *blocks] if finer else blocks, save_memory).double()


def by_hand(block: ReversibleBlock, x: torch.Tensor) -> torch.Tensor:
    """(x1, x2) -> (x2, x1 + F(x2)), spelled out with functions."""
    x1, x2 = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    y = x2
    norms = [part for part in block.residual if isinstance(part, nn.BatchNorm2d)]
    convs = [part for part in block.residual if isinstance(part, nn.Conv2d)]
    for norm, conv in zip(norms, convs, strict=True):
        y = F.batch_norm(y, None, None, norm.weight, norm.bias, training=True, eps=1e-3)
        y = F.conv2d(y.relu(), conv.weight, padding=conv.padding)
    return torch.cat([x2, x1 + y], dim=1)


def test_a_block_by_hand():
    torch.manual_seed(0)
    block, x = ReversibleBlock(16).double(), torch.randn(3, 16, 6, 6).double()
    assert torch.allclose(block(x), by_hand(block, x), atol=1e-12)


def test_a_bottleneck_is_a_quarter_of_its_half():
    shapes = [
        tuple(part.weight.shape) for part in ReversibleBlock(64).modules() if isinstance(part, nn.Conv2d)
    ]
    assert shapes == [(8, 32, 1, 1), (8, 8, 3, 3), (32, 8, 1, 1)]


@pytest.mark.parametrize("side", [6, 5])
def test_the_step_between_stages_by_loops(side):
    """Means of 2x2 places, fewer at the end of an odd side, and as many zero channels before as behind, over both
    halves together."""
    x = torch.randn(2, 4, side, side).double()
    small = -(-side // 2)
    expected = torch.zeros(2, 8, small, small).double()
    for row in range(small):
        for column in range(small):
            places = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected[:, 2:6, row, column] = places.flatten(2).mean(2)
    assert torch.allclose(Downsample()(x), expected, atol=1e-12)


def test_between_stages_nothing_is_learned_and_every_block_is_reversible():
    network = RevNet(width=1, layers=(3, 4, 6, 3), num_classes=0)
    kinds = [[type(part) for part in stage] for stage in network.stages]
    assert kinds == [
        [ReversibleBlock] * 3,
        *([Downsample, *[ReversibleBlock] * count] for count in (4, 6, 3)),
    ]


def test_the_inverse_is_exact():
    block, x = stage(False)[0], torch.randn(3, 16, 5, 5).double()
    for training in (True, False):
        block.train(training)
        assert torch.allclose(block.inverse(block(x)), x, atol=1e-12)


@pytest.mark.parametrize("finer", [False, True])
def test_gradients_are_those_of_plain_autograd(finer):
    plain, saving = (stage(save, finer=finer) for save in (False, True))
    saving.load_state_dict(plain.state_dict())
    found = []
    for one in (plain, saving):
        x = torch.randn(3, 8 if finer else 16, 6, 6, generator=torch.Generator().manual_seed(1)).double()
        x.requires_grad_()
        y = one(x)
        (y.sin() * torch.arange(y.numel()).view_as(y)).sum().backward()
        found.append([y, x.grad, *(p.grad for p in one.parameters()), *one.buffers()])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours.double(), theirs.double(), rtol=1e-8, atol=1e-8)


def test_statistics_are_counted_once():
    one = stage(True)
    one(torch.randn(4, 16, 4, 4).double().requires_grad_()).sum().backward()
    assert {int(part.num_batches_tracked) for part in one.modules() if isinstance(part, nn.BatchNorm2d)} == {
        1
    }
    with pytest.raises(ZeroDivisionError), same_statistics(one):
        1 / 0  # noqa: B018
    assert all(part.track_running_stats for part in one.modules() if isinstance(part, nn.BatchNorm2d))


def test_frozen_parts_get_no_gradient():
    one = stage(True)
    one[1].requires_grad_(False)
    one(torch.randn(2, 16, 4, 4).double().requires_grad_()).sum().backward()
    assert all(p.grad is None for p in one[1].parameters())
    assert all(p.grad is not None for p in one[0].parameters())


def kept(network: nn.Module, x: torch.Tensor) -> int:
    """Bytes kept for the way back, weights left out."""
    own, total = {p.data_ptr() for p in network.parameters()}, 0

    def count(tensor):
        nonlocal total
        total += 0 if tensor.data_ptr() in own else tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(x)
    return total


def test_memory_does_not_grow_with_depth():
    x = torch.rand(2, 3, 32, 32)
    saving, plain = (
        [kept(RevNet(width=1, layers=(depth,) * 2, num_classes=0, save_memory=save), x) for depth in (2, 6)]
        for save in (True, False)
    )
    assert saving[1] == saving[0] < plain[0] and plain[1] > 1.5 * plain[0]


def test_half_precision():
    network = RevNet(width=1, layers=(2, 2), num_classes=0)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(torch.rand(4, 3, 32, 32))
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", GRID)
def test_small_pictures(name):
    encoder = build_encoder(name, image_size=32, seed=0)
    features = encoder(torch.rand(2, 3, 32, 32))
    assert features.pooled.shape == (2, encoder.dim) == (2, GRID[name])
    assert encoder(torch.rand(2, 3, 8, 8)).pooled.shape == (2, encoder.dim)  # a patch of a jigsaw
    features.pooled.sum().backward()
    assert (features.pooled >= 0).all() == ("bare" not in name and "last_relu=false" not in name)


def test_the_first_layer_keeps_the_resolution_of_small_pictures():
    small, large = (
        build_encoder("resnetv2_50:layers=[1,1,1,1]", image_size=side, seed=0) for side in (32, 96)
    )
    assert small.model.stem.conv.stride == (1, 1) and large.model.stem.conv.stride == (2, 2)
    assert small(torch.rand(2, 3, 32, 32)).grid == (4, 4)
    assert build_encoder("revnet50:width=1", image_size=32, seed=0)(torch.rand(2, 3, 32, 32)).grid == (4, 4)


def test_pooling_sees_zeros_beyond_the_border():
    assert torch.equal(ZeroPadPool()(-torch.ones(1, 1, 4, 4)), torch.tensor([[[[0.0, 0.0], [0.0, -1.0]]]]))


def test_widths():
    assert RevNet(width=4, num_classes=0).num_features == 2048
    expected = 3 * 49 * 256 + 2 * 2048  # the first layer and the last normalisation
    for blocks, half in zip((3, 4, 6, 3), (128, 256, 512, 1024), strict=True):
        inner = half // 4
        weights = half * inner + 9 * inner**2 + inner * half
        expected += blocks * (weights + 2 * (half + inner + inner))
    assert sum(p.numel() for p in RevNet(width=4, num_classes=0).parameters()) == expected
    vgg = build_encoder("vgg19_bn_wide:width=8,head_side=1", image_size=32, seed=0)
    assert vgg.dim == 4096 and sum(isinstance(part, nn.Conv2d) for part in vgg.modules()) == 16
