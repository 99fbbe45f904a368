"""BEiT: the loss at covered patches against loops, the token at the input, and relative positions."""

import pytest
import torch

import tiny
from pretask.encoders import build_encoder
from pretask.encoders.beit import BeitEncoder
from pretask.methods.image.beit import BEiT
from pretask.methods.image.mood import MOOD
from pretask.methods.image.moodv2 import MOODv2
from pretask.task import Step

RELATIVE = "beit_base_patch16_224:depth=2,embed_dim=32,num_heads=2"


@pytest.fixture
def task() -> BEiT:
    torch.manual_seed(0)
    made = BEiT(build_encoder(RELATIVE, image_size=32, patch_size=4, seed=0), words=20, drop_path=0.0)
    made.prepare([tiny.images(16)], 16)
    return made


def test_the_loss_is_the_cross_entropy_of_covered_patches_alone(task):
    batch = tiny.images(4)
    view, hidden, word = task.puzzle(batch, Step.at(3))
    tokens = task.encoder(view, hidden=hidden, mask_token=task.mask_token).tokens
    logits = task.head(task.encoder.model.fc_norm(tokens)).log_softmax(2)
    terms = [-logits[b, p, word[b, p]] for b in range(4) for p in range(64) if hidden[b, p]]
    torch.testing.assert_close(task.loss(batch, Step.at(3))["words"], torch.stack(terms).mean())
    share = hidden.float().mean(1)
    assert share.max() <= 0.3827 and share.min() > 0.2


def test_words_are_those_of_the_picture_without_its_cover(task):
    view, hidden, word = task.puzzle(tiny.images(4), Step.at())
    assert torch.equal(word, task.codebook(task.describe(view)))
    covered = task.cover(view, hidden, view.new_zeros(1, 1, 48))
    assert not torch.equal(task.codebook(task.describe(covered)), word)


def test_what_is_covered_cannot_be_seen(task):
    """All of a covered patch but its place is gone; patches beside it see the token."""
    task.eval()
    view, hidden, _ = task.puzzle(tiny.images(2), Step.at())
    other = task.cover(view, hidden, view.new_full((1, 1, 48), 0.3))
    seen = [task.encoder(x, hidden=hidden, mask_token=task.mask_token).tokens for x in (view, other)]
    torch.testing.assert_close(*seen)


def test_positions_are_relative(task):
    assert isinstance(task.encoder, BeitEncoder) and task.encoder.model.pos_embed is None
    table = task.encoder.model.blocks[0].attn.relative_position_bias_table
    assert table.requires_grad and len(table) == 15 * 15 + 3


def test_it_shares_all_but_the_optimisation_with_its_heirs():
    assert BEiT.loss is MOODv2.loss is MOOD.loss
    assert (BEiT.recipe.lr, BEiT.recipe.batch_size, BEiT.recipe.betas) == (1.5e-3, 2048, (0.9, 0.999))
    assert all(kind.recipe.warmup_arrives for kind in (BEiT, MOODv2, MOOD))
