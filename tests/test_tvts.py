"""TVTS: its losses against loops, what the sorter can and cannot know, where gradients go, what is hidden."""

import math
from functools import lru_cache

import pytest
import torch

import tiny
from pretask.encoders.sorter import Sorter
from pretask.encoders.towers import build
from pretask.encoders.video import build as build_video
from pretask.errors import UsageError
from pretask.methods.multimodal.tvts import TVTS
from pretask.pretexts.clips import draw_frames, draw_visible
from pretask.pretexts.views import square_boxes
from pretask.task import Step
from pretask.training.plan import make_plan

VIDEO = "video=space_time_vit:embed_dim=32,depth=2,num_heads=2,frames=8,patch=4"
TEXT = "text=distilbert:dim=32,n_layers=1,n_heads=2,hidden_dim=64"


def task(**options) -> TVTS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TVTS(build(f"{VIDEO};{TEXT}", **tiny.stories().inputs), **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@lru_cache(maxsize=1)
def batch():
    return tiny.narrated(6)


def shake(module: torch.nn.Module) -> None:
    """No parameter stays where it started: vectors of kinds at zero, norms at one."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator(number))


def sorted_by_hand(sorter: Sorter, video: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The logits of one sample's texts from the weights alone, in float64, a head and a token at a time."""
    p = {name: value.detach().double() for name, value in sorter.named_parameters()}

    def linear(name, x):
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    def norm(name, x):
        deviation = (x - x.mean()).square().mean().add(1e-6).sqrt()
        return (x - x.mean()) / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = [v.double() + p["type_embed"][0] for v in video] + [t.double() + p["type_embed"][1] for t in texts]
    for number, block in enumerate(sorter.blocks):
        name, heads = f"blocks.{number}", block.attn.num_heads
        wide = [linear(f"{name}.attn.qkv", norm(f"{name}.norm1", token)) for token in x]
        query, key, value = (torch.stack(part).unflatten(1, (heads, -1)) for part in zip(
            *(token.chunk(3) for token in wide), strict=True))  # fmt: skip
        for i in range(len(x)):
            mixed = []
            for head in range(heads):
                score = torch.stack([query[i, head] @ other for other in key[:, head]])
                weight = (score / query.shape[2] ** 0.5).softmax(0)
                mixed.append(sum(w * v for w, v in zip(weight, value[:, head], strict=True)))
            x[i] = x[i] + linear(f"{name}.attn.proj", torch.cat(mixed))
            hidden = linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x[i]))
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            x[i] = x[i] + linear(f"{name}.mlp.fc2", hidden)
    return torch.stack([linear("head", norm("norm", token)) for token in x[len(video) :]])


def test_losses_against_loops():
    method = task()
    shake(method.sorter)
    found = {name: value.item() for name, value in method.loss(batch(), Step.at()).items()}
    assert found.keys() == {"align", "sort"} and method.weights == {"sort": 2.0}
    with torch.no_grad():
        masked = method.hide(batch(), Step.at())
        watcher, reader = (method.encoder.tower(kind) for kind in ("video", "text"))
        heads = method.encoder.model["heads"]
        videos, means, sort = [], [], 0.0
        for row in range(6):
            x = watcher.model(watcher.normalise(masked.video[row : row + 1]), masked.visible[row : row + 1])
            texts = [
                reader(
                    batch()["script"][row : row + 1, i], batch()["script_attention"][row : row + 1, i]
                ).tokens[:, 0]
                for i in range(4)
            ]
            logits = sorted_by_hand(method.sorter, x[0], torch.cat(texts))
            for i in range(4):
                sort -= float(logits[i, i] - logits[i].exp().sum().log()) / 24
            videos.append(heads["video"](x[:, 0])[0].double())
            means.append(torch.stack([heads["text"](text.relu())[0] for text in texts]).mean(0).double())
    scores = [[math.exp(float(v @ t / v.norm() / t.norm()) / 0.05) for t in means] for v in videos]
    align = 0.0
    for i in range(6):
        align -= math.log(scores[i][i] / sum(scores[i])) / 6
        align -= math.log(scores[i][i] / sum(scores[j][i] for j in range(6))) / 6
    assert found == pytest.approx({"align": align, "sort": sort}, rel=1e-3)


def test_sorting_does_not_teach_the_text_encoder_and_aligning_does():
    method = task()
    losses = method.loss(batch(), Step.at())
    losses["sort"].backward(retain_graph=True)
    reader, watcher = (method.encoder.tower(kind) for kind in ("text", "video"))
    assert all(p.grad is None for p in reader.parameters())
    assert (
        watcher.model.temporal_embed.grad.abs().sum() > 0 and method.sorter.head.weight.grad.abs().sum() > 0
    )
    losses["align"].backward()
    assert all(p.grad is not None for p in reader.parameters())


