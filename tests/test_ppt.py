"""Tracks as data, and PPT: windows against loops, the alignment of each stage, what learns when."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask import open_data
from pretask.data.tracks import windows
from pretask.encoders.tracks import build
from pretask.errors import DataError, UsageError
from pretask.evaluation.tracks import forecast
from pretask.methods.track.ppt import DESTINATION, FUTURE, NEXT, PPT, WARM_UP
from pretask.objectives.hypotheses import nearest, repulsion
from pretask.task import Step
from pretask.training.loop import fit
from pretask.training.plan import make_plan

TINY = "gpt:width=16,heads=2,depth=1,dropout=0,candidates=3"


def at(stage: int) -> Step:
    step = Step.at()
    step.stage = stage
    return step


def task(**options) -> PPT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PPT(build(TINY), **options)


def staged(stage: int, **options) -> PPT:
    method = task(**options)
    for index in range(stage + 1):
        method.begin_stage(index)
    return method


def test_windows_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    rows = [
        (f, i, *rng.normal(size=2))
        for i, n in ((7, 9), (3, 5), (5, 4))
        for f in range(10 * i, 10 * (i + n), 10)
    ]
    rows = [row for row in rows if row[:2] != (110, 7)]  # a gap in one track
    table = rng.permutation(np.array(rows))
    expected = []
    for identity in (3, 5, 7):
        track = sorted(tuple(row) for row in table if row[1] == identity)
        for start in range(len(track) - 3):
            part = track[start : start + 4]
            if all(b[0] - a[0] == 10 for a, b in zip(part, part[1:], strict=False)):
                expected.append([point[2:] for point in part])
    found, number, count = windows(table, 4, 1)
    assert count == 3 and np.allclose(found, expected)
    assert number.tolist() == [0, 0, 1, *[2] * (len(expected) - 3)], "numbered as they begin"


def test_a_folder_of_recordings_with_a_broken_file(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train/a.txt", "test/b.txt"):
        (tmp_path / name).parent.mkdir()
        lines = [
            f"{10 * t}\t{person}\t{rng.normal():.3f}\t{rng.normal():.3f}"
            for person in range(6)
            for t in range(24)
        ]
        (tmp_path / name).write_text("\n".join(lines))
    (tmp_path / "train" / "broken.txt").write_text("1 2 three 4\n")
    dataset = open_data(tmp_path, modality="track", max_broken=0.5)
    assert len(dataset.split("train")) == len(dataset.split("test")) == 30 and len(dataset.skipped) == 1
    assert dataset.batch([0])["track"].shape == (1, 1, 20, 2)
    with pytest.raises(DataError, match="smaller window"):
        open_data(tmp_path, modality="track", max_broken=0.5, window=40)
    with pytest.raises(UsageError, match="to hold out"):
        open_data(tmp_path, modality="track", max_broken=0.5, held_out="nowhere")
    with pytest.raises(DataError, match="there is no"):
        open_data(tmp_path / "missing", modality="track")


def test_real_recordings(real_data):
    dataset = open_data(real_data("eth_ucy_trajectories"), modality="track", held_out="zara1")
    test = dataset.split("test")
    assert {dataset.classes[k] for k in test.labels.tolist()} == {"crowds_zara01"}
    assert len(dataset.split("train")) > 10_000 and 1000 < len(test) < 4000
    errors = {score.metric: score.value for score in forecast(build("raw"), dataset, test)}
    assert 0.2 < errors["ADE"] < 1.2 and errors["FDE"] > errors["ADE"], (
        "constant velocity on ZARA1, in metres"
    )


def test_candidates_against_loops():
    torch.manual_seed(0)
    candidates, truth = torch.randn(4, 5, 2).double(), torch.randn(4, 2).double()
    distance, which = nearest(candidates, truth)
    pairs = []
    for row in range(4):
        apart = [float((candidates[row, k] - truth[row]).norm()) for k in range(5)]
        assert float(distance[row]) == pytest.approx(min(apart)) and which[row] == np.argmin(apart)
        pairs += [
            np.exp(-float((candidates[row, i] - candidates[row, j]).square().sum()) / 0.7)
            for i in range(5) for j in range(i + 1, 5)
        ]  # fmt: skip
    assert float(repulsion(candidates, 0.7)) == pytest.approx(np.mean(pairs))


def test_the_next_point_is_asked_everywhere_and_the_past_cannot_see_the_future():
    method, batch = task(augment=False).eval(), tiny.tracks(4)
    points = method.encoder.relative(batch)
    assert torch.equal(points[:, 7], torch.zeros(4, 2))
    gpt = method.encoder.model.trajectory.gpt
    told = method.head(method.read(gpt, points))
    assert method.loss(batch, at(NEXT))["next"].item() == pytest.approx(
        float(F.mse_loss(told, points[:, 1:]))
    )
    changed = points.clone()
    changed[:, 10] += 1
    moved = (method.head(method.read(gpt, changed)) - told).abs().amax((0, 2)) > 0
    assert not moved[:10].any() and moved[10:].all()


def test_augmentation_turns_by_right_angles_and_flips():
    """A step shows its whole batch in one of five ways, all equally often."""
    method, batch = task(), tiny.tracks(2)
    points = method.encoder.relative(batch)
    expected = []
    for k in range(4):
        c, s = round(np.cos(-k * np.pi / 2)), round(np.sin(-k * np.pi / 2))
        turned = torch.zeros_like(points)
        for row, at in np.ndindex(*points.shape[:2]):
            x, y = points[row, at].tolist()
            turned[row, at] = torch.tensor([c * x - s * y, s * x + c * y])
        expected.append(turned)
    first_turn = torch.stack([points[..., 1], -points[..., 0]], dim=2)
    assert torch.equal(expected[1], first_turn), "(x, y) to (y, -x)"
    expected.append(points * torch.tensor([-1.0, 1.0]))
    seen = []
    for index in range(200):
        found = method.tracks(batch, Step.at(index))
        (which,) = [k for k, known in enumerate(expected) if torch.equal(found, known)]
        seen.append(which)
    assert all(seen.count(k) > 20 for k in range(5))
    assert torch.equal(method.eval().tracks(batch, Step.at()), points)


def test_the_destination_is_asked_from_the_position_before_the_last(monkeypatch):
    method = staged(DESTINATION)
    seen = []
    gpt = method.encoder.model.destination.gpt
    original = type(gpt).forward

    def note(self, tokens, positions, causal=True):
        seen.append((positions, causal))
        return original(self, tokens, positions, causal)

    monkeypatch.setattr(type(gpt), "forward", note)
    method.loss(tiny.tracks(2), at(DESTINATION))
    assert seen[0][0].tolist() == [*range(1, 9), 19] and seen[0][1]
    seen.clear()
    method = staged(FUTURE)
    method.loss(tiny.tracks(2), at(FUTURE))
    assert [(len(p), causal) for p, causal in seen] == [(9, True), (20, False), (19, True), (9, True)]


def test_stages_copy_and_train_what_they_should():
    method = task()
    gpt, destination = method.encoder.model.trajectory.gpt, method.encoder.model.destination
    method.begin_stage(WARM_UP)
    for teacher in (method.next_teacher, destination.gpt):
        assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), gpt.parameters(), strict=True))
    assert not any(p.requires_grad for p in [*gpt.parameters(), *destination.gpt.parameters()])
    assert destination.token.requires_grad and destination.head[0].weight.requires_grad
    method.begin_stage(DESTINATION)
    assert all(p.requires_grad for p in destination.parameters())
    with torch.no_grad():
        destination.gpt.embed.weight.add_(1)
    method.begin_stage(FUTURE)
    trajectory = method.encoder.model.trajectory
    assert torch.equal(trajectory.gpt.embed.weight, destination.gpt.embed.weight)
    assert torch.equal(trajectory.prompts, destination.token.expand(11, -1))
    assert not torch.equal(method.next_teacher.embed.weight, trajectory.gpt.embed.weight)


def test_the_path_reaches_the_destination_and_no_gradient_the_teachers():
    method = staged(FUTURE)
    losses = method.loss(tiny.tracks(4), at(FUTURE))
    losses["path"].backward(retain_graph=True)
    assert method.encoder.model.destination.head[0].weight.grad.abs().sum() > 0, "d* is not detached"
    method.total(losses).backward()
    teachers = [*method.next_teacher.parameters(), *method.end_teacher.parameters()]
    assert all(p.grad is None for p in teachers) and method.adapt.weight.grad is not None


def shaken(stage: int) -> PPT:
    """A method before its stage's first step, whose networks have all gone their own ways."""
    method = staged(stage, augment=False).double().eval()
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.1 * drawn)
    return method


