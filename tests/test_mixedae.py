"""MixedAE against loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.mixedae import MixedAE, homologous_block, homologous_contrast
from pretask.objectives.reconstruction import patchify, standardise
from pretask.pretexts.masks import take
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options):
    torch.manual_seed(0)
    return MixedAE(build_encoder(VIT, image_size=32, patch_size=8, seed=0), **options)


def batch(count: int = 8):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5))}


def test_a_mix_shows_a_quarter_of_each_of_four_pictures():
    task = make()
    puzzle = task.puzzle(batch(), Step.at())
    assert puzzle.source.shape == (2, 16)
    assert all(torch.bincount(row, minlength=4).tolist() == [4] * 4 for row in puzzle.source)
    mix = task.mix(puzzle, task.patches(puzzle.image))
    patches, own = patchify(mix, 8), patchify(puzzle.image, 8)
    for group in range(2):
        for place in range(16):
            expected = own[4 * group + int(puzzle.source[group, place]), place]
            assert torch.allclose(patches[group, place], expected, atol=1e-5), "patches keep their places"


def test_unmixing_is_maes_mask_of_each_picture():
    task = make()
    puzzle = task.puzzle(batch(), Step.at())
    order = task.unmix(puzzle)
    for picture in range(8):
        shown = (puzzle.source[picture // 4] == picture % 4).nonzero().flatten().tolist()
        assert order.visible[picture].tolist() == shown
        assert sorted(order.visible[picture].tolist() + order.hidden[picture].tolist()) == list(range(16))


def test_only_the_largest_products_count():
    block = build_encoder(VIT, image_size=32).double().model.blocks[0]
    x = torch.randn(2, 9, 32, dtype=torch.float64, generator=generator())
    attn, y = block.attn, block.norm1(x)
    out = torch.zeros_like(x)
    for n in range(2):
        heads = []
        for h in range(2):
            q, k, v = (
                y[n] @ attn.qkv.weight[32 * part + 16 * h : 32 * part + 16 * h + 16].T
                + attn.qkv.bias[32 * part + 16 * h : 32 * part + 16 * h + 16]
                for part in range(3)
            )
            rows = []
            for i in range(9):
                scores = [(q[i] @ k[j]).item() / 4 for j in range(9)]
                best = sorted(range(9), key=lambda j, scores=scores: -scores[j])[:3]
                total = sum(math.exp(scores[j]) for j in best)
                rows.append(sum(math.exp(scores[j]) / total * v[j] for j in best))
            heads.append(torch.stack(rows))
        out[n] = torch.cat(heads, 1)
    x1 = x + attn.proj(out)
    expected = x1 + block.mlp(block.norm2(x1))
    assert torch.allclose(homologous_block(block, x, 3), expected, atol=1e-10)
    assert torch.allclose(homologous_block(block, x, 9), block(x), atol=1e-10), "with all it is the block"


def test_the_contrast_is_the_papers():
    z = torch.randn(2, 8, 5, dtype=torch.float64, generator=generator())
    source = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [3, 3, 0, 0, 1, 1, 2, 2]])
    total = 0.0
    for g in range(2):
        for i in range(8):
            cos = [F.cosine_similarity(z[g, i], z[g, j], dim=0).item() / 0.25 for j in range(8)]
            below = sum(math.exp(cos[j]) for j in range(8) if j != i)
            positives = [j for j in range(8) if j != i and source[g, j] == source[g, i]]
            total -= sum(math.log(math.exp(cos[p]) / below) for p in positives) / len(positives)
    assert homologous_contrast(z, source, 0.25).item() == pytest.approx(total / 16)


def test_reconstruction_is_maes_of_what_the_mix_does_not_show():
    task = make()
    puzzle = task.puzzle(batch(), Step.at(seed=3))
    prefix, tokens = task.encode(puzzle)
    errors = []
    order, truth = task.unmix(puzzle), standardise(task.patches(puzzle.image)).values
    rebuilt = task.decode(prefix, tokens, puzzle)
    for picture in range(8):
        for k, place in enumerate(order.hidden[picture].tolist()):
            assert puzzle.source[picture // 4, place] != picture % 4
            errors.append((rebuilt[picture, k] - truth[picture, place]).square().mean())
    loss = task.loss(batch(), Step.at(seed=3))["reconstruction"]
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_with_everything_attended_and_no_signs_it_is_the_plain_encoder():
    task = make(homologous=False, segments=False)
    puzzle = task.puzzle(batch(), Step.at())
    same = puzzle._replace(image=puzzle.image[:1].expand(8, -1, -1, -1))  # four times one picture is itself
    features = task.encoder(same.image[::4])
    assert torch.allclose(task.encode(same)[1], features.tokens, atol=1e-5)


def test_signs_enter_with_the_patches_and_keys_are_as_many_as_a_picture_shows():
    """At 196 patches: learned vectors of the four sources on top of content and position, then blocks of 49 keys."""
    torch.manual_seed(0)
    encoder = build_encoder(VIT, image_size=224, patch_size=16, seed=0)
    task = MixedAE(encoder).double()
    puzzle = task.puzzle({"image": torch.rand(4, 3, 230, 230, generator=generator(5)).double()}, Step.at())
    model, image = encoder.model, encoder.normalise(puzzle.image)
    tokens = [model.cls_token[0, 0] + model.pos_embed[0, 0]]
    for place in range(196):
        source, row, column = int(puzzle.source[0, place]), place // 14 * 16, place % 14 * 16
        corner = image[source, :, row : row + 16, column : column + 16]
        content = (model.patch_embed.proj.weight * corner).sum((1, 2, 3)) + model.patch_embed.proj.bias
        tokens.append(content + model.pos_embed[0, 1 + place] + task.segment[source])
    found = task.encode(puzzle)

    def encoded(kept: int) -> torch.Tensor:
        x = torch.stack(tokens)[None]
        for block in model.blocks:
            x = homologous_block(block, x, kept)
        return model.norm(x)

    assert torch.allclose(torch.cat(found, 1), encoded(49), atol=1e-9)
    assert not torch.allclose(torch.cat(found, 1), encoded(48), atol=1e-6)
    with torch.no_grad():
        task.segment[2] += torch.linspace(-1, 1, 32)
    assert not torch.allclose(task.encode(puzzle)[1], found[1], atol=1e-3)
    assert make(segments=False).segment is None


@pytest.mark.parametrize(("options", "kept"), [({"top_k": 3}, (3, 3)), ({"layers": "last"}, (17, 4))])
def test_top_k_may_be_of_another_size_or_in_the_last_block_alone(options, kept):
    task = make(**options).double()
    puzzle = task.puzzle({"image": batch()["image"].double()}, Step.at())
    model = task.encoder.model
    x = task.encoder.embed(puzzle.image)[0]
    x = torch.cat([x[::4, :1], task.blend(puzzle, x[:, 1:]) + task.segment[puzzle.source]], 1)
    for block, count in zip(model.blocks, kept, strict=True):
        x = homologous_block(block, x, count)  # 17 keys are all there are
    assert torch.allclose(torch.cat(task.encode(puzzle), 1), model.norm(x), atol=1e-10)


def test_full_mixing_shows_every_patch_of_a_picture_once():
    task, one = make(full=True).double(), make().double()
    pictures = {"image": batch()["image"].double()}
    puzzle, single = task.puzzle(pictures, Step.at()), one.puzzle(pictures, Step.at())
    assert puzzle.source.shape == (8, 16) and len(puzzle.image) == 32
    for group in range(2):
        rows = puzzle.source[4 * group : 4 * group + 4]
        assert torch.equal(rows[0], single.source[group])
        assert all(sorted(rows[:, place].tolist()) == [0, 1, 2, 3] for place in range(16))
        assert (puzzle.place[4 * group : 4 * group + 4] == single.place[group]).all()
    errors, apart = [], []
    for mix in range(8):  # each mix is a group of its own
        own = single._replace(
            image=single.image[4 * (mix // 4) :][:4], place=puzzle.place[[mix]], source=puzzle.source[[mix]]
        )
        one.load_state_dict(task.state_dict())
        prefix, tokens = one.encode(own)
        truth = one.target(take(one.patches(own.image), one.unmix(own).hidden))
        errors.append(F.mse_loss(one.decode(prefix, tokens, own), truth))
        apart.append(homologous_contrast(tokens, own.source, 0.25))
    losses = task.loss(pictures, Step.at())
    assert losses["reconstruction"].item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-9)
    assert losses["contrast"].item() == pytest.approx(torch.stack(apart).mean().item(), rel=1e-9)
    question = task.question(pictures, Step.at())
    assert question.source.tolist() == [*range(4)] * 4 + [*range(4, 8)] * 4
    assert len(task.preview(pictures, Step.at()).rows) == 32


def test_a_tenth_of_the_contrast_is_added_to_the_reconstruction():
    task = make()
    losses = task.loss(batch(), Step.at(seed=3))
    puzzle = task.puzzle(batch(), Step.at(seed=3))
    apart = homologous_contrast(task.encode(puzzle)[1], puzzle.source, 0.25)
    assert losses["contrast"].item() == pytest.approx(apart.item(), rel=1e-5)
    expected = losses["reconstruction"].item() + 0.1 * losses["contrast"].item()
    assert task.total(losses).item() == pytest.approx(expected, rel=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="multiple"):
        make().loss(batch(6), Step.at())
    with pytest.raises(UsageError, match="half"):
        make(sources=9)
    with pytest.raises(UsageError, match="top_k"):
        make(top_k=0)
    with pytest.raises(UsageError, match="fc_norm=false"):
        MixedAE(build_encoder(VIT + ",global_pool=avg", image_size=32, patch_size=8))


def test_places_that_cannot_be_shared_evenly_are_in_no_mix():
    task = make(sources=3)
    puzzle = task.puzzle(batch(6), Step.at())
    assert puzzle.place.shape == (2, 15)
    assert all(torch.bincount(row).tolist() == [5] * 3 for row in puzzle.source)
    order = task.unmix(puzzle)
    assert order.visible.shape == (6, 5) and order.hidden.shape == (6, 11)
    assert task.loss(batch(6), Step.at())["reconstruction"].isfinite()
