"""MOODv2's pretext against BEiT's forward pass, its codebook against loops, and BEiT's network."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation

import tiny
from pretask.catalog import find
from pretask.data import open_data
from pretask.encoders import build_encoder, load_encoder, save_encoder
from pretask.encoders.beit import start_as_beit
from pretask.encoders.codebook import Codebook
from pretask.errors import DataError, UsageError
from pretask.methods.image.moodv2 import MOODv2
from pretask.objectives.reconstruction import patchify
from pretask.pretexts.masks import draw_blocks
from pretask.pretexts.resample import crop
from pretask.pretexts.views import draw_view
from pretask.studies.bench import Bench
from pretask.studies.claim import find_claim
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"
BEIT = "beit_base_patch16_224:depth=2,embed_dim=32,num_heads=2,init_values=0.1"
READ_OFF = ",global_pool=avg,fc_norm=false"


def encoder(name: str = VIT, image_size: int = 32):
    return build_encoder(name, image_size=image_size, in_chans=3, patch_size=4, seed=0)


def make(name: str = VIT, **options) -> MOODv2:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = MOODv2(encoder(name), **{"words": 20, "drop_path": 0.0, **options})
    task.prepare([tiny.images(16)], 16)
    return task


# ---- the words


def test_the_word_of_a_vector_is_the_nearest():
    book = Codebook(7, 5)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(60, 5, generator=generator)
    book.fit(vectors)
    found = book(vectors.view(6, 10, 5))
    distance = [
        [sum((a - b) ** 2 for a, b in zip(v, c, strict=True)) for c in book.centres.tolist()]
        for v in vectors.tolist()
    ]
    assert found.shape == (6, 10) and found.flatten().tolist() == np.argmin(distance, axis=1).tolist()
    share = np.bincount(found.flatten(), minlength=7) / 60
    assert book.share.tolist() == pytest.approx(share.tolist())
    assert book.surprise == pytest.approx(-sum(p * math.log(p) for p in share if p), rel=1e-5)


def test_words_are_found_where_vectors_gather():
    places = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = places.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=torch.Generator().manual_seed(0))
    book = Codebook(3, 2)
    book.fit(vectors)
    assert torch.cdist(places, book.centres).amin(1).max() < 0.1
    again = Codebook(3, 2)
    again.fit(vectors)
    assert torch.equal(again.centres, book.centres)


def test_too_few_patches_are_refused():
    with pytest.raises(DataError, match="fewer words"):
        Codebook(8, 2).fit(torch.ones(100, 2))
    task = MOODv2(encoder(), words=20)
    with pytest.raises(UsageError, match="prepare"):
        task.loss(tiny.images(4), Step.at())


def test_words_are_those_of_the_uncovered_crop():
    task, batch = make(), tiny.images(4)
    view, hidden, word = task.puzzle(batch, Step.at(2))
    patches = patchify(task.encoder.normalise(view), 4)
    assert torch.equal(word, torch.cdist(patches, task.codebook.centres).argmin(2))
    blind = task.cover(view, hidden, torch.zeros(1, 1, 48))
    assert not torch.equal(task.codebook(task.describe(blind))[hidden], word[hidden])


def test_colours_change_before_the_crop():
    """As in the official code: contrast is about the mean of the whole picture."""
    task, batch = make(), tiny.images(4)
    drawn = draw_view(task.view, 4, Step.at().generator, batch["size"])
    pictures = []
    for picture, order, factors in zip(batch["image"] / 255, drawn.order, drawn.factors, strict=True):
        for kind in order.tolist():
            if kind < 3:
                change = (adjust_brightness, adjust_contrast, adjust_saturation)[kind]
                picture = change(picture, float(factors[kind]))
        pictures.append(picture)
    expected = crop(torch.stack(pictures), drawn.box, drawn.flip, 32, "bicubic")
    given = batch["image"].clone()
    torch.testing.assert_close(task.crop(batch, Step.at().generator), expected, atol=1e-4, rtol=0)
    assert torch.equal(batch["image"], given)
    plain = crop(batch["image"], drawn.box, drawn.flip, 32, "bicubic")
    torch.testing.assert_close(make(jitter=0.0).crop(batch, Step.at().generator), plain)


def test_words_look_like_the_mean_of_their_patches():
    task = make()
    view = task.crop(tiny.images(16), Step.at().generator)
    word, pixels = task.codebook(task.describe(view)).flatten(), patchify(view, 4).flatten(0, 1)
    for number in word.unique().tolist():
        torch.testing.assert_close(task.looks[number], pixels[word == number].mean(0), rtol=1e-4, atol=1e-5)


def test_words_of_a_teacher_are_found_among_features_of_length_one(tmp_path):
    save_encoder(encoder(), tmp_path / "encoder.safetensors")
    task = make(teacher=str(tmp_path))
    view, _, word = task.puzzle(tiny.images(4), Step.at())
    tokens = load_encoder(tmp_path).eval()(view).tokens
    features = tokens / tokens.norm(dim=2, keepdim=True)
    assert torch.equal(word, torch.cdist(features, task.codebook.centres).argmin(2))
    assert not any(name.startswith("teacher") for name in task.state_dict())
    assert task.codebook.centres.norm(dim=1).max() <= 1 + 1e-5


# ---- the mask and the loss


@pytest.mark.parametrize(("side", "hidden"), [(14, 75), (8, 24)])
def test_blocks_cover_at_most_what_beit_covers(side, hidden):
    assert int(side * side * 0.3827) == hidden
    mask = draw_blocks((side, side), hidden, 200, torch.Generator().manual_seed(0))
    count = mask.sum(1)
    assert count.max() <= hidden and count.float().mean() > 0.85 * hidden and count.unique().numel() > 1


@pytest.mark.parametrize("name", [VIT, VIT + READ_OFF, BEIT, BEIT + ",use_fc_norm=false"])
def test_loss_is_the_mean_over_all_covered_patches_of_the_batch(name):
    """BEiT's forward pass: tokens replaced before positions, the last norm, logits at covered places."""
    task, batch, step = make(name), tiny.images(16), Step.at(1)
    loss = task.loss(batch, step)["words"]
    view, hidden, word = task.puzzle(batch, Step.at(1))
    model, image = task.encoder.model, task.encoder.normalise(view)
    kernel, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    x = F.conv2d(image, kernel, bias, stride=4).flatten(2).transpose(1, 2)
    w = hidden.unsqueeze(-1).float()
    x = x * (1 - w) + task.mask_token * w
    x = torch.cat([model.cls_token.expand(16, -1, -1), x], dim=1)
    if model.pos_embed is not None:
        x = x + model.pos_embed
    for block in model.blocks:
        x = block(x)
    x = model.fc_norm(model.norm(x))[:, 1:]
    logits = task.head(x[hidden])  # in raster order, as the words are
    log_p = logits.double().log_softmax(1)
    terms = [-log_p[row, number] for row, number in enumerate(word[hidden].tolist())]
    assert len({int(count) for count in hidden.sum(1)}) > 1, "pictures cover unequally many patches here"
    torch.testing.assert_close(loss.double(), sum(terms) / len(terms), rtol=1e-5, atol=1e-6)
    mine = torch.autograd.grad(loss, task.head.weight)[0]
    theirs = torch.autograd.grad(F.cross_entropy(logits, word[hidden]), task.head.weight)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    accuracy = (logits.argmax(1) == word[hidden]).float().mean()
    assert float(step.metrics["accuracy"]) == pytest.approx(float(accuracy))