def by_hand(method: PPT, prefix: str):
    """A GPT of one block, a linear layer and a network of four from the weights alone."""
    p = {name: value.detach() for name, value in method.named_parameters()}

    def linear(name, x):
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    def norm(name, x):
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def gpt(tokens, places, causal):
        table, block = p[f"{prefix}.position.weight"], f"{prefix}.blocks.0"
        x = [token + table[place] for token, place in zip(tokens, places, strict=True)]
        parts = [linear(f"{block}.qkv", norm(f"{block}.norm1", token)).view(3, 2, -1) for token in x]
        out = []
        for i, token in enumerate(x):
            seen, mixed = range(i + 1) if causal else range(len(x)), []
            for head in range(2):
                score = [parts[i][0, head] @ parts[j][1, head] / 8**0.5 for j in seen]
                weight = torch.stack(score).softmax(0)
                mixed.append(sum(w * parts[j][2, head] for w, j in zip(weight, seen, strict=True)))
            token = token + linear(f"{block}.proj", torch.cat(mixed))
            hidden = linear(f"{block}.mlp.0", norm(f"{block}.norm2", token))
            hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
            out.append(norm(f"{prefix}.norm", token + linear(f"{block}.mlp.2", hidden)))
        return out

    def deep(name, x):
        for layer in (0, 2, 4):
            x = linear(f"{name}.{layer}", x).clamp(min=0)
        return linear(f"{name}.6", x)

    return linear, gpt, deep


