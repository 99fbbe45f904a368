"""CIM: where crops of a turned picture were, and who learns from finding them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import rotate

from pretask.encoders import build_encoder
from pretask.encoders.decoder import CrossBlock
from pretask.encoders.positions import resized, sincos_2d
from pretask.errors import UsageError
from pretask.methods.image.correlational_image_modeling import CIM, Correlation, overlap
from pretask.pretexts.turned import Turned, covered, cut, draw_turned, revise, surrounding, turn
from pretask.pretexts.views import ViewSpec
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"
BOXES = ViewSpec(64, (0.05, 0.48), (1 / 3, 3))


def make(**options):
    torch.manual_seed(0)
    return CIM(build_encoder(VIT, image_size=32, patch_size=4, seed=0), decoder_dim=64, **options)


def batch(count: int = 3):
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(count, 3, 40, 40, generator=generator)}


def in_picture(x: float, y: float, degrees: float) -> bool:
    a = math.radians(degrees)
    return max(abs(x * math.cos(a) - y * math.sin(a)), abs(x * math.sin(a) + y * math.cos(a))) <= 1 + 1e-3


def scan(fixed: float, degrees: float, along: str) -> list[float]:
    """Places of a row or column that lie in the turned picture."""
    line = [-1.5 + 3 * n / 6000 for n in range(6001)]
    return [
        t for t in line if (in_picture(fixed, t, degrees) if along == "y" else in_picture(t, fixed, degrees))
    ]


def naive_revision(box: list[float], degrees: float) -> list[float]:
    """One corner after the other: top left, top right, bottom left, bottom right."""
    left, top, right, bottom = box
    holds = {
        name: in_picture(x, y, degrees)
        for name, (x, y) in {"tl": (left, top), "tr": (right, top), "bl": (left, bottom)}.items()
    }
    if degrees > 0:
        new_top = top if holds["tl"] else min(scan(left, degrees, "y"))
        new_right = right if holds["tr"] else max(scan(new_top, degrees, "x"))
        new_left = left if holds["bl"] else min(scan(bottom, degrees, "x"))
        inside = in_picture(new_right, bottom, degrees)
        new_bottom = bottom if inside else max(scan(new_right, degrees, "y"))
    else:
        new_left = left if holds["tl"] else min(scan(top, degrees, "x"))
        new_top = top if holds["tr"] else min(scan(right, degrees, "y"))
        new_bottom = bottom if holds["bl"] else max(scan(new_left, degrees, "y"))
        inside = in_picture(right, new_bottom, degrees)
        new_right = right if inside else max(scan(new_bottom, degrees, "x"))
    return [new_left, new_top, new_right, new_bottom]


@pytest.mark.parametrize("degrees", [-45, -30, -7, 0, 12, 44])
def test_boxes_are_revised_corner_by_corner(degrees):
    generator = torch.Generator().manual_seed(degrees + 50)
    corner, size = torch.rand(6, 2, generator=generator) * 1.2 - 1, torch.rand(6, 2, generator=generator)
    box = torch.cat([corner, torch.minimum(corner + 0.3 + size, torch.ones(6, 2))], 1)
    angle = torch.full((6,), float(degrees))
    around = surrounding(box, angle)
    for given, found in zip(around.tolist(), revise(around, angle).tolist(), strict=True):
        assert found == pytest.approx(naive_revision(given, degrees), abs=2e-3)


def test_without_turning_a_box_stays_what_was_drawn():
    crops = draw_turned(BOXES, 20, 3, 0, torch.Generator().manual_seed(0))
    sides = (crops.box[:, 2:] - crops.box[:, :2]) / 2 * 64
    assert torch.allclose(sides, sides.round(), atol=1e-3)
    area = sides.prod(1) / 64**2
    assert area.min() > 0.03 and area.max() < 0.52
    mask = covered(crops, 64)
    for n, (x0, y0, x1, y1) in enumerate(((crops.box + 1) * 32).round().long().tolist()):
        expected = torch.zeros(64, 64, dtype=torch.bool)
        expected[y0:y1, x0:x1] = True
        assert torch.equal(mask[n], expected)


def test_angles_are_whole_and_on_both_sides():
    degrees = draw_turned(BOXES, 500, 2, 45, torch.Generator().manual_seed(0)).degrees
    assert torch.equal(degrees, degrees.round())
    assert degrees.min() >= -45 and degrees.max() <= 44 and degrees.unique().numel() > 80


def test_turning_is_counter_clockwise_and_undone():
    x, y = turn(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(90.0))
    assert (x.item(), y.item()) == pytest.approx((0.0, -1.0), abs=1e-6)  # from the right to the top
    assert turn(x, y, torch.tensor(-90.0))[0].item() == pytest.approx(1.0)


def test_crops_are_those_of_the_turned_picture():
    """Against torchvision's rotation of the whole picture and a crop of that."""
    wave = torch.linspace(0, 6, 65)
    image = (0.5 + 0.3 * torch.sin(wave) * torch.cos(wave[:, None] * 1.3))[None, None]
    for degrees in (-40.0, 0.0, 25.0):
        turned = rotate(image, degrees, expand=False, interpolation=2)  # bilinear
        box = torch.tensor([[-0.4, -0.3, 0.2, 0.5]])
        x0, y0, x1, y1 = ((box[0] + 1) / 2 * 65).tolist()
        places = torch.stack(
            torch.meshgrid(
                (x0 + (torch.arange(16) + 0.5) * (x1 - x0) / 16) / 65 * 2 - 1,
                (y0 + (torch.arange(16) + 0.5) * (y1 - y0) / 16) / 65 * 2 - 1,
                indexing="xy",
            ),
            -1,
        )
        expected = F.grid_sample(turned, places[None], align_corners=False)
        found = cut(image, Turned(box, torch.tensor([degrees])), 16)
        assert torch.allclose(found, expected, atol=0.02)


