"""AttMask against the official procedure, written as loops."""

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.encoders.attention import attend, class_attention, restricted
from pretask.errors import UsageError
from pretask.methods.image.attmask import AttMask, attention_mask
from pretask.pretexts import draw
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=24,num_heads=2"


def encoder(name: str = VIT):
    return build_encoder(name, image_size=32, patch_size=4, seed=0)


def make(**options):
    torch.manual_seed(0)
    return AttMask(encoder(), **{"prototypes": 20, "num_local": 2} | options)


def batch(count: int = 3):
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(count, 3, 40, 40, generator=generator)}


# ---- attention by parts


@pytest.mark.parametrize("name", [VIT, VIT + ",reg_tokens=2", VIT + ",qk_norm=true"])
def test_the_class_tokens_attention_is_that_of_the_last_block(name):
    model = encoder(name).double()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features, attention = class_attention(model, image)
    assert torch.equal(features.tokens, model(image).tokens)
    x, _ = model.embed(image)
    x = model.model.blocks[0](x)
    block = model.model.blocks[1]
    attn, y = block.attn, block.norm1(x)
    dim, prefix = y.shape[2], model.num_prefix
    for sample in range(2):
        for head in range(2):
            rows = slice(head * dim // 2, (head + 1) * dim // 2)
            weight, bias = attn.qkv.weight, attn.qkv.bias
            query = attn.q_norm(y[sample] @ weight[:dim][rows].T + bias[:dim][rows])
            key = attn.k_norm(y[sample] @ weight[dim : 2 * dim][rows].T + bias[dim : 2 * dim][rows])
            scores = [(query[0] @ key[j]).item() / (dim // 2) ** 0.5 for j in range(len(key))]
            whole = torch.tensor(scores, dtype=torch.float64).softmax(0)
            assert torch.allclose(attention[sample, head], whole[prefix:], atol=1e-12)


def test_attention_to_everyone_is_the_layers_own():
    block = encoder().double().model.blocks[0]
    x = torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(attend(block.attn, x, x), block.attn(x), atol=1e-12)
    everyone = torch.arange(7).flip(0).expand(2, -1)
    assert torch.allclose(restricted(block, x, everyone), block(x), atol=1e-12)


def test_without_a_class_token_nothing_says_what_matters():
    bare = encoder(VIT + ",class_token=false,global_pool=avg")
    with pytest.raises(UsageError, match="class token"):
        AttMask(bare)
    with pytest.raises(UsageError, match="class token"):
        class_attention(bare, torch.rand(1, 3, 32, 32))


# ---- masks


@pytest.mark.parametrize("attended", ["high", "low"])
def test_the_most_or_least_attended_are_hidden(attended):
    attention = torch.rand(4, 3, 20, generator=torch.Generator().manual_seed(0))
    masked = torch.tensor([True, False, True, True])
    hidden = attention_mask(attention, 7, attended, masked)
    for crop in range(4):
        mean = [sum(float(attention[crop, h, p]) for h in range(3)) / 3 for p in range(20)]
        order = sorted(range(20), key=lambda p, mean=mean: mean[p], reverse=attended == "high")
        expected = set(order[:7]) if masked[crop] else set()
        assert set(hidden[crop].nonzero().flatten().tolist()) == expected


def test_hints_are_some_of_the_most_attended():
    generator = torch.Generator().manual_seed(1)
    attention = torch.rand(200, 2, 40, generator=generator)
    noise = torch.rand(200, 40, generator=generator)
    everyone = torch.ones(200, dtype=torch.bool)
    high = attention_mask(attention, 15, "high", everyone)
    hint = attention_mask(attention, 15, "hint", everyone, top=6, shown=2, noise=noise)
    shown = high & ~hint
    assert (hint & ~high).sum() == 0 and (shown.sum(1) == 2).all()
    rank = attention.mean(1).argsort(1, descending=True).argsort(1)
    assert int(rank[shown].max()) == 5
    counts = torch.bincount(rank[shown], minlength=6).float() / 200
    assert (counts - 2 / 6).abs().max() < 0.12, "each of the six alike often"
    assert torch.equal(attention_mask(attention, 15, "hint", everyone, 6, 0, noise), high), "none to show"


def test_one_ratio_holds_for_a_batch_and_another_for_its_hints():
    task = make(mask="hint", mask_probability=1.0)
    attention = torch.rand(6, 2, 64, generator=torch.Generator().manual_seed(3))
    hidden = task.hide(3, Step.at(seed=4), attention)
    ratio, shown = (0.1 + 0.4 * unit for unit in draw.common((2,), Step.at(seed=4).generator).tolist())
    assert hidden.sum(1).tolist() == [int(64 * ratio) - int(0.1 * shown * 64)] * 6
    counts = {int(task.hide(3, Step.at(seed=seed), attention)[0].sum()) for seed in range(20)}
    assert len(counts) > 8


def test_counts_round_as_the_official_products_do():
    """int(n r) and int(show_max r n), in double precision: 70, and 0.06999999999999999 x 100 is not yet 7."""
    attention = torch.rand(6, 2, 100, generator=torch.Generator().manual_seed(3))
    task = make(mask="hint", mask_ratio=(0.7, 0.7), mask_probability=1.0)
    assert task.hide(3, Step.at(), attention).sum(1).tolist() == [int(100 * 0.7) - int(0.1 * 0.7 * 100)] * 6
    assert int(100 * 0.7) == 70 and int(0.1 * 0.7 * 100) == 6


def test_half_of_the_crops_are_masked():
    task = make()
    attention = torch.rand(800, 2, 64, generator=torch.Generator().manual_seed(3))
    masked = task.hide(400, Step.at(), attention).any(1).float().mean()
    assert 0.44 < masked < 0.56


def test_the_teacher_looks_at_whole_crops_and_gets_no_gradient():
    task = make(mask_probability=1.0)
    seen = []
    inner = task.hide
    task.hide = lambda size, step, attention: seen.append(attention) or inner(size, step, attention)
    losses = task.loss(batch(), Step.at())
    clean = torch.cat(task.views(batch(), Step.at())[:2])
    expected = class_attention(task.teacher.encoder, clean)[1]
    assert torch.allclose(seen[0], expected, atol=1e-6) and not seen[0].requires_grad
    task.total(losses).backward()
    assert all(p.grad is None for p in task.teacher.parameters())


def test_hiding_as_an_augmentation_alone():
    """Without a weight on patches what is learned is the loss between crops, of which the student's are masked."""
    task = make(patch_weight=0.0, mask_probability=1.0, drop_path=0.0)
    learning = [p for p in task.parameters() if p.requires_grad]
    losses, again = task.loss(batch(), Step.at()), task.loss(batch(), Step.at())
    total = task.total(losses)
    assert losses["patch"] > 1 and torch.equal(total, again["cls"])
    ours = torch.autograd.grad(total, learning)
    for a, b in zip(ours, torch.autograd.grad(again["cls"], learning), strict=True):
        torch.testing.assert_close(a, b)
    place = next(i for i, p in enumerate(learning) if p is task.mask_token)
    assert ours[place].any(), "hidden patches count in the loss between crops"
    both = make(mask_probability=1.0, drop_path=0.0)
    losses = both.loss(batch(), Step.at())
    assert both.total(losses).item() == pytest.approx((total + losses["patch"]).item(), rel=1e-6)


def test_the_temperature_climbs_for_30_of_100_epochs_or_as_long_as_it_is_told():
    assert AttMask(encoder()).recipe.epochs == 100
    task = make()
    at = [task.sharpness(Step.at(epoch, 100)) for epoch in range(100)]
    assert at == pytest.approx([0.04 + 0.03 * epoch / 29 for epoch in range(30)] + [0.07] * 70)
    task = make(temperature_epochs=5)
    told = [task.sharpness(Step.at(epoch, 10)) for epoch in range(10)]
    assert told == pytest.approx([0.04 + 0.03 * epoch / 4 for epoch in range(5)] + [0.07] * 5)


def test_the_last_rate_is_the_official_one():
    recipe = AttMask(encoder()).recipe
    assert recipe.lr * recipe.batch_size / recipe.lr_batch * recipe.final_lr == pytest.approx(1e-6)
