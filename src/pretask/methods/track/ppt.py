"""PPT: first the next step, then the destination, then the whole future (Lin et al., ECCV 2024).

Follows iSEE-Laboratory/PPT. Tracks are relative to the last observed point. Stage "destination" has a warm-up
with the network frozen; stage "future" distils the features of the models that the two stages before left.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.ema import teacher_of
from pretask.encoders.tracks import TrackEncoder, TrackGPT
from pretask.errors import UsageError
from pretask.objectives.hypotheses import nearest, repulsion
from pretask.pretexts.draw import common
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Stage, Step

NEXT, WARM_UP, DESTINATION, FUTURE = range(4)
# 3000 + 3 x 600 official epochs, each of which brings all data in each of `VARIANTS`
ADAM = Recipe(
    "adam", lr=1e-3, lr_batch=0, batch_size=256, epochs=5 * 4800, weight_decay=0.0, betas=(0.9, 0.999),
    warmup=0.0, clip=1.0, schedule="constant",
)  # fmt: skip
VARIANTS = (
    ((1.0, 0.0), (0.0, 1.0)),
    ((0.0, -1.0), (1.0, 0.0)),
    ((-1.0, 0.0), (0.0, -1.0)),
    ((0.0, 1.0), (-1.0, 0.0)),
    ((-1.0, 0.0), (0.0, 1.0)),
)
"""Matrices behind (x, y): a track as it is, turned by 90, 180 and 270 degrees, (x, y) to (y, -x) each time, and
flipped along its first axis."""
TRAJECTORY = ("encoder.model.trajectory.", "adapt.", "adapt_end.")  # what learns fast in the last stage


class PPT(PretextTask):
    """Tell the next point everywhere, then where the track ends, then all between, each stage on the last.

    As in the official code both adapters learn at the trajectory's rate. There each batch is in the data five times,
    as all `VARIANTS`, in random order; here a variant is drawn for each step.

    Args:
        encoder: of tracks, `gpt`.
        shares: of the run for the four stages: next point, warm-up of the destination, destination, future
            (the script's epochs: 3000, 600, 600, 600).
        augment: show a batch as it is, turned by 90, 180 or 270 degrees, or flipped.
        diversity_scale: s in exp(-d^2 / s), in squared units of the data.
        diversity: weight of the candidates' repulsion.
        destination: weight of the destination's error in the last stage.
        distil_next: weight of the features of the first stage's model.
        distil_destination: weight of the feature of the second stage's model.
    """

    encoder: TrackEncoder
    recipe = ADAM

    def __init__(
        self,
        encoder: TrackEncoder,
        shares: tuple[float, float, float, float] = (5.0, 1.0, 1.0, 1.0),
        augment: bool = True,
        diversity_scale: float = 1.0,
        diversity: float = 100.0,
        destination: float = 1.0,
        distil_next: float = 5.0,
        distil_destination: float = 0.5,
    ):
        super().__init__(encoder)
        if not hasattr(encoder.model, "trajectory"):
            raise UsageError(f"ppt trains a 'gpt' of tracks; '{encoder.name}' tells no future")
        self.augment, self.diversity_scale = augment, diversity_scale
        self.by_stage = (
            {"next": 1.0},
            {"candidates": 1.0, "repulsion": diversity},
            {"candidates": 1.0, "repulsion": diversity},
            {
                "path": 1.0,
                "end": destination,
                "next_features": distil_next,
                "end_feature": distil_destination,
            },
        )
        self.head = nn.Linear(encoder.dim, 2)
        self.adapt, self.adapt_end = (nn.Linear(encoder.dim, encoder.dim) for _ in range(2))
        # copies that later stages learn from; `begin_stage` fills them
        self.next_teacher: TrackGPT = teacher_of(encoder.model.trajectory.gpt)
        self.end_teacher = teacher_of(encoder.model.destination)
        rates = (1e-3, 1e-3, 1e-4, 1e-7)
        names = ("next point", "warm-up", "destination", "future")
        self.stages = tuple(
            Stage(name, share, recipe_of(rate, stage == FUTURE))
            for stage, (name, share, rate) in enumerate(zip(names, shares, rates, strict=True))
        )
        self.begin_stage(NEXT)

    def begin_stage(self, index: int) -> None:
        """Copy what the last stage left, and let learn what this stage trains."""
        model = self.encoder.model
        trajectory, destination = model.trajectory, model.destination
        if index == WARM_UP:
            self.next_teacher.load_state_dict(trajectory.gpt.state_dict())
            destination.gpt.load_state_dict(trajectory.gpt.state_dict())
        if index == FUTURE:
            self.end_teacher.load_state_dict(destination.state_dict())
            trajectory.gpt.load_state_dict(destination.gpt.state_dict())
            trajectory.embed.load_state_dict(destination.embed.state_dict())
            with torch.no_grad():
                trajectory.prompts.copy_(destination.token.expand_as(trajectory.prompts))
        learning: tuple[nn.Module, ...] = {
            NEXT: (trajectory.gpt, self.head),
            WARM_UP: (destination,),
            DESTINATION: (destination,),
            FUTURE: (trajectory, destination, self.adapt, self.adapt_end),
        }[index]
        self.requires_grad_(False)
        for module in learning:
            module.requires_grad_(True)
        if index == WARM_UP:
            destination.gpt.requires_grad_(False)
        self.weights = self.by_stage[index]

    def tracks(self, batch: Batch, step: Step) -> Float[Tensor, "batch points 2"]:
        """Relative tracks; while training all of a batch in one of the `VARIANTS`."""
        points = self.encoder.relative(batch)
        if not (self.augment and self.training):
            return points
        which = (common((1,), step.generator) * len(VARIANTS)).long().to(points.device)
        return (points[..., None] * points.new_tensor(VARIANTS)[which]).sum(2)

    def loss(self, batch: Batch, step: Step) -> Losses:
        points = self.tracks(batch, step)
        if step.stage == NEXT:
            told = self.head(self.read(self.encoder.model.trajectory.gpt, points))
            return {"next": F.mse_loss(told, points[:, 1:])}
        past, future = points[:, : self.encoder.past], points[:, self.encoder.past :]
        model = self.encoder.model
        if step.stage < FUTURE:
            candidates = model.destination(past)
            distance, _ = nearest(candidates, future[:, -1])
            return {"candidates": distance.mean(), "repulsion": repulsion(candidates, self.diversity_scale)}
        return self.future_losses(points, past, future)

    def read(
        self, gpt: TrackGPT, points: Float[Tensor, "batch points 2"]
    ) -> Float[Tensor, "batch steps dim"]:
        """Features of all points but the last, each knowing those before it."""
        places = torch.arange(1, points.shape[1], device=points.device)
        return gpt(gpt.embed(points[:, :-1]), places)

    def future_losses(self, points: Tensor, past: Tensor, future: Tensor) -> Losses:
        """The last stage. The destination is not detached: the path's error reaches its predictor."""
        trajectory, destination = self.encoder.model.trajectory, self.encoder.model.destination
        feature = destination.feature(past)
        candidates = destination.head(feature).unflatten(1, (-1, 2))
        distance, which = nearest(candidates.detach(), future[:, -1])
        end = candidates[torch.arange(len(past), device=past.device), which]
        path, seen = trajectory(past, end)
        with torch.no_grad():
            self.next_teacher.eval(), self.end_teacher.eval()
            known = self.read(self.next_teacher, points)[:, self.encoder.past - 1 :]
            known_end = self.end_teacher.feature(past)
        return {
            "path": (path - future).norm(dim=2).mean(),
            "end": (end - future[:, -1]).norm(dim=1).mean(),
            "next_features": F.mse_loss(self.adapt(seen), known),
            "end_feature": F.mse_loss(self.adapt_end(feature), known_end),
        }

    def preview(self, batch: Batch, step: Step) -> Sheet:
        points = self.encoder.relative(batch)
        past = points[:, : self.encoder.past]
        futures = self.encoder.forecast(past)
        errors = (futures - points[:, None, self.encoder.past :]).norm(dim=3).mean(2)
        best = futures[torch.arange(len(past), device=past.device), errors.argmin(1)]
        told = torch.stack([torch.cat([past, best], dim=1), points], dim=1)  # the truth behind it, in grey
        name = f"the best of {futures.shape[1]} futures"
        rows = [
            [
                Panel("what it sees", seen[None], kind="track"),
                Panel(name, both, "answer", "track"),
                Panel("the whole track", whole[None], "truth", "track"),
            ]
            for seen, both, whole in zip(past, told, points, strict=True)
        ]
        return Sheet("PPT", "Which way does it go, and where does it end?", rows)


def recipe_of(rate: float, last: bool) -> Recipe:
    """Adam at this rate; in the last stage the trajectory's parameters at 1.5e-3."""
    return replace(ADAM, lr=rate, groups=tuple((name, 1.5e-3) for name in TRAJECTORY) if last else ())
