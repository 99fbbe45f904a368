"""MAMP: windows, turns, motion and masks against loops; what is hidden and what asked."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

import tiny
from pretask import open_data
from pretask.encoders.poses import build
from pretask.errors import UsageError
from pretask.evaluation.finetune import finetune
from pretask.methods.pose.mamp import MAMP
from pretask.pretexts.masks import shuffle, take
from pretask.pretexts.poses import (
    Window,
    centre_window,
    draw_window,
    gumbel,
    log_prior,
    motion,
    resize,
    rotations,
    segments,
    turn,
)
from pretask.reports.plots import pose as drawing
from pretask.task import Step

TINY = "skeleton_vit:embed_dim=16,depth=2,num_heads=2,frames=24"


def encoder(joints: int = 16, persons: int = 1, name: str = TINY):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(name, joints=joints, persons=persons)


def task(persons: int = 1, joints: int = 16, **options) -> MAMP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAMP(encoder(joints, persons), **options)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestBlocks:
    def test_windows_are_resized_as_torch_does_it(self):
        pose = noise(3, 40, 2, 3)
        window = Window(torch.tensor([0, 5, 30]), torch.tensor([40, 17, 10]))
        found = resize(pose, window, 24)
        for row, start, length in zip(range(3), *(part.tolist() for part in window), strict=True):
            part = pose[row, start : start + length].reshape(1, 1, length, 6)
            expected = F.interpolate(part, (24, 6), mode="bilinear", align_corners=False)
            assert torch.allclose(found[row], expected.reshape(24, 2, 3), atol=1e-12)
            assert torch.allclose(found[row], sampled(pose[row, start : start + length], 24), atol=1e-12)

    def test_windows_stay_inside_and_are_long_enough(self):
        frames = torch.tensor([30, 64, 100, 300]).repeat(500)
        generator = torch.Generator().manual_seed(0)
        start, length = draw_window(frames, (0.5, 1.0), 64, generator)
        assert (start >= 0).all() and (start + length <= frames).all()
        assert (length[frames <= 64] == frames[frames <= 64]).all()
        long = length[frames == 300]
        assert long.min() < 160 and long.max() > 290 and 215 < long.float().mean() < 235
        middle = length[frames == 100]
        assert middle.min() == 64 and (middle == 64).float().mean() > 0.2, "none is shorter than 64"
        assert start[frames == 300].min() == 0 and (start + length)[frames == 300].max() == 300

    @pytest.mark.parametrize("frames", [1, 39, 40, 120, 299])
    def test_the_middle(self, frames):
        start, length = centre_window(torch.tensor([frames]), 0.95)
        cut = int((1 - 0.95) * frames / 2)
        assert (int(start), int(length)) == (cut, frames - 2 * cut)

    def test_turns_are_the_transposes_of_the_usual_ones(self):
        angles = noise(5, 3)
        found = rotations(angles)
        for matrix, (x, y, z) in zip(found, angles.tolist(), strict=True):
            expected = np.eye(3)
            for axis, angle in (("x", x), ("y", y), ("z", z)):
                expected = Rotation.from_euler(axis, -angle).as_matrix() @ expected
            assert np.allclose(matrix, expected)
        pose = noise(5, 4, 2, 3)
        turned = turn(pose, found)
        assert torch.allclose(turned[2, 3, 1], found[2] @ pose[2, 3, 1])

    def test_motion_and_segments_against_loops(self):
        pose = noise(2, 12, 5, 3)
        for stride in (1, 3):
            moved = motion(pose, stride)
            for t in range(12):
                expected = pose[:, t + stride] - pose[:, t] if t < 12 - stride else torch.zeros(2, 5, 3)
                assert torch.equal(moved[:, t], expected.double())
        tokens = segments(pose, 4)
        assert tokens.shape == (2, 15, 12)
        for t in range(3):
            for v in range(5):
                expected = [float(pose[1, 4 * t + u, v, c]) for u in range(4) for c in range(3)]
                assert tokens[1, 5 * t + v].tolist() == expected

    @pytest.mark.parametrize("tau", [0.8, 0.1])
    def test_the_prior_against_loops(self, tau):
        pose = noise(2, 12, 5, 3)
        found = log_prior(segments(pose, 4), 5, tau)
        for row in range(2):
            moved = np.zeros((3, 5))
            for t in (1, 2):
                for v in range(5):
                    now, before = pose[row, 4 * t : 4 * t + 4, v], pose[row, 4 * t - 4 : 4 * t, v]
                    moved[t, v] = np.mean(
                        [abs(float(a - b)) for a, b in zip(now.flatten(), before.flatten(), strict=True)]
                    )
            moved[0] = moved[1]
            weight = np.exp(moved / (tau * moved.max() + 1e-10))
            assert np.allclose(found[row].exp(), (weight / weight.sum()).ravel())
            assert found[row].max() - found[row].min() <= 1 / tau + 1e-9, "a mild preference"

    def test_nothing_moves_and_everything_is_alike(self):
        assert torch.allclose(log_prior(torch.zeros(1, 15, 12), 5, 0.8).exp(), torch.tensor(1 / 15))

    def test_a_single_segment_has_not_moved(self):
        assert torch.allclose(log_prior(noise(2, 5, 12), 5, 0.8).exp(), torch.tensor(0.2).double())

    def test_gumbel_draws_by_weight(self):
        weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
        unit = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0))
        first = (weight.log() + gumbel(unit)).argmax(1).bincount(minlength=4) / 20_000
        assert torch.allclose(first, weight, atol=0.015)
        assert gumbel(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()


def sampled(pose: torch.Tensor, frames: int) -> torch.Tensor:
    """Linear interpolation, a moment at a time."""
    found = []
    for i in range(frames):
        place = max((i + 0.5) * len(pose) / frames - 0.5, 0)
        low = int(place)
        high = min(low + 1, len(pose) - 1)
        found.append((1 - place + low) * pose[low] + (place - low) * pose[high])
    return torch.stack(found)


class TestMethod:
    def test_74_of_750_tokens_stay(self):
        method = MAMP(build("skeleton_vit:embed_dim=16,depth=1,num_heads=2"))
        assert method.encoder.num_tokens == 750 and method.num_hidden == 750 - 74

    def test_what_moves_is_hidden_more_often(self):
        pose = torch.zeros(400, 24, 16, 3)
        pose[:, :, 8:] = torch.linspace(0, 1, 24)[None, :, None, None]  # eight of sixteen joints move
        for tau, low, high in ((0.8, 2.0, np.exp(1 / 0.8)), (0.0, 0.9, 1.1)):
            method = task(tau=tau, mask_ratio=0.5)
            hidden = method.hide(pose, Step.at(0)).hidden % 16
            moving = (hidden >= 8).float().mean()
            assert low < float(moving / (1 - moving)) < high

    def test_the_loss_is_the_formula(self):
        method, batch, step = task(), tiny.poses(3), Step.at(4)
        found = float(method.loss(batch, step)["motion"])
        pose = method.people(batch, step := Step.at(4))
        order = method.hide(pose, step)
        told = torch.zeros(3, 96, 12)
        answer = method.tell(pose, order).detach()
        total = count = 0.0
        for row in range(3):
            hidden = set(order.hidden[row].tolist())
            assert len(hidden) == method.num_hidden == 96 - int(96 * (1 - 0.9))
            told[row, order.hidden[row]] = answer[row]
            for t in range(6):
                for v in range(16):
                    if t * 16 + v not in hidden:
                        continue
                    values = [
                        float(pose[row, i + 1, v, c] - pose[row, i, v, c]) if i < 23 else 0.0
                        for i in range(4 * t, 4 * t + 4) for c in range(3)
                    ]  # fmt: skip
                    normal = (np.array(values) - np.mean(values)) / np.sqrt(np.var(values, ddof=1) + 1e-6)
                    total += float(((told[row, t * 16 + v].numpy() - normal) ** 2).mean())
                    count += 1
        assert found == pytest.approx(total / count, rel=1e-4)

    def test_all_tokens_put_back_in_order_answer_the_same(self):
        """The decoder answers hidden tokens alone; the paper's puts all in order and keeps the hidden ones."""
        method, pose = task(decoder_depth=2).double().eval(), noise(2, 24, 16, 3)
        order = shuffle(noise(2, 96), method.num_hidden)
        found = method.tell(pose, order)
        decoder = method.decoder
        tokens = decoder.embed(method.encoder(pose, order.visible).tokens)
        whole = torch.cat([tokens, decoder.mask_token.expand(2, method.num_hidden, -1)], dim=1)
        x = take(whole, order.restore)
        x = x.unflatten(1, (6, 16)) + decoder.positions.pos_embed + decoder.positions.temp_embed
        x = x.flatten(1, 2)
        for block in decoder.blocks[:-1]:
            x = block(x)
        x = super(type(decoder.blocks[-1]), decoder.blocks[-1]).forward(x)
        assert torch.allclose(take(decoder.head(decoder.norm(x)), order.hidden), found)

    def test_hidden_joints_are_not_seen(self):
        method, pose = task().eval(), noise(1, 24, 16, 3).float()
        order = shuffle(noise(1, 96), method.num_hidden)
        told = method.tell(pose, order)
        t, v = divmod(int(order.hidden[0, 0]), 16)
        changed = pose.clone()
        changed[0, 4 * t : 4 * t + 4, v] += 1
        assert torch.equal(method.tell(changed, order), told)
        t, v = divmod(int(order.visible[0, 0]), 16)
        changed[0, 4 * t : 4 * t + 4, v] += 1
        assert not torch.equal(method.tell(changed, order), told)

    def test_still_and_absent_ones_are_finite(self):
        batch = {"pose": torch.zeros(2, 80, 32, 3)}
        batch["pose"][:, :, :16] = tiny.poses(2)["pose"][:, :80]
        method = task(persons=2)
        loss = method.loss(batch, Step.at())["motion"]
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in method.parameters())

    def test_persons_are_sequences_of_their_own(self):
        method, pose = task(persons=2), noise(3, 30, 32, 3)
        people = method.encoder.people(pose)
        assert torch.equal(people[3], pose[1, :, 16:]) and torch.equal(people[4], pose[2, :, :16])
        features = method.encoder.encode({"pose": pose.float()})
        alone = [
            method.encoder.model(
                method.encoder.resized(pose[1:2].float(), centre_window(torch.tensor([30]), 0.95))
            )
        ]
        assert torch.allclose(features.pooled[1], alone[0].mean((0, 1)), atol=1e-6)
        assert features.tokens.shape == (3, 2 * 96, 16) and features.grid == (2, 6, 16)

    def test_all_persons_turn_alike_and_motion_is_of_the_turned(self):
        method = task(persons=2, crop=(1.0, 1.0), target="joint", normalise_target=False)
        pose = noise(1, 24, 16, 3).float().repeat(1, 1, 2, 1)
        first, second = method.people({"pose": pose}, Step.at(0))
        assert torch.equal(first, second) and not torch.allclose(first, pose[0, :, :16], atol=0.01)
        assert torch.allclose(first.norm(dim=2), pose[0, :, :16].norm(dim=2), atol=1e-5)
        assert torch.equal(method.answers(first[None]), segments(first[None], 4))

    def test_padding_is_not_looked_at(self):
        method, batch = task(), tiny.poses(4)
        spoilt = {**batch, "pose": batch["pose"].clone()}
        for row, frames in enumerate(batch["frames"].tolist()):
            spoilt["pose"][row, frames:] = 99
        assert torch.equal(method.people(batch, Step.at()), method.people(spoilt, Step.at()))
        assert torch.equal(method.encoder.encode(batch).pooled, method.encoder.encode(spoilt).pooled)

    def test_the_sheet_leaves_out_what_is_hidden(self):
        method = task().eval()
        with torch.no_grad():
            rows = method.preview(tiny.poses(2), Step.at()).rows
        seen, told, truth = (panel.content for panel in rows[0])
        there = seen.isfinite().all(-1)
        assert int(there.sum()) == 96 - method.num_hidden
        assert torch.equal(told[..., :3], truth[..., :3]) and not told[there][:, 3:].any()
        step = Step.at()
        pose = method.people(tiny.poses(2), step)[0]
        end = torch.cat([pose[4::4], pose[-1:]])
        assert torch.allclose(truth[~there][:, 3:], (end - pose[::4])[~there], atol=1e-5)
        assert np.asarray(drawing(seen)).std() > 0 and drawing(truth).size == (400, 120)

    def test_errors_say_what_to_do(self):
        with pytest.raises(UsageError, match="skeleton_vit"):
            build("resnet18")
        with pytest.raises(UsageError, match="segments of 5"):
            build("skeleton_vit:segment=5,frames=24")
        with pytest.raises(UsageError, match="no network of skeletons"):
            MAMP(encoder(name="raw"))
        with pytest.raises(UsageError, match="mask_ratio"):
            task(mask_ratio=0.999)
        with pytest.raises(UsageError, match="1 x 16 joints"):
            task().loss({"pose": torch.zeros(2, 30, 25, 3)}, Step.at())

    def test_fine_tuning_and_raw(self):
        data = open_data("puppets", modality="pose", limit=24)
        (score,) = finetune(encoder(), data, data, epochs=1, batch_size=12)
        assert 0 <= score.value <= 1
        raw = encoder(name="raw")
        features = raw.encode(data.batch([0, 1]))
        assert features.pooled.shape == (2, raw.dim)
        window = centre_window(data.batch([1])["frames"], 0.95)
        assert torch.allclose(features.pooled[1], resize(data.batch([1])["pose"], window, 16).flatten())
