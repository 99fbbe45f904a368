"""Point encoder and decoders against Point-MAE's and MaskFeat3D's forward passes, written step by step."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretask.encoders import build_encoder, load_encoder, save_encoder
from pretask.encoders.drop_path import dropping
from pretask.encoders.point_decoders import MaskedPointDecoder, QueryDecoder
from pretask.encoders.points import PatchTokens, build
from pretask.errors import UsageError
from pretask.pretexts.masks import shuffle

SMALL = "point_vit_tiny:embed_dim=32,depth=3,num_heads=2,groups=10,group_size=6"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(cls, *args, seed: int = 0, **kwargs):
    """A module in float64 of which no parameter is 0 or 1, so that each matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = cls(*args, **kwargs).double()
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def pointnet(net: PatchTokens, patches: Tensor) -> Tensor:
    """Two shared layers, the maximum beside every point, two more, the maximum."""
    batch, groups, size, chans = patches.shape
    x = net.first_conv(patches.reshape(batch * groups, size, chans).transpose(2, 1))
    x = net.second_conv(torch.cat([x.max(2, keepdim=True)[0].expand(-1, -1, size), x], dim=1))
    return x.max(2)[0].reshape(batch, groups, -1)


@pytest.mark.parametrize("training", [True, False])
def test_patch_tokens_are_a_small_pointnet(training):
    net, patches = make(PatchTokens, 5, 16).train(training), normal(3, 4, 6, 5)
    torch.testing.assert_close(net(patches), pointnet(net, patches))


def test_the_order_of_a_patchs_points_does_not_matter():
    net, patches = make(PatchTokens, 3, 16), normal(2, 4, 6, 3)
    torch.testing.assert_close(net(patches), net(patches[:, :, torch.randperm(6)]))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax of scaled products, a head at a time."""
    width = q.shape[-1] // heads
    parts = []
    for h in range(heads):
        own = slice(h * width, (h + 1) * width)
        weights = (q[..., own] @ k[..., own].transpose(-1, -2) / math.sqrt(width)).softmax(-1)
        parts.append(weights @ v[..., own])
    return torch.cat(parts, dim=-1)


def block(layer: nn.Module, x: Tensor, heads: int) -> Tensor:
    """Pre-norm attention without biases of q, k, v, then the GELU network; the norm's eps is 1e-5."""
    dim = x.shape[-1]
    y = F.layer_norm(x, (dim,), layer.norm1.weight, layer.norm1.bias, 1e-5)
    assert layer.attn.qkv.bias is None
    x = x + layer.attn.proj(attention(*(y @ layer.attn.qkv.weight.T).split(dim, dim=-1), heads))
    y = F.layer_norm(x, (dim,), layer.norm2.weight, layer.norm2.bias, 1e-5)
    return x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(y)))


def test_the_encoder_is_point_maes():
    """All patches are embedded (batch normalisation sees them), the visible encoded; positions are added at
    every block."""
    encoder, points = make(build, SMALL), normal(2, 40, 3)
    groups, order = encoder.group(points), shuffle(normal(2, 10), 6)
    model = encoder.model
    tokens = pointnet(model.encoder, groups.patches)
    for i in range(2):
        seen = order.visible[i]
        x, position = tokens[i, seen], model.pos_embed(groups.centres[i, seen])
        for layer in encoder.blocks:
            x = block(layer, x + position, 2)
        expected = F.layer_norm(x, (32,), model.norm.weight, model.norm.bias, 1e-5)
        found = encoder(points, order.visible)
        torch.testing.assert_close(found.tokens[i], expected)
        torch.testing.assert_close(found.pooled[i], expected.max(0).values)
    again = encoder(points, order.visible, groups)
    torch.testing.assert_close(again.tokens, found.tokens)
    assert found.prefix.shape == (2, 0, 32) and found.grid == (10,)


def test_hidden_patches_matter_to_batch_normalisation_alone():
    encoder, points = make(build, SMALL), normal(2, 40, 3)
    groups, order = encoder.group(points), shuffle(normal(2, 10), 6)
    hidden = torch.zeros(2, 10, dtype=torch.bool).scatter_(1, order.hidden, True)
    other = groups._replace(patches=torch.where(hidden[..., None, None], 9.0, groups.patches))
    for training, same in ((False, True), (True, False)):
        encoder.train(training)
        found = [encoder(points, order.visible, each).tokens for each in (groups, other)]
        assert torch.allclose(*found) == same


def test_names_are_the_official_ones():
    names = set(build(SMALL).model.state_dict())
    for name in (
        "encoder.first_conv.0.weight", "encoder.first_conv.1.running_mean", "encoder.first_conv.3.bias",
        "encoder.second_conv.0.weight", "encoder.second_conv.3.weight", "pos_embed.0.weight",
        "pos_embed.2.bias", "blocks.blocks.2.attn.qkv.weight", "blocks.blocks.0.mlp.fc1.bias", "norm.weight",
    ):  # fmt: skip
        assert name in names
    small = build("point_vit_small").model
    assert small.encoder.first_conv[0].weight.shape == (128, 3, 1)
    assert small.encoder.second_conv[0].weight.shape == (512, 512, 1)
    assert sum(p.numel() for p in small.parameters()) == pytest.approx(22.0e6, rel=0.02), "the paper's 22.1 M"


def test_weights_start_as_the_papers():
    model = build("point_vit_tiny", 3).model
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d)) and layer.weight.numel() > 5000:
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert layer.bias is None or not layer.bias.any()