def test_the_map_shows_where_the_crop_is_from():
    """A picture that is 1 in the crop's map and 0 elsewhere: the crop sees nothing but 1."""
    crops = draw_turned(BOXES, 12, 2, 45, torch.Generator().manual_seed(3))
    mask = covered(crops, 192)
    seen = cut(mask[:, None].float(), crops, 16)
    assert seen[:, :, 1:-1, 1:-1].mean() > 0.99
    dark = cut(1 - mask[:, None].float(), crops, 16)
    assert dark.mean() < 0.05


def test_crops_of_one_picture_stay_together():
    images = torch.arange(1.0, 4.0).view(3, 1, 1, 1).expand(3, 1, 64, 64)
    box = torch.tensor([[-0.2, -0.2, 0.2, 0.2]]).expand(6, 4)
    values = cut(images, Turned(box, torch.zeros(6)), 4).mean((1, 2, 3))
    assert torch.allclose(values, torch.tensor([1.0, 1, 2, 2, 3, 3]))


def test_cross_attention_block_by_hand():
    block = CrossBlock(64, 2).double()
    x, t = torch.randn(2, 5, 64, dtype=torch.double), torch.randn(2, 3, 64, dtype=torch.double)
    weight, bias = block.attn.qkv.weight.view(3, 64, 64), block.attn.qkv.bias.view(3, 64)
    asking, asked = block.norm1(x), block.norm1(t)
    q = (asking @ weight[0].T + bias[0]).view(2, 5, 2, 32)
    k, v = ((asked @ weight[i].T + bias[i]).view(2, 3, 2, 32) for i in (1, 2))
    mixed = torch.zeros(2, 5, 2, 32, dtype=torch.double)
    for n in range(2):
        for head in range(2):
            for i in range(5):
                scores = torch.stack([q[n, i, head] @ k[n, j, head] / 32**0.5 for j in range(3)]).softmax(0)
                mixed[n, i, head] = sum(scores[j] * v[n, j, head] for j in range(3))
    y = x + block.attn.proj(mixed.flatten(2))
    assert torch.allclose(block(x, t), y + block.mlp(block.norm2(y)), atol=1e-10)


def test_only_the_context_has_a_position_and_the_class_token_none():
    decoder = Correlation(32, 64, (8, 8), 32)
    assert torch.equal(decoder.positions[0], torch.zeros(64))
    assert torch.allclose(decoder.positions[1:], sincos_2d(64, (8, 8)))
    context, exemplar = torch.randn(1, 65, 32), torch.randn(1, 17, 32)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(decoder(context, exemplar), decoder(context, exemplar[:, order]), atol=1e-4)
    moved = context[:, torch.cat([torch.zeros(1).long(), 1 + torch.randperm(64)])]
    assert not torch.allclose(decoder(moved, exemplar), decoder(context, exemplar), atol=1e-2)


def test_positions_are_looked_up_where_dino_looks_them_up():
    table = sincos_2d(16, (14, 14))
    small = resized(table, (14, 14), (4, 4))
    grid, scale = table.T.view(16, 14, 14), 4.1 / 14

    def weights(place: float) -> list[tuple[int, float]]:
        source = (place + 0.5) / scale - 0.5
        first, t, a = math.floor(source), source - math.floor(source), -0.75
        near = lambda d: (a + 2) * d**3 - (a + 3) * d**2 + 1  # noqa: E731
        far = lambda d: a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a  # noqa: E731
        values = [far(t + 1), near(t), near(1 - t), far(2 - t)]
        return [(min(max(first - 1 + n, 0), 13), value) for n, value in enumerate(values)]

    for row in range(4):
        for column in range(4):
            expected = sum(u * v * grid[:, i, j] for i, u in weights(row) for j, v in weights(column))
            assert torch.allclose(small[row * 4 + column], expected, atol=1e-5)
    assert resized(table, (14, 14), (14, 14)) is table