def feature_by_hand(method: PPT, prefix: str, past: torch.Tensor) -> torch.Tensor:
    """Of the learned token, the ninth, which stands at place 19."""
    linear, gpt, _ = by_hand(method, f"{prefix}.gpt")
    token = dict(method.named_parameters())[f"{prefix}.token"].detach()
    tokens = [*(linear(f"{prefix}.gpt.embed", point) for point in past), linear(f"{prefix}.embed", token)]
    return gpt(tokens, [*range(1, 9), 19], True)[-1]


def test_the_losses_of_destinations_by_hand():
    method, batch = shaken(DESTINATION), tiny.tracks(3)
    batch = {**batch, "track": batch["track"].double()}
    losses = method.loss(batch, at(DESTINATION))
    distance, apart = [], []
    for points in method.encoder.relative(batch):
        feature = feature_by_hand(method, "encoder.model.destination", points[:8])
        _, _, deep = by_hand(method, "encoder.model.destination.gpt")
        ends = deep("encoder.model.destination.head", feature).view(3, 2)
        distance.append(min(float((end - points[19]).norm()) for end in ends))
        apart += [math.exp(-(float((ends[i] - ends[j]).norm()) ** 2)) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert float(losses["candidates"].detach()) == pytest.approx(np.mean(distance))
    assert float(losses["repulsion"].detach()) == pytest.approx(np.mean(apart))
    whole = np.mean(distance) + 100 * np.mean(apart)
    assert float(method.total(losses).detach()) == pytest.approx(whole)


def test_the_losses_of_the_last_stage_by_hand():
    """Norms, not squares, of path and end; squares of features; weights 1, 1, 5 and 0.5.

    The last observed token tells the first future point by a layer of its own, prompts 1 to 10 the next ones, the
    last prompt a correction of the destination; the destination's own token is not read.
    """
    method, batch = shaken(FUTURE), tiny.tracks(3)
    batch = {**batch, "track": batch["track"].double()}
    losses = {name: float(value.detach()) for name, value in method.loss(batch, at(FUTURE)).items()}
    total = float(method.total(method.loss(batch, at(FUTURE))).detach())
    own, goal = "encoder.model.trajectory", "encoder.model.destination"
    linear, gpt, deep = by_hand(method, f"{own}.gpt")
    _, taught, _ = by_hand(method, "next_teacher")
    prompts = method.encoder.model.trajectory.prompts.detach()
    found = {name: [] for name in losses}
    for points in method.encoder.relative(batch):
        past, future = points[:8], points[8:]
        feature = feature_by_hand(method, goal, past)
        ends = deep(f"{goal}.head", feature).view(3, 2)
        end = min(ends, key=lambda candidate: float((candidate - future[-1]).norm()))
        tokens = [linear(f"{own}.gpt.embed", point) for point in past]
        tokens += [linear(f"{own}.embed", prompt) for prompt in prompts]
        x = gpt([*tokens, linear(f"{own}.gpt.embed", end)], range(1, 21), False)
        path = [linear(f"{own}.first", x[7]), *(linear(f"{own}.between", x[i]) for i in range(8, 18))]
        path.append(end + deep(f"{own}.correct", x[18]))
        steps = [linear("next_teacher.embed", point) for point in points[:19]]
        known = taught(steps, range(1, 20), True)[7:]
        errors = [float((a - b).norm()) for a, b in zip(path, future, strict=True)]
        found["path"].append(np.mean(errors))
        found["end"].append(float((end - future[-1]).norm()))
        gaps = [(linear("adapt", a) - b).square().mean() for a, b in zip(x[7:19], known, strict=True)]
        found["next_features"].append(np.mean([float(gap) for gap in gaps]))
        goal_gap = linear("adapt_end", feature) - feature_by_hand(method, "end_teacher", past)
        found["end_feature"].append(float(goal_gap.square().mean()))
    expected = {name: np.mean(values) for name, values in found.items()}
    assert losses == pytest.approx(expected)
    weights = {"path": 1.0, "end": 1.0, "next_features": 5.0, "end_feature": 0.5}
    assert total == pytest.approx(sum(weights[name] * expected[name] for name in weights))


def test_rates_of_the_last_stage():
    recipe = task().stages[FUTURE].recipe
    rate = dict(recipe.groups)
    assert recipe.lr == 1e-7 and set(rate.values()) == {1.5e-3}
    assert set(rate) == {"encoder.model.trajectory.", "adapt.", "adapt_end."}, "both adapters learn fast"


def test_heads_have_three_hidden_layers():
    model = build("gpt:width=16,heads=2,depth=1").model
    for head, answers in ((model.destination.head, 40), (model.trajectory.correct, 2)):
        linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
        assert [layer.out_features for layer in linear] == [512, 512, 512, answers]


class Stops(PPT):
    """Its power fails at a step."""

    at = -1

    def loss(self, batch, step):
        if step.index == self.at:
            raise InterruptedError("power")
        return super().loss(batch, step)


def test_all_stages_in_a_run_that_is_resumed_within_and_at_boundaries(tmp_path):
    data = open_data("walkers", modality="track", limit=64)

    def run(folder, stops):
        for stop in stops:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                method = Stops(build(TINY), shares=(1.0, 1.0, 1.0, 1.0))
            method.at = stop
            plan = make_plan(method.recipe, len(data), batch_size=16, max_steps=8)
            with suppress(InterruptedError):
                fit(method, data, plan, folder, resume=True, progress=False, checkpoint_every=1)
        return method.state_dict()

    whole, parts = run(tmp_path / "whole", [-1]), run(tmp_path / "parts", [2, 5, 6, -1])
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_best_of_all_futures_apart_for_average_and_end():
    data = open_data("walkers", modality="track", split="test", limit=40)
    encoder = build(TINY).eval()
    scores = {score.metric: score.value for score in forecast(encoder, data, data)}
    points = encoder.relative(data.batch(range(40)))
    with torch.no_grad():
        error = (encoder.forecast(points[:, :8]) - points[:, None, 8:]).norm(dim=3)
    average = np.mean([min(float(track[k].mean()) for k in range(3)) for track in error])
    final = np.mean([min(float(track[k, -1]) for k in range(3)) for track in error])
    assert scores["ADE"] == pytest.approx(average, rel=1e-5) and scores["FDE"] == pytest.approx(
        final, rel=1e-5
    )


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match="gpt"):
        build("resnet18")
    with pytest.raises(UsageError, match="tracks of 20 points, not of 12"):
        build(TINY).relative({"track": torch.zeros(1, 1, 12, 2)})
    with pytest.raises(UsageError, match="tells no future"):
        PPT(build("raw"))
