"""CLIP's batch as a classification among few classes, carried over to supervised learning (Generalization Beyond Data
Imbalance: A Controlled Study on CLIP for Transferable Insights, Wen et al., NeurIPS 2024).

Classes are named among those of the batch and a few others; rows of the classifier may be what a text encoder says of
their names, and stay that. `clip` is the study's reference on the same encoders (there at a rate of 1e-3 for batches
of 1,024, warmed up in 500 steps; here by CLIP's own recipe), `sampled-dino` what becomes of self-distillation.
Official runs decay the rate by a cosine although their option is called "step"; so here.

Features are compared in the space that the towers share: pooled ones go through the learned linear map without bias
that a run of `clip` has, to 256 numbers. There attention pools them and ends in a map to CLIP's 1,024.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.data.batch import require
from pretask.data.tokens import Ragged
from pretask.encoders.towers import SHARED, Towers
from pretask.errors import UsageError
from pretask.methods.classifying import Classifying
from pretask.objectives.distributed import gather
from pretask.objectives.vocabulary import CosineHead, class_weights, draw_vocabulary
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Question, Sheet, Step

SHOWN = 12  # classes of the vocabulary on a sheet


class ClipImbalance(Classifying):
    """Classify pictures by cosines, among the batch's own classes and others that are drawn.

    Args:
        encoder: of pictures and, for a head of text, of text (`image=resnet18;text=distilbert`); only the pictures'
            part learns. Start from a run of `clip` to have names that mean something.
        vocabulary: classes a step is asked among, n; none asks among all.
        sampling: probability of the others: `uniform`, by frequency (`linear`), or by its root (`sqrt`).
        head: rows of the classifier are `learned`, or stay what the encoder says of each class' name (`text`).
        names: of all classes in their order with commas between them, also of those without pictures; a head of
            `text` needs them.
        temperature: what cosines are divided by at first; it learns, and stays above 0.01.
        crop_scale: area of the random crop, the only change of a picture, as a share of it.
    """

    encoder: Towers
    classifier: CosineHead  # type: ignore[assignment]
    count: Tensor
    recipe = Recipe(
        "sgd", lr=0.1, batch_size=256, epochs=90, weight_decay=1e-4, decay_vectors=True, warmup=0.0
    )

    def __init__(
        self,
        encoder: Towers,
        vocabulary: int | None = 100,
        sampling: Literal["uniform", "linear", "sqrt"] = "sqrt",
        head: Literal["learned", "text"] = "learned",
        names: str = "",
        temperature: float = 0.07,
        crop_scale: tuple[float, float] = (0.9, 1.0),
    ):
        super().__init__(encoder)
        self.vocabulary, self.sampling, self.head, self.temperature = vocabulary, sampling, head, temperature
        self.names = [name.strip() for name in names.split(",") if name.strip()]
        self.view = ViewSpec(encoder.tower("image").image_size, crop_scale, interpolation="bicubic")
        for kind in encoder.kinds:
            for part in (encoder.tower(kind), encoder.model["heads"][kind]):
                part.requires_grad_(kind == "image")

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Count the pictures of each class.

        Raises:
            UsageError: the data have no labels, or classes no names.
        """
        seen: list[Batch] = []

        def noted() -> Iterable[Batch]:
            for batch in batches:
                seen.append({key: batch[key] for key in ("label",) if key in batch})
                yield seen[-1]

        super().prepare(noted(), num_samples)
        if seen:
            label = torch.cat([batch["label"] for batch in seen]).to(self.count.device)
            self.count.copy_(torch.bincount(gather(label), minlength=len(self.classifier.weight)))

    def make_classifier(self, classes: int) -> None:
        """The last layer, and how many pictures each class has."""
        classes = max(classes, len(self.names))
        device = next(self.encoder.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.classifier_seed)
            self.classifier = CosineHead(SHARED, classes, self.temperature, self.class_vectors(classes)).to(
                device
            )
        self.register_buffer("count", torch.zeros(classes, dtype=torch.long, device=device))

    def class_vectors(self, classes: int) -> Float[Tensor, "classes shared"] | None:
        """What the text encoder says of "a NAME"; none where rows learn.

        Raises:
            UsageError: there are not as many names as classes.
        """
        if self.head == "learned":
            return None
        if len(self.names) != classes:
            raise UsageError(
                f"a head of text needs the names of all {classes} classes and was given {len(self.names)}: "
                "--set names=cat,dog,..."
            )
        return named(self.encoder, self.names)

    def crop(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans h w"]:
        image = require(batch, "image", 4)
        return apply_view(
            self.view, image, draw_view(self.view, len(image), step.generator, batch.get("size"))
        )

    def look(
        self, view: Float[Tensor, "n chans h w"]
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n shared"]]:
        """Logits of all classes, and the features they are read from."""
        features = self.encoder.shared("image", self.encoder.tower("image")(view).pooled)
        return self.classifier(features), features

    def asked(self, label: Tensor, step: Step) -> Tensor:
        """The classes of this step, sorted."""
        classes = len(self.classifier.weight)
        weight = class_weights(self.count, self.sampling)
        return draw_vocabulary(label, weight, min(self.vocabulary or classes, classes), step.generator)

    def loss(self, batch: Batch, step: Step) -> Losses:
        self.check_prepared()
        view, label = self.crop(batch, step), require(batch, "label", 1)
        logits, _ = self.look(view)
        step.metrics["accuracy"] = (logits.argmax(1) == label).float().mean()
        if self.vocabulary is not None:
            chosen = self.asked(label, step)
            step.metrics["vocabulary"] = torch.tensor(float(len(chosen)))
            logits, label = logits[:, chosen], torch.searchsorted(chosen, label)
        return {"classes": F.cross_entropy(logits.float(), label)}

    def after_step(self, step: Step) -> None:
        self.classifier.clamp()

    def question(self, batch: Batch, step: Step) -> Question:
        view = self.crop(batch, step)
        return Question(view, torch.arange(len(view), device=view.device), require(batch, "label", 1))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        self.check_prepared()
        view, label = self.crop(batch, step), require(batch, "label", 1)
        chosen = torch.arange(len(self.classifier.weight), device=label.device)
        if self.vocabulary is not None:
            chosen = self.asked(label, step)
        said = chosen[self.look(view)[0][:, chosen].argmax(1)]

        def name(kind: int) -> str:
            return self.names[kind] if kind < len(self.names) else f"class {kind}"

        among = ", ".join(name(kind) for kind in chosen[:SHOWN].tolist())
        among += f" and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else ""
        rows = [
            [
                Panel("a picture", picture),
                Panel("asked among", among, "asked", "text"),
                Panel("its class", name(true), "truth", "text"),
                Panel("answer", name(answer), "answer", "text"),
            ]
            for picture, true, answer in zip(view, label.tolist(), said.tolist(), strict=True)
        ]
        return Sheet("CLIP beyond the tail", "Which of a few classes is it?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Of as many classes as are asked for; of a batch that has more, it is higher."""
        if not hasattr(self, "classifier"):
            return {}
        classes = len(self.classifier.weight)
        return {"classes": log(min(self.vocabulary or classes, classes))}


@torch.no_grad()
def named(encoder: Towers, names: Sequence[str]) -> Float[Tensor, "names shared"]:
    """What an encoder says of "a NAME", in the space that pictures and texts share."""
    tower, training = encoder.tower("text"), encoder.training
    ids, lengths, _ = tower.tokenizer.encode([f"a {name}" for name in names], tower.max_length)
    tokens, there = Ragged(ids, lengths).gather(torch.arange(len(names)), tower.tokenizer.vocabulary.pad)
    device = next(encoder.parameters()).device
    encoder.eval()
    found = encoder.embed({"tokens": tokens.to(device), "attention": there.to(device)}, "text")
    encoder.train(training)
    return found
