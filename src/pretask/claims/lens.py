"""LENS: an arrow planted in every picture gives its rotation away; a lens takes it out (Minderer et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.image import ImageEncoder
from pretask.encoders.lens import LensedEncoder, LensNet
from pretask.evaluation.protocols import evaluate
from pretask.methods.image.lens import FGSM, Lens
from pretask.methods.image.rotation import Rotation
from pretask.pretexts.planted import mark_box, plant_arrow
from pretask.pretexts.rotation import all_rotations
from pretask.pretexts.views import apply_view, draw_view
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Batch, PretextTask, Step


class Marked(Rotation):
    """Rotation of crops with an arrow that points up in their corner."""

    def puzzle(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        return all_rotations(plant_arrow(apply_view(self.view, image, view)))


class Mirror(LensNet):
    """In a lens's place for networks without one: as many features, of the picture and its mirror image."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flip(3)


def lens(price: float, base: type[Rotation] = Marked) -> Callable[[nn.Module], PretextTask]:
    return lambda encoder: Lens(base(encoder), reconstruction_weight=price, lens_width=8)  # type: ignore[arg-type]


def plain(task: PretextTask) -> tuple[Rotation, ImageEncoder, LensNet | None]:
    """The rotation task inside, its encoder, and the lens if there is one."""
    base = task.base if isinstance(task, (Lens, FGSM)) else task
    assert isinstance(base, Rotation)
    return base, base.encoder, task.lens if isinstance(task, Lens) else None


def accuracy(task: Rotation, lens: LensNet | None, image: Tensor) -> Tensor:
    """The share of its four turns that is named right, by picture."""
    turned, turns = all_rotations(image)
    logits = task.head(task.encoder(lens(turned) if lens else turned).pooled)
    return (logits.argmax(1) == turns).double().view(-1, 4).mean(1)


def measures(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Probes on clean pictures, and how much better the pretext is answered where the mark is."""
    assert trained.task is not None
    task, encoder, lens = plain(trained.task)
    wide = LensedEncoder(encoder, lens or Mirror(encoder.in_chans, 4, 1))
    found: dict[str, Tensor | float] = {}
    for name, judged in (("linear", wide), ("linear, picture alone", encoder)):
        (score,) = evaluate(judged, bench.labelled, bench.test, ["linear"])
        assert score.items is not None
        found[name] = score.items
    image = to_float(bench.test.batch(range(len(bench.test)))["image"])
    marked, device = plant_arrow(image), next(encoder.parameters()).device
    parts = [
        [accuracy(task, lens, part.to(device)).cpu() for part in pictures.split(256)]
        for pictures in (marked, image)
    ]
    with_mark, without = map(torch.cat, parts)
    found |= {"accuracy, marked": with_mark, "accuracy, clean": without, "reliance": with_mark - without}
    if lens is not None:
        changes = [(lens(part.to(device)).cpu() - part).square().sum(1) for part in marked.split(256)]
        change = torch.cat(changes).double()
        whole, box = change.sum((1, 2)), mark_box(*image.shape[-2:])
        found |= {"change": whole, "share in the mark": change[:, box].sum(1) / whole.clamp(min=1e-12)}
    return found


CLAIM = Claim(
    statement="A mark that gives a pretext away spoils what it teaches; a small network that edits pictures "
    "against the pretext takes the mark out and saves the features, and does so better than adversarial "
    "examples.",
    arms={
        "lens": Arm(lens(0.1)),
        "lens, cheap edits": Arm(lens(0.01)),
        "lens, dear edits": Arm(lens(1.0)),
        "fgsm": Arm(lambda encoder: FGSM(Marked(encoder))),  # type: ignore[arg-type]
        "no lens": Arm(lambda encoder: Marked(encoder)),  # type: ignore[arg-type]
        "clean, lens": Arm(lens(0.1, Rotation)),
        "clean": Arm("rotation"),
        "random": Arm("rotation", steps=0),
    },
    comparisons=(
        Comparison("linear", "lens", "no lens"),
        Comparison("reliance", "lens", "no lens", "lower"),
        Comparison("linear", "lens", "fgsm", margin=-0.01),
        Comparison("share in the mark", "lens", margin=5 * 16 / 32**2),
        Comparison("linear", "clean, lens", "clean"),
    ),
    metrics=(measures,),
    encoder="resnet10t:stem_width=8,channels=[16,32,64,128]",
    steps=300,
    batch_size=32,
    labelled=2_000,
    test=1_000,
)