def test_round_trip_on_disk(tmp_path):
    encoder = build_encoder(SMALL, "points", seed=1, in_chans=4)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    again, points = load_encoder(tmp_path / "encoder.safetensors"), normal(2, 40, 4).float()
    assert again.pretrained and again.inputs == {"in_chans": 4}
    assert torch.equal(again.eval()(points).pooled, encoder.eval()(points).pooled)


def test_raw_points_are_counted_in_cells_in_any_order():
    raw, points = build("raw", 4), normal(2, 50, 4).float()
    found = raw(points).pooled
    assert found.shape == (2, raw.dim) and raw.dim == 8**3 + 1
    torch.testing.assert_close(found[:, :-1].sum(1), torch.ones(2))
    torch.testing.assert_close(found[:, -1], points[..., 3].mean(1))
    torch.testing.assert_close(raw(points[:, torch.randperm(50)]).pooled, found)
    torch.testing.assert_close(raw(torch.cat([3 * points[..., :3] + 1, points[..., 3:]], 2)).pooled, found)
    place = points[0, :, :3] - points[0, :, :3].mean(0)
    cell = ((place[7] / place.norm(dim=1).max() + 1) * 4).long().clamp(0, 7)
    assert found[0, int(cell[0] * 64 + cell[1] * 8 + cell[2])] >= 1 / 50 - 1e-6


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("point_vit_huge", "point_vit_tiny"),
        ("point_vit_tiny:width=3", "embed_dim"),
        ("point_vit_tiny:depth=none", "whole number"),
        ("point_vit_tiny:depth=0", "whole number"),
        ("point_vit_tiny:embed_dim=32", "heads"),
    ],
)
def test_bad_names_are_explained(name, word):
    with pytest.raises(UsageError, match=word):
        build(name)


def test_bad_clouds_are_explained():
    encoder = build(SMALL)
    for points, word in ((torch.zeros(2, 40, 4), "takes clouds"), (torch.zeros(2, 9, 3), "too small")):
        with pytest.raises(UsageError, match=word):
            encoder(points)


# ---- decoders


def test_the_masked_decoder_is_point_maes():
    decoder = make(MaskedPointDecoder, 32, 18, depth=2, heads=2)
    tokens, visible, hidden = normal(2, 4, 32), normal(2, 4, 3, seed=1), normal(2, 6, 3, seed=2)
    found = decoder(tokens, visible, hidden)
    for i in range(2):
        x = torch.cat([tokens[i], torch.stack([decoder.mask_token] * 6)])
        position = torch.cat([decoder.position(visible[i]), decoder.position(hidden[i])])
        for layer in decoder.blocks:
            x = block(layer, x + position, 2)
        x = F.layer_norm(x[4:], (32,), decoder.norm.weight, decoder.norm.bias, 1e-5)
        torch.testing.assert_close(found[i], decoder.head(x))
    assert decoder.mask_token.ndim == 1, "one-dimensional parameters are not decayed"


def cross(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    parts = zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), (query, key, value), strict=True)
    return layer.out_proj(attention(*(x @ weight.T + bias for weight, bias, x in parts), heads))


def test_the_query_decoder_is_maskfeat3ds():
    decoder = make(QueryDecoder, 32, depth=3, heads=2)
    tokens, places, queries = normal(2, 5, 32), normal(2, 5, 3, seed=1), normal(2, 7, 3, seed=2)
    found = decoder(tokens, places, queries)
    for i in range(2):
        position, place = decoder.position(places[i]), decoder.position(queries[i])
        x = torch.zeros(7, 32, dtype=torch.float64)
        for layer in decoder.blocks:
            y = layer.norm1(x)
            x = x + cross(layer.self_attn, y + place, y + place, y, 2)
            y = layer.norm2(x)
            x = x + cross(layer.cross_attn, y + place, tokens[i] + position, tokens[i], 2)
            y = layer.norm3(x)
            x = x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(y)))
        torch.testing.assert_close(found[i], decoder.norm(x))


def test_in_the_first_block_only_places_tell_queries_apart():
    decoder = make(QueryDecoder, 32, depth=2, heads=2)
    tokens, places, queries = normal(2, 5, 32), normal(2, 5, 3, seed=1), normal(2, 7, 3, seed=2)
    queries[:, 4] = queries[:, 1]
    found = decoder(tokens, places, queries)
    torch.testing.assert_close(found[:, 4], found[:, 1])
    assert not torch.allclose(found[:, 2], found[:, 1])


def test_dropped_branches_of_a_query_decoder():
    """Three branches a block; one that is dropped adds nothing, the kept ones are scaled up."""
    decoder = make(QueryDecoder, 32, depth=2, heads=2)
    arguments = normal(2, 5, 32), normal(2, 5, 3, seed=1), normal(2, 7, 3, seed=2)
    plain = decoder(*arguments)
    unit = torch.zeros(2, 2, 3)
    unit[1, 1] = 0.9  # of the second sample the whole last block, whose rate is 0.5
    with dropping(decoder, unit, 0.5):
        found = decoder(*arguments)
    short = make(QueryDecoder, 32, depth=2, heads=2)
    short.blocks = short.blocks[:1]
    torch.testing.assert_close(found[1], short(*arguments)[1])
    assert not torch.allclose(found[0], plain[0]), "kept branches count double"
    torch.testing.assert_close(decoder(*arguments), plain)
