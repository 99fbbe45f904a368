"""MP3: what a token may ask, and that order says nothing."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.mp3 import MP3, Puzzle
from pretask.objectives.reconstruction import patchify, unpatchify
from pretask.task import Step

BARE = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2,class_token=false,global_pool=avg,fc_norm=false"


def make(**options):
    torch.manual_seed(0)
    return MP3(build_encoder(BARE, image_size=32, patch_size=4, seed=0), **options)


def batch(count: int = 3):
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(count, 3, 40, 40, generator=generator)}


def masked_attention(block, x, context):
    """The block with a mask of minus infinity on all keys that are not context."""
    attn, y = block.attn, block.norm1(x)
    batch_size, tokens, dim = y.shape
    qkv = attn.qkv(y).view(batch_size, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = qkv[0] @ qkv[1].transpose(-2, -1) * (dim // attn.num_heads) ** -0.5
    closed = torch.ones(batch_size, tokens, dtype=torch.bool).scatter(1, context, False)
    scores = scores.masked_fill(closed[:, None, None], float("-inf"))
    mixed = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).flatten(2)
    x = x + attn.proj(mixed)
    return x + block.mlp(block.norm2(x))


def test_only_the_context_is_asked_in_every_layer():
    task = make().double()
    puzzle = task.puzzle({"image": batch()["image"].double()}, Step.at())
    assert puzzle.context.shape == (3, 32)
    x = task.encoder.contents(puzzle.image)
    for block in task.encoder.blocks:
        x = masked_attention(block, x, puzzle.context)
    assert torch.allclose(task.answers(puzzle), task.head(task.encoder.model.norm(x)), atol=1e-10)


def test_with_everyone_asked_it_is_the_encoder_itself():
    task = make(mask_ratio=0.0)
    puzzle = task.puzzle(batch(), Step.at())
    assert torch.allclose(task.answers(puzzle), task.head(task.encoder(puzzle.image).tokens), atol=1e-5)


def test_order_says_nothing():
    """Moving the patches of a picture moves the answers with them."""
    task = make()
    puzzle = task.puzzle(batch(), Step.at())
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    moved = unpatchify(patchify(puzzle.image, 4)[:, order], 4, (8, 8))
    back = order.argsort()
    answers = task.answers(Puzzle(moved, back[puzzle.context]))
    assert torch.allclose(answers, task.answers(puzzle)[:, order], atol=1e-5)


def test_every_token_is_asked_for_its_place():
    task = make()
    loss = task.loss(batch(), Step.at(seed=2))["position"]
    logits = task.answers(task.puzzle(batch(), Step.at(seed=2)))
    errors = [F.cross_entropy(logits[n, i], torch.tensor(i)).item() for n in range(3) for i in range(64)]
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert loss.item() == pytest.approx(math.log(64), abs=0.3)


def test_patches_of_one_colour_are_counted_apart():
    """Black pictures with one patch each that can be told: half of these are placed, of the plain ones none."""
    task = make(crop_scale=(1.0, 1.0))
    image = torch.zeros(2, 3, 32, 32)
    image[:, 1, 8:12, 4:8] = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    puzzle = Puzzle(image, torch.arange(32).expand(2, -1))
    said = torch.zeros(2, 64, 64)
    said[:, :, 63] = 1.0
    said[0, 2 * 8 + 1, 2 * 8 + 1] = 2.0
    task.puzzle, task.answers = lambda *_: puzzle, lambda _: said
    step = Step.at()
    task.loss({}, step)
    assert step.metrics["position_accuracy_varied"] == 0.5
    assert step.metrics["position_accuracy"].item() == pytest.approx(3 / 128)


def test_positions_are_zero_and_do_not_learn():
    task = make()
    position = task.encoder.model.pos_embed
    assert not position.any() and not position.requires_grad
    unplaced = build_encoder(BARE + ",pos_embed=none", image_size=32, patch_size=4)
    assert MP3(unplaced).loss(batch(), Step.at())["position"] > 0


def test_what_betrays_places_is_refused():
    with pytest.raises(UsageError, match="class_token=false"):
        MP3(
            build_encoder(
                "vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2", image_size=32, patch_size=4
            )
        )
    with pytest.raises(UsageError, match="from 0 to 1"):
        make(mask_ratio=1.1)
    with pytest.raises(UsageError, match=r"last norm .* add fc_norm=false"):
        MP3(build_encoder(BARE.replace(",fc_norm=false", ""), image_size=32, patch_size=4))


@pytest.mark.parametrize(("ratio", "kept"), [(0.99, 1), (1.0, 1), (0.75, 16), (0.7, 19), (0.0, 64)])
def test_the_context_is_rounded_down_and_never_empty(ratio, kept):
    task = make(mask_ratio=ratio)
    assert task.puzzle(batch(), Step.at()).context.shape == (3, kept)
    assert task.loss(batch(), Step.at())["position"].isfinite()


def test_small_pictures_keep_half_and_others_a_quarter():
    assert make().num_context == 32
    assert MP3(build_encoder(BARE, image_size=96, patch_size=16)).num_context == 9
