"""CPNet: where clips are cut against slices, its losses against loops, and what must not give the break away."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.encoders.video import build
from pretask.errors import UsageError
from pretask.evaluation.trivial import STATISTICS
from pretask.methods.video.cpnet import CPNet
from pretask.objectives.contrastive import in_batch_nce, triplet
from pretask.pretexts.clips import Break, broken, draw_breaks, missing, run, take_frames
from pretask.pretexts.views import apply_view, apply_view_to_video, draw_view, simclr_views
from pretask.task import Step

TINY = "r3d_18:layers=[1,1,1,1],width=4"


def task(**options) -> CPNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CPNet(build(TINY, image_size=16), **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("length", "removed"), [(16, (16, 16)), (8, (3, 12)), (5, (1, 1))])
def test_clips_are_slices(length, removed):
    video = torch.rand(40, 2, 48, 3, 3)
    cut = draw_breaks(48, length, removed, 2, 40, generator())
    whole = take_frames(video, run(cut.whole, length))
    gap = take_frames(video, broken(cut, length))
    lost = take_frames(video, missing(cut, length))
    for b in range(40):
        w, s, p, k = (int(value[b]) for value in cut)
        assert removed[0] <= k <= removed[1] and 2 <= p <= length - 2
        assert torch.equal(whole[b], video[b, :, w : w + length])
        assert torch.equal(gap[b, :, :p], video[b, :, s : s + p])
        assert torch.equal(gap[b, :, p:], video[b, :, s + p + k : s + k + length])
        if k == length:
            assert torch.equal(lost[b], video[b, :, s + p : s + p + k])
            joined = torch.cat([gap[b, :, :p], lost[b], gap[b, :, p:]], dim=1)
            assert torch.equal(joined, video[b, :, s : s + length + k])
        else:
            middles = [s + p + int((i + 0.5) * k / length) for i in range(length)]
            assert torch.equal(lost[b], video[b, :, middles]) and max(middles) < s + p + k


def test_where_a_clip_begins_does_not_tell_whether_it_is_whole():
    cut = draw_breaks(48, 16, (8, 16), 2, 20_000, generator())
    counts = [torch.bincount(start, minlength=17) / 20_000 for start in (cut.whole, cut.start)]
    assert all(len(count) == 17 and (count - 1 / 17).abs().max() < 0.01 for count in counts)
    assert abs(np.corrcoef(cut.whole, cut.start)[0, 1]) < 0.03 and cut.whole.max() == 16
    place = torch.bincount(cut.place, minlength=17)
    assert (place > 0).nonzero().flatten().tolist() == list(range(2, 15))
    assert len(set(cut.removed.tolist())) == 9


def test_labels_are_what_the_sampler_allows():
    method = task()
    assert method.places == 13 and method.locate.out_features == 13
    cut = draw_breaks(48, 16, (16, 16), 2, 4000, generator())
    labels = cut.place - method.margin
    assert (labels.min(), labels.max()) == (0, 12), (
        "the last frame before the break, from the first allowed one"
    )


def test_one_view_for_all_clips_of_a_video_and_the_same_as_of_pictures():
    spec = simclr_views(16, (0.4, 1.0))
    video = (torch.rand(3, 3, 5, 20, 20) * 255).byte()
    view = draw_view(spec, 3, generator())
    seen = apply_view_to_video(spec, video, view)
    for frame in range(5):
        assert torch.allclose(seen[:, :, frame], apply_view(spec, video[:, :, frame], view), atol=1e-6)
    batch, method = tiny.videos(8), task()
    clips = method.clips(batch, Step.at())
    cut = clips.cut
    for b in range(8):  # the frames before the break are those of the video, wherever else they are shown
        first, place, whole = int(cut.start[b]), int(cut.place[b]), int(cut.whole[b])
        for frame in range(place):
            if 0 <= first + frame - whole < 16:
                other = clips.whole[b, :, first + frame - whole]
                assert torch.equal(clips.broken[b, :, frame], other)


def naive_losses(method, clips):
    """From the formulas, one number at a time."""
    with torch.no_grad():
        z = method.encoder(torch.cat([clips.broken, clips.whole, clips.missing])).pooled.double()
        f_d, f_c, f_m = z.chunk(3)
        head = method.double()
        judged = [head.judge(f_c), head.judge(f_d)]
        place = head.locate(f_d)
        z_d, z_m, z_n = head.predict(f_d), head.project(f_m), head.project(f_c)
    count = len(f_d)

    def cosine(a, b):
        return float((a @ b) / (a.norm() * b.norm()))

    def cross_entropy(logits, label):
        return -float(logits[label] - logits.exp().sum().log())

    whole = sum(cross_entropy(row, 1) for row in judged[0]) + sum(cross_entropy(row, 0) for row in judged[1])
    labels = [int(p) - 2 for p in clips.cut.place]
    context, motion = 0.0, 0.0
    for b in range(count):
        scores = [math.exp(cosine(z_d[b], z_m[j]) / 0.1) for j in range(count)]
        context -= math.log(scores[b] / sum(scores)) / count
        motion += max(0.0, cosine(z_d[b], z_n[b]) - cosine(z_d[b], z_m[b]) + 0.2) / count
    return {
        "continuity": whole / (2 * count),
        "place": sum(cross_entropy(row, label) for row, label in zip(place, labels, strict=True)) / count,
        "context": context,
        "motion": motion,
    }


def test_losses_against_loops():
    method, batch = task(), tiny.videos(6)
    found = {name: value.item() for name, value in method.loss(batch, Step.at()).items()}
    assert found == pytest.approx(naive_losses(method, method.clips(batch, Step.at())), rel=1e-4)


def test_batch_contrast_and_triplet():
    torch.manual_seed(0)
    a, b, c = (torch.randn(7, 5).double() for _ in range(3))
    same = torch.ones(7, 5).double()
    assert in_batch_nce(a, same, 0.1).item() == pytest.approx(math.log(7))
    expected = F.cross_entropy(F.normalize(a) @ F.normalize(b).T / 0.3, torch.arange(7))
    assert in_batch_nce(a, b, 0.3).item() == pytest.approx(expected.item())
    gradients = []
    for loss in (lambda x, y: in_batch_nce(x, y, 0.3),
                 lambda x, y: F.cross_entropy(F.normalize(x) @ F.normalize(y).T / 0.3, torch.arange(7))):  # fmt: skip
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        loss(x, y).backward()
        gradients.append((x.grad, y.grad))
    assert all(torch.allclose(one, other) for one, other in zip(*gradients, strict=True)), "both sides learn"
    assert triplet(a, a, -a, 0.2).item() == 0 and triplet(a, b, b, 0.2).item() == pytest.approx(0.2)
    gaps = F.cosine_similarity(a, c) - F.cosine_similarity(a, b) + 0.2
    assert triplet(a, b, c, 0.2).item() == pytest.approx(gaps.clamp(min=0).mean().item())


def test_what_never_changes_cannot_be_told_whole_or_broken():
    method, batch = task().eval(), tiny.videos(4)
    still = {**batch, "video": batch["video"][:, :, :1].expand(-1, -1, 48, -1, -1)}
    clips = method.clips(still, Step.at())
    assert torch.allclose(clips.whole, clips.broken, atol=1e-6)
    assert method.loss(still, Step.at())["continuity"].item() >= math.log(2) - 1e-6


@pytest.mark.parametrize(
    ("weights", "losses", "clips"),
    [
        ({"localise": 0, "approximate": 0}, {"continuity"}, 2),
        ({"justify": 0, "approximate": 0}, {"place"}, 1),
        ({"justify": 0, "localise": 0}, {"context", "motion"}, 3),
        ({"other": "far"}, {"continuity", "place", "context", "motion"}, 4),
        ({"justify": 0, "other": "far"}, {"place", "context", "motion"}, 3),
    ],
)
def test_questions_that_are_left_out_cost_nothing(weights, losses, clips, monkeypatch):
    method, batch, seen = task(**weights), tiny.videos(4), []
    original = type(method.encoder).forward
    monkeypatch.setattr(
        type(method.encoder), "forward", lambda self, video: seen.append(len(video)) or original(self, video)
    )
    found = method.loss(batch, Step.at())
    assert set(found) == losses == set(method.weights) and seen == [clips * 4], "all clips in one pass"
    assert set(method.chance(8)) == losses
    method.total(found).backward()
    assert all(p.grad is not None for p in method.parameters())
    with torch.no_grad():
        sheet = method.eval().preview(batch, Step.at())
    assert {panel.kind for panel in sheet.rows[0]} == {"video"} | (
        {"text"} & {"text" if losses & {"continuity", "place"} else ""}
    )


def test_the_far_section_is_at_the_other_end():
    method = task(other="far")
    video = torch.arange(48.0).view(1, 1, 48, 1, 1).expand(64, 3, 48, 20, 20) / 48
    method.view = simclr_views(16, None).__class__(16, scale=None)
    clips = method.clips({"video": video}, Step.at())
    first = (clips.other[:, 0, 0, 0, 0] * 48).round().long()
    centre = clips.cut.start + clips.cut.place + 8
    assert torch.equal(first, torch.where(centre < 24, 32, 0)) and len(first.unique()) == 2


def test_the_missing_section_learns_unless_it_is_told_not_to():
    for stop in (False, True):
        method = task(stop_target=stop, justify=0, localise=0)
        method.loss(tiny.videos(4), Step.at())["context"].backward()
        assert (method.project.weight.grad is None) == stop


def test_the_largest_change_between_frames_is_a_shortcut_that_is_measured():
    moving = torch.linspace(0, 0.2, 10).view(1, 1, 10, 1, 1).expand(2, 3, 10, 4, 4).clone()
    moving[:, :, 6:] += 0.5
    found = STATISTICS["video"]["changes"](moving)
    assert found.shape == (2, 9) and found.argmax(1).tolist() == [5, 5]
    assert torch.allclose(found, STATISTICS["video"]["changes"](moving / 3), atol=1e-3), (
        "a share, not an amount"
    )
    question = task().question(tiny.videos(8), Step.at())
    assert question.shown.shape == (8, 3, 16, 16, 16) and question.answer.max() < 13
    assert STATISTICS["video"]["mean colour"](question.shown).shape == (8, 6)


def test_errors_say_what_to_do():
    short = {**tiny.videos(4), "video": tiny.videos(4)["video"][:, :, :20]}
    with pytest.raises(UsageError, match="videos of 32, and these have 20.*frames=48"):
        task().loss(short, Step.at())
    for wrong in ({"removed": (0, 4)}, {"removed": (8, 4)}, {"margin": 0}, {"margin": 9}):
        with pytest.raises(UsageError, match="removed"):
            task(**wrong)
    with pytest.raises(UsageError, match="nothing is left"):
        task(justify=0, localise=0, approximate=0)
    assert isinstance(draw_breaks(32, 16, (16, 16), 8, 2, generator()), Break)