def test_a_mask_that_covers_nothing_or_all_is_refused():
    for ratio in (0.0, 1.0):
        with pytest.raises(UsageError, match="mask_ratio"):
            MOODv2(encoder(), mask_ratio=ratio)


def test_beit_starts_small_where_it_adds_to_the_stream():
    for name in (VIT, BEIT):
        made = encoder(name)
        start_as_beit(made)
        assert float(made.model.cls_token.detach().abs().max()) <= 0.02
        for number, block in enumerate(made.model.blocks, 1):
            for layer in (block.attn.proj, block.mlp.fc2):
                deviation = float(layer.weight.detach().std())
                assert deviation == pytest.approx(0.0108 / math.sqrt(2 * number), rel=0.06)
                assert not layer.bias.any()
            inner = block.mlp.fc1.weight.detach()
            assert float(inner.std()) == pytest.approx(0.0108, rel=0.06) and float(inner.abs().max()) <= 0.02
    pretrained = encoder()
    pretrained.pretrained = True
    before = pretrained.model.blocks[0].mlp.fc2.weight.clone()
    assert torch.equal(MOODv2(pretrained, words=20).encoder.model.blocks[0].mlp.fc2.weight, before)


def test_beit_is_timms(tmp_path):
    made = encoder(BEIT).eval()
    image = torch.rand(2, 3, 32, 32)
    found = made(image)
    torch.testing.assert_close(found.pooled, made.model(made.normalise(image)))
    assert found.tokens.shape == (2, 64, 32) and found.grid == (8, 8)
    save_encoder(made, tmp_path / "encoder.safetensors")
    torch.testing.assert_close(load_encoder(tmp_path).eval()(image).pooled, found.pooled)
    with pytest.raises(UsageError, match="cannot drop"):
        made(image, visible=torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(UsageError, match="32 pixels"):
        made(torch.rand(2, 3, 40, 40))


def test_a_picture_is_read_off_the_mean_of_its_normed_patches():
    made = encoder(VIT + READ_OFF).eval()
    found = made(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(found.pooled, found.tokens.mean(1))
    assert find("moodv2").needs == "patches"


@pytest.mark.parametrize("cache", ["memory", "never"])
def test_whole_pictures_are_squashed_where_that_is_asked(tmp_path, cache):
    """Its benchmark's way: nothing of a wide picture is cut off."""
    for number in range(3):
        noise = np.random.default_rng(number).random((6, 15, 3)) * 255
        Image.fromarray(noise.astype("uint8")).resize((150, 60), Image.Resampling.BICUBIC).save(
            tmp_path / f"{number}.png"
        )
    wide, squashed = (
        open_data(tmp_path, image_size=32, cache=cache, fit=fit) for fit in ("middle", "squash")
    )
    made = encoder()
    made.forward = lambda image: image  # what it is shown
    for number, seen in enumerate(made.encode(squashed.batch(range(3)))):
        whole = Image.open(tmp_path / f"{number}.png").resize((32, 32), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1) / 255
        assert (seen - expected).abs().mean() < 0.02
        assert (made.encode(wide.batch([number]))[0] - expected).abs().mean() > 0.05
    with pytest.raises(UsageError, match="stretch"):
        open_data(tmp_path, fit="stretch")


def test_sheet_fills_covered_patches_with_what_the_words_look_like():
    task, batch = make(), tiny.images(3)
    rows = task.preview(batch, Step.at()).rows
    view, hidden, word = task.puzzle(batch, Step.at())
    truth = patchify(torch.stack([row[2].content for row in rows]), 4)
    torch.testing.assert_close(truth[hidden], task.looks[word[hidden]].clamp(0, 1))
    torch.testing.assert_close(truth[~hidden], patchify(view, 4)[~hidden])


def test_real_pictures_give_words_that_differ(real_data):
    data = open_data(real_data("cifar10_subset") / "cifar10_subset.zip", limit=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = MOODv2(build_encoder(VIT, patch_size=4, seed=0, **data.inputs), words=64)
    task.prepare([data.batch(range(64))], 64)
    assert task.codebook.surprise > 0.7 * math.log(64) and (task.codebook.share > 0).float().mean() > 0.8


def test_held_out_classes_are_in_no_part_but_outside():
    claim = replace(find_claim("moodv2"), data="digits-on-textures", train=300, labelled=200, test=100)
    bench = Bench.of(claim, print)
    assert claim.held_out == 2 and bench.facts["classes"] == 8
    for part in (bench.train, bench.labelled, bench.test):
        assert set(part.labels.tolist()) == set(range(8))
    assert set(bench.outside.labels.tolist()) == {8, 9} and (len(bench.train), len(bench.test)) == (300, 100)