def test_the_sorter_by_hand_and_its_vectors_of_kinds_count():
    sorter = Sorter(32, 4, heads=2)
    shake(sorter)
    video, texts = torch.randn(2, 5, 32, generator=generator()), torch.randn(2, 4, 32, generator=generator(1))
    logits = sorter(video, texts)
    for row in range(2):
        assert torch.allclose(logits[row].double(), sorted_by_hand(sorter, video[row], texts[row]), atol=1e-4)
    with torch.no_grad():
        sorter.type_embed.copy_(sorter.type_embed.flip(0))
    assert not torch.allclose(sorter(video, texts), logits, atol=1e-2)


def test_the_rate_falls_after_12_and_16_of_20_epochs():
    plan = make_plan(task().recipe, 768 * 10, epochs=20, batch_size=768)
    schedule = plan.schedule(plan.recipe)
    by_epoch = [schedule.peak * schedule.shape(10 * epoch) for epoch in range(20)]
    assert by_epoch == pytest.approx([1e-4] * 12 + [1e-5] * 4 + [1e-6] * 4)
    assert (plan.recipe.betas, plan.recipe.eps, plan.recipe.weight_decay) == ((0.9, 0.999), 1e-6, 0.0)


def test_the_sorter_does_not_know_in_which_order_texts_are_given():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sorter = Sorter(32, 4, heads=2)
        for parameter in sorter.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        video, texts = torch.randn(3, 10, 32), torch.randn(3, 4, 32)
    order = torch.tensor([2, 0, 3, 1])
    logits = sorter(video, texts)
    assert logits.shape == (3, 4, 4)
    assert torch.allclose(sorter(video, texts[:, order]), logits[:, order], atol=1e-5)
    assert not torch.allclose(sorter(video.flip(0), texts), logits, atol=1e-2), "the video counts"
    fresh = Sorter(32, 4, heads=2)
    assert fresh.type_embed.eq(0).all()
    assert fresh.head.weight.abs().max() > 0.15 and fresh.head.bias.abs().max() > 0, "torch's own start"


def test_without_times_the_order_of_the_video_is_lost():
    """The table of times is the only thing that tells frames apart but for what they show."""
    method = task().eval()
    watcher = method.encoder.tower("video")
    video = torch.rand(2, 3, 8, 16, 16)
    turned = video.unflatten(2, (4, 2)).flip(2).flatten(2, 3)  # tubelets in reverse
    with torch.no_grad():
        assert torch.equal(watcher.model.temporal_embed, torch.zeros_like(watcher.model.temporal_embed))
        assert torch.allclose(watcher(video).pooled, watcher(turned).pooled, atol=1e-5)
        watcher.model.temporal_embed.normal_()
        assert not torch.allclose(watcher(video).pooled, watcher(turned).pooled, atol=1e-2)