def test_loss_is_a_mean_over_pixels_and_a_sum_over_exemplars():
    task = make()
    context, exemplars, crops = task.puzzle(batch(), Step.at(seed=1))
    known = task.tokens(task.teacher, context)
    truth = covered(crops, 32).view(3, 4, 32, 32)
    total = 0.0
    for number in range(4):
        asked = task.tokens(task.encoder, exemplars.view(3, 4, 3, 16, 16)[:, number])
        total += F.cross_entropy(task.decoder(known, asked), truth[:, number].long()).item()
    assert task.loss(batch(), Step.at(seed=1))["correlation"].item() == pytest.approx(total, rel=1e-4)


def test_context_is_a_constant_read_by_the_copy_with_the_networks_own_class_token():
    task = make()
    with torch.no_grad():
        task.encoder.model.cls_token.add_(1.0)
    context = task.puzzle(batch(), Step.at())[0]
    before = task.tokens(task.teacher, context)
    with torch.no_grad():
        task.teacher.model.cls_token.fill_(7.0)  # of no consequence
    assert torch.equal(task.tokens(task.teacher, context), before)
    task.loss(batch(), Step.at())["correlation"].backward()
    assert all(p.grad is None for p in task.teacher.parameters())
    assert task.encoder.model.patch_embed.proj.weight.grad is None
    assert task.encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_copy_follows_at_the_papers_rate():
    task = make()
    with torch.no_grad():
        task.encoder.blocks[0].mlp.fc1.weight.add_(1.0)
    old = task.teacher.blocks[0].mlp.fc1.weight.clone()
    task.after_step(Step.at(30, 100))
    momentum = 1 - (1 - 0.99) * (math.cos(math.pi * 30 / 100) + 1) / 2
    assert torch.allclose(task.teacher.blocks[0].mlp.fc1.weight, old + (1 - momentum), atol=1e-6)


def test_sizes_are_the_papers_at_224_and_fit_small_pictures():
    task = CIM(build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2", image_size=224, seed=0))
    assert (task.context_size, task.exemplar_size, task.count) == (160, 64, 6)
    assert (make().context_size, make().exemplar_size, make().count) == (32, 16, 4)
    context, exemplars, _ = task.puzzle(batch(2), Step.at())
    assert context.shape == (2, 3, 160, 160) and exemplars.shape == (12, 3, 64, 64)


def test_contrast_pairs_each_exemplar_with_its_own_context():
    task = make(contrast=1.0).eval()  # batch statistics at rest
    asked, known = torch.randn(12, 32), torch.randn(3, 32)
    keys = F.normalize(task.slow_projector(known), dim=1)
    total = 0.0
    for number in range(4):
        query = F.normalize(task.predictor(task.projector(asked.view(3, 4, 32)[:, number])), dim=1)
        logits = query @ keys.T / 0.2
        total += 2 * 0.2 * F.cross_entropy(logits, torch.arange(3)).item()
    assert task.contrast(asked, known).item() == pytest.approx(total, rel=1e-4)
    for layer in (
        task.projector[0],
        task.predictor[-2],
    ):  # Xavier's, as all linear layers of the official code
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    losses = make(contrast=0.5).loss(batch(), Step.at())
    assert set(losses) == {"correlation", "contrast"}


def test_overlap_by_counting():
    said = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
    truth = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]]).bool()
    assert overlap(said, truth).tolist() == pytest.approx([1 / 3, 1.0])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="exemplar_size 18"):
        make(exemplar_size=18)
    with pytest.raises(UsageError, match="class token"):
        bare = VIT + ",class_token=false,global_pool=avg,fc_norm=false"
        CIM(build_encoder(bare, image_size=32, patch_size=4))
    with pytest.raises(UsageError, match="absolute positions"):
        CIM(build_encoder(VIT + ",pos_embed=none", image_size=32, patch_size=4))
    with pytest.raises(UsageError, match="fc_norm=false"):
        CIM(build_encoder(VIT + ",global_pool=avg", image_size=32, patch_size=4))


@pytest.mark.parametrize("pretrained", [False, True])
def test_positions_and_patch_embedding_are_never_learned(pretrained):
    encoder = build_encoder(VIT, image_size=32, patch_size=4, seed=0)
    encoder.pretrained = pretrained
    task = CIM(encoder, decoder_dim=64)
    task.loss(batch(), Step.at())["correlation"].backward()
    fixed = {name for name, p in encoder.model.named_parameters() if p.grad is None}
    assert fixed == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
