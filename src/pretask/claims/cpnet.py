"""CPNet: three questions about a cut teach more than one, and add to the order of clips (Liang et al., 2022).

Digits that move over textures are judged by what they do and by which they are. Clips of twelve frames of videos of
thirty-six; the order of clips is asked as by Xu et al. (VCOP, CVPR 2019), of three clips of eight frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from pretask.data import open_data
from pretask.data.batch import require
from pretask.encoders.video import VideoEncoder
from pretask.evaluation.features import extract
from pretask.evaluation.knn import retrieval
from pretask.evaluation.linear import linear
from pretask.evaluation.score import known_labels
from pretask.methods.joint import Joint
from pretask.methods.video.cpnet import CPNet
from pretask.pretexts import draw
from pretask.pretexts.permutation import far_apart, shuffle
from pretask.pretexts.views import apply_view_to_video, draw_view, simclr_views
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Batch, Losses, PretextTask, Step

LENGTH, CLIP = 12, 8
OPTIONS: dict[str, Any] = {"length": LENGTH, "removed": (LENGTH, LENGTH)}


class ClipOrder(PretextTask):
    """In which of six orders are three clips of a video? Features of each two clips are joined."""

    orders: Tensor

    recipe = CPNet.recipe

    def __init__(self, encoder: VideoEncoder):
        super().__init__(encoder)
        self.view = simclr_views(encoder.image_size, (0.4, 1.0))
        self.pair, self.head = nn.Linear(2 * encoder.dim, encoder.dim), nn.Linear(3 * encoder.dim, 6)
        self.register_buffer("orders", far_apart(3, 6))

    def loss(self, batch: Batch, step: Step) -> Losses:
        video = require(batch, "video", 5)
        count, gap = len(video), (video.shape[2] - CLIP) // 2
        view = draw_view(self.view, count, step.generator, batch.get("size"))
        seen = apply_view_to_video(self.view, video, view)
        clips = torch.stack([seen[:, :, start : start + CLIP] for start in (0, gap, 2 * gap)], dim=1)
        which = draw.integers(6, (count,), step.generator).to(video.device)
        shown = shuffle(clips, self.orders[which])
        features = self.encoder(shown.flatten(0, 1)).pooled.unflatten(0, (count, 3))
        pairs = torch.stack([features[:, [a, b]].flatten(1) for a, b in ((0, 1), (0, 2), (1, 2))], dim=1)
        return {"order": F.cross_entropy(self.head(self.pair(pairs).relu().flatten(1)), which)}


def with_order(encoder: nn.Module) -> PretextTask:
    assert isinstance(encoder, VideoEncoder)
    return Joint({"cpnet": CPNet(encoder, **OPTIONS), "order": ClipOrder(encoder)})


def questions(task: CPNet, bench: Bench) -> dict[str, Tensor | float]:
    """How well the questions about the cut are answered of the test videos: the area under the curve of whole
    against broken clips, and whether the place is right."""
    answers: dict[str, list[Tensor]] = {"whole": [], "broken": []}
    right: list[Tensor] = []
    device = next(task.parameters()).device
    for number, rows in enumerate(torch.arange(len(bench.test)).split(32)):
        batch = bench.test.batch(rows)
        clips = task.clips(
            {key: value.to(device) for key, value in batch.items()}, Step.at(number, device=device)
        )
        features = task.features(clips)
        if "place" in task.weights:
            place = task.locate(features["broken"]).argmax(1) + task.margin
            right.append((place == clips.cut.place).double().cpu())
        if "continuity" in task.weights:
            for name, scores in answers.items():
                scores.append(task.judge(features[name]).log_softmax(1)[:, 1].cpu())
    found: dict[str, Tensor | float] = {"place": torch.cat(right)} if right else {}
    if answers["whole"]:
        truth = [1] * len(bench.test) + [0] * len(bench.test)
        found["continuity AUC"] = float(
            roc_auc_score(truth, torch.cat([*answers["whole"], *answers["broken"]]))
        )
    return found


def measures(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """A linear probe and retrieval of what the digit does and of which it is."""
    digits = open_data("moving-digits", label="digit", **bench.claim.reading)
    parts = (bench.labelled, bench.test)
    features = [extract(trained.encoder, part)[0] for part in parts]
    found: dict[str, Tensor | float] = {}
    for name, sets in (
        ("motion", parts),
        ("digit", [replace(part, targets=digits.targets, classes=digits.classes) for part in parts]),
    ):
        known = [known_labels((x, part.labels)) for x, part in zip(features, sets, strict=True)]
        for score in (*linear(*known), *retrieval(*known)):
            if score.metric in ("accuracy", "recall@1"):
                assert score.items is not None
                found[f"{name}, {score.protocol}"] = score.items
    task = trained.task.tasks["cpnet"] if isinstance(trained.task, Joint) else trained.task
    return found | (questions(task, bench) if isinstance(task, CPNet) else {})


def only(*asked: str) -> Arm:
    weights = {name: float(name in asked) for name in ("justify", "localise", "approximate")}
    return Arm("cpnet", {**OPTIONS, **weights})


CLAIM = Claim(
    statement="Whether a clip is continuous, where it breaks and what is missing there teach more together than any "
    "of these questions alone, and add to what the order of clips teaches.",
    arms={
        "cpnet": Arm("cpnet", OPTIONS),
        "continuity alone": only("justify"),
        "place alone": only("localise"),
        "missing alone": only("approximate"),
        "continuity and place": only("justify", "localise"),
        "clip order": Arm(ClipOrder),  # type: ignore[arg-type]
        "clip order and cpnet": Arm(with_order),
        "random": Arm("cpnet", OPTIONS, steps=0),
        "raw": Arm(None, encoder="raw"),
    },
    comparisons=(
        Comparison("motion, linear", "cpnet", "random"),
        Comparison("motion, linear", "cpnet", "continuity alone"),
        Comparison("motion, linear", "cpnet", "place alone"),
        Comparison("motion, linear", "cpnet", "missing alone"),
        Comparison("motion, linear", "clip order and cpnet", "clip order"),
        Comparison("digit, linear", "cpnet", "continuity and place"),
        Comparison("continuity AUC", "cpnet", margin=0.5),
        Comparison("place", "cpnet", margin=1 / (LENGTH - 3)),
    ),
    metrics=(measures,),
    data="moving-digits",
    fallback="moving-digits",
    modality="video",
    reading={"frames": 3 * LENGTH, "hop": 48, "image_size": 24},
    encoder="r3d_18:layers=[1,1,1,1],width=16,frames=12",
    steps=250,
    batch_size=16,
)