def test_positions_in_space_are_shared_by_all_times():
    watcher = build_video("space_time_vit:embed_dim=16,depth=1,num_heads=2,frames=4,patch=4", image_size=8)
    seen = []
    watcher.model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model, video = watcher.model, torch.rand(2, 3, 4, 8, 8)
    with torch.no_grad():
        model.temporal_embed.normal_()
        watcher(video)
        for time in range(2):
            for place in range(4):
                y, x = 4 * (place // 2), 4 * (place % 2)
                part = watcher.normalise(video)[:, :, 2 * time : 2 * time + 2, y : y + 4, x : x + 4]
                token = (model.patch_embed.weight[None] * part[:, None]).sum(
                    (2, 3, 4, 5)
                ) + model.patch_embed.bias
                token = token + model.pos_embed[0, 1 + place] + model.temporal_embed[0, time]
                assert torch.allclose(seen[0][:, 1 + 4 * time + place], token, atol=1e-5)
        assert torch.allclose(
            seen[0][:, 0], (model.cls_token + model.pos_embed[:, :1]).squeeze(0).expand(2, -1)
        )


def test_hidden_tubelets_are_not_looked_at():
    method = task()
    masked = method.hide(batch(), Step.at())
    watcher = method.encoder.tower("video")
    assert masked.visible.shape == (6, 4 * 4), "a quarter of sixteen places at each of four times"
    changed = masked.video.clone()
    for row in range(6):
        for token in set(range(64)) - set(masked.visible[row].tolist()):
            time, y, x = token // 16, token % 16 // 4, token % 4
            changed[row, :, 2 * time : 2 * time + 2, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 0.5
    with torch.no_grad():
        one, other = (watcher(video, visible=masked.visible) for video in (masked.video, changed))
    assert torch.equal(one.tokens, other.tokens) and one.tokens.shape == (6, 16, 32)


def test_each_time_hides_others_and_frames_come_from_equal_parts():
    visible = draw_visible(8, 196, 49, 50, generator())
    assert visible.shape == (50, 392)
    by_time = visible.view(50, 8, 49)
    assert (by_time // 196 == torch.arange(8)[:, None]).all() and all(
        len(set(row.tolist())) == 392 for row in visible
    )
    assert not (by_time[:, 0].sort(1).values == by_time[:, 1].sort(1).values - 196).all(1).any()
    drawn = draw_frames(64, 16, 500, generator())
    assert (drawn // 4 == torch.arange(16)).all() and set((drawn % 4).flatten().tolist()) == {0, 1, 2, 3}
    assert draw_frames(16, 16, 2, generator()).tolist() == [list(range(16))] * 2
    with pytest.raises(UsageError, match="16 frames are to be drawn"):
        draw_frames(15, 16, 2, generator())


def test_weights_of_pictures_make_tubelets():
    import timm

    watcher = build_video("space_time_vit:embed_dim=32,depth=2,num_heads=2,frames=4,patch=8", image_size=32)
    pictures = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    watcher.model.start_from_pictures(pictures)
    kernel = watcher.model.patch_embed.weight
    assert torch.equal(kernel[:, :, 0], pictures.patch_embed.proj.weight) and torch.equal(
        kernel[:, :, 0], kernel[:, :, 1]
    )
    assert watcher.model.temporal_embed.eq(0).all()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():  # one time alone: half a kernel twice is the kernel
        watcher.model.patch_embed.weight /= 2
        x = (
            watcher.model.patch_embed(image[:, :, None].expand(-1, -1, 4, -1, -1))[:, :, 0]
            .flatten(2)
            .transpose(1, 2)
        )
        x = torch.cat([watcher.model.cls_token.expand(2, -1, -1), x], 1) + watcher.model.pos_embed
        for block in watcher.model.blocks:
            x = block(x)
        assert torch.allclose(watcher.model.norm(x), pictures.forward_features(image), atol=1e-4)


def test_captions_alone_and_sorting_left_out():
    captions = {key: value for key, value in batch().items() if not key.startswith("script")}
    captions |= {"tokens": batch()["script"][:, 0], "attention": batch()["script_attention"][:, 0]}
    method = task(texts=1)
    assert method.loss(captions, Step.at()).keys() == {"align"} == set(method.chance(8))
    with torch.no_grad():
        assert method.eval().preview(captions, Step.at()).rows
    alone = task(sort_weight=0.0)
    assert alone.loss(batch(), Step.at()).keys() == {"align"} and not hasattr(alone, "sorter")


def test_texts_may_be_empty():
    script = batch()["script"].clone()
    attention = torch.zeros_like(batch()["script_attention"])
    attention[..., :2] = True
    losses = task().loss({**batch(), "script": script, "script_attention": attention}, Step.at())
    assert all(value.isfinite() for value in losses.values())


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match="2 texts of each sample.*spans=2"):
        task(texts=2).loss(batch(), Step.at())
    with pytest.raises(UsageError, match="same width"):
        TVTS(build(f"{VIDEO};text=distilbert:dim=16,n_layers=1,n_heads=2", **tiny.stories().inputs))
    with pytest.raises(UsageError, match="and no text"):
        TVTS(build(VIDEO, **tiny.stories().inputs))
    with pytest.raises(UsageError, match="3 heads"):
        task(heads=3)
    with pytest.raises(UsageError, match="leaves 0 of 16"):
        task(mask_ratio=0.99)
    for wrong in ("frames=7", "num_heads=5", "depth=x", "width=3", "patch=5"):
        with pytest.raises(UsageError):
            build_video(f"space_time_vit:{wrong}", image_size=32)


def test_frames_are_random_squares_a_sixth_smaller_than_they_could_be():
    unit = torch.rand(500, 2, generator=generator())
    boxes = square_boxes(torch.tensor([[90, 160]] * 500), 1.2, unit)
    sides = (boxes[:, 2:] - boxes[:, :2]) * torch.tensor([160.0, 90.0])
    assert torch.allclose(sides, torch.full_like(sides, 75.0), atol=1e-4)
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-6
    assert boxes[:, :2].amin(0).max() < 0.02 and boxes[:, 2:].amax(0).min() > 0.98
    assert torch.equal(square_boxes(torch.tensor([[8, 8]]), 1.0, unit[:1]), torch.tensor([[0.0, 0, 1, 1]]))
    with pytest.raises(UsageError, match="zoom"):
        task(zoom=0.5)
