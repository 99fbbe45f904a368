"""CLER: a classifier that learns a stream of classes forgets less if its lower stages must also tell how
pictures were shuffled or turned (Bonicelli et al., On the Effectiveness of Equivariant Regularization for
Robust Online Continual Learning, 2023), on top of ER-ACE (Caccia et al., ICLR 2022).

The classes come in their order, a few at a time (`Recipe.tasks`), each sample once. In every step

    L = CE(stream) + CE(replayed) + alpha CE(which transformation?)

where the stream's loss spares the classes of earlier tasks, and the transformed pictures are those of the
stream and of the replay, before their augmentation. This is the one method here that learns from labels.
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.data.loader import task_of_class
from pretask.encoders.batch_norm import untracked
from pretask.encoders.branch import Branch
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.classifying import Classifying
from pretask.objectives.continual import (
    asymmetric_cross_entropy,
    asymmetric_mask,
    present_classes,
)
from pretask.objectives.memory import Reservoir
from pretask.pretexts import draw
from pretask.pretexts.permutation import draw_moves, shuffle_tiles
from pretask.pretexts.rotation import rotate_by, rotate_each
from pretask.pretexts.shift import apply_shift, draw_shift
from pretask.pretexts.views import centre_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Question, Sheet, Step

BORDER = 4  # pixels a picture may be moved by
ALL_ORDERS = 4  # up to so many tiles all permutations are asked for
Pictures = Float[Tensor, "batch chans side side"]


def tile_orders(tiles: int, most: int, identity: bool) -> Int[Tensor, "orders tiles"]:
    """The permutations a jigsaw asks for, in random order: all of 4 tiles, with or without the one that moves
    nothing; random ones of more."""
    if tiles > ALL_ORDERS:
        return torch.stack([torch.randperm(tiles) for _ in range(most)])
    every = torch.cartesian_prod(*[torch.arange(tiles)] * tiles)
    every = every[every.sort(1).values.eq(torch.arange(tiles)).all(1)][0 if identity else 1 :]
    return every[torch.randperm(len(every))[:most]]


class Puzzle(nn.Module):
    """One transformation, its classes, and the head that names them: a copy of the encoder's last stage
    behind the shared ones, the mean over the picture (or over each tile's part of it), and a linear layer.

    Args:
        name: `jigsaw`, `rotation`, `flip` or `location`.
        encoder: whose stages are shared.
        side: tiles a row and a column.
        orders: the permutations of a jigsaw.
        rotations: angles of a rotation.
        shared: stages below the branch.
    """

    orders: Tensor

    def __init__(
        self,
        name: str,
        encoder: ImageEncoder,
        side: int,
        orders: Int[Tensor, "orders tiles"],
        rotations: int,
        shared: Literal[3, 4],
    ):
        super().__init__()
        self.name, self.side, self.rotations = name, side, rotations
        self.register_buffer("orders", orders)  # drawn anew they would mean something else: they are saved
        self.classes = {
            "jigsaw": len(orders), "rotation": rotations, "flip": 2, "location": side**2,
        }[name]  # fmt: skip
        self.cells = side if name == "location" else 1  # answers a row and a column
        self.branch = Branch(encoder, shared)
        self.classify = nn.Linear(encoder.dim, self.classes)

    def draw(self, batch: int, generator: torch.Generator) -> Int[Tensor, "batch answers"]:
        """The true answers: a class, or for each place the tile that comes to stand there. Half of the tiles
        stay; where two change places, as of four, that is the official code's label too."""
        if self.name == "location":
            return draw_moves(batch, self.side**2, self.side**2 // 2, generator)
        return draw.integers(self.classes, (batch, 1), generator)

    def transform(self, image: Pictures, answer: Int[Tensor, "batch answers"]) -> Pictures:
        answer = answer.to(image.device)
        if self.name in ("jigsaw", "location"):
            order = self.orders[answer[:, 0]] if self.name == "jigsaw" else answer
            return shuffle_tiles(image, order, self.side)
        if self.name == "flip":
            return torch.where(answer.view(-1, 1, 1, 1) == 1, image.flip(2), image)
        if 4 % self.rotations == 0:
            return rotate_each(image, answer[:, 0] * (4 // self.rotations))
        return rotate_by(image, answer[:, 0] * (360 / self.rotations))

    def forward(self, encoder: ImageEncoder, image: Pictures) -> Float[Tensor, "batch answers classes"]:
        """The shared stages normalise by the statistics of these pictures and forget them: no test will
        resemble them."""
        with untracked(encoder):
            maps = self.branch(encoder, image)
        return self.classify(F.adaptive_avg_pool2d(maps, self.cells).flatten(2).transpose(1, 2))

    @property
    def chance(self) -> float:
        if self.name != "location":
            return log(self.classes)
        moved = (
            self.side**2 // 2 - 1
        ) / self.side**2  # each of half the tiles stays by one chance in that half
        return -(1 - moved) * log(1 - moved) - moved * log(moved / (self.classes - 1))


class CLER(Classifying):
    """Learn classes one task after another in a single pass, with replay and a pretext beside them.

    Args:
        encoder: a ResNet or a vision transformer.
        pretext: what is done to pictures: `jigsaw` (tiles shuffled), `rotation`, `both` on copies with half
            the weight each, `flip` (upside down), `location` (half of the tiles change places; which tile
            is this?) or `none`, the base method alone.
        pretext_weight: of the pretext's loss, alpha.
        base: `er_ace`, or `finetune`: plain cross-entropy and nothing replayed.
        num_tasks: parts the classes are divided into, in their order; 1 learns all of them together.
        buffer_size: pictures remembered.
        replay: pictures replayed a step; none takes as many as the stream gives.
        patches: tiles of jigsaw and location.
        max_permutations: of a jigsaw; 4 tiles have 24, and 23 for `both`, where staying is rotation's part.
        rotations: angles.
        shared_stages: of the encoder's four, those that the pretext trains too; 4 branches off its features.
    """

    encoder: ImageEncoder
    recipe = Recipe(
        "sgd", lr=0.01, lr_batch=0, batch_size=10, epochs=1, weight_decay=0.0, momentum=0.0, warmup=0.0,
        schedule="constant", tasks=5,
    )  # fmt: skip
    seen: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        pretext: Literal["jigsaw", "rotation", "both", "flip", "location", "none"] = "jigsaw",
        pretext_weight: float = 1.7,
        base: Literal["er_ace", "finetune"] = "er_ace",
        num_tasks: int = 5,
        buffer_size: int = 500,
        replay: int | None = None,
        patches: Literal[4, 9, 16] = 4,
        max_permutations: int = 100,
        rotations: Literal[2, 4, 8] = 4,
        shared_stages: Literal[3, 4] = 3,
    ):
        super().__init__(encoder)
        if num_tasks < 1 or buffer_size < 1:
            raise UsageError(f"num_tasks ({num_tasks}) and buffer_size ({buffer_size}) must be positive")
        self.base, self.num_tasks, self.replay = base, num_tasks, replay
        names = {"both": ("jigsaw", "rotation"), "none": ()}.get(pretext, (pretext,))
        orders = tile_orders(patches, max_permutations, identity=pretext != "both")
        self.puzzles = nn.ModuleList(
            Puzzle(name, encoder, round(patches**0.5), orders, rotations, shared_stages) for name in names
        )
        self.weights = {"pretext": pretext_weight} if names else {}
        if base == "er_ace":
            shape = (encoder.in_chans, encoder.image_size, encoder.image_size)
            self.buffer = Reservoir(buffer_size, shape)
        self.recipe = replace(self.recipe, tasks=num_tasks)
        if hasattr(encoder, "patch_size"):  # transformers do not learn under plain SGD
            self.recipe = replace(self.recipe, optimizer="adamw", lr=3e-4)
        self.noted: list[tuple[Tensor, Tensor]] = []

    @property
    def asked(self) -> list[Puzzle]:
        return [puzzle for puzzle in self.puzzles if isinstance(puzzle, Puzzle)]

    def make_classifier(self, classes: int) -> None:
        """The last layer, and a note for each class whether it has been seen."""
        super().make_classifier(classes)
        self.register_buffer(
            "seen", torch.zeros(classes, dtype=torch.long, device=self.classifier.weight.device)
        )

    def pictures(self, batch: Batch) -> Pictures:
        """What is remembered and transformed: the middle square, not augmented."""
        image = to_float(require(batch, "image", 4))
        return centre_view(image, batch.get("size"), self.encoder.image_size)

    def classify(self, image: Pictures) -> Float[Tensor, "batch classes"]:
        return self.classifier(self.encoder(image).pooled)

    def augment(self, image: Pictures, step: Step) -> Pictures:
        return apply_shift(image, draw_shift(len(image), BORDER, step.generator), BORDER)

    def transformed(
        self, puzzle: Puzzle, parts: list[Tensor], step: Step
    ) -> tuple[Pictures, Int[Tensor, "batch answers"]]:
        """What a puzzle makes of these pictures, and the true answers. What is filled in is the mean colour:
        the official code fills normalised pictures with zeros."""
        # drawn part by part: every process has its share of the stream and its share of the replay
        answer = torch.cat([puzzle.draw(len(part), step.generator) for part in parts])
        image, mean = torch.cat(parts), self.encoder.mean
        return puzzle.transform(image - mean, answer) + mean, answer.to(image.device)

    def loss(self, batch: Batch, step: Step) -> Losses:
        self.check_prepared()
        image, labels = self.pictures(batch), require(batch, "label", 1)
        present = present_classes(labels, len(self.seen))
        seen = present | (self.seen > 0)
        logits = self.classify(self.augment(image, step))
        step.metrics["accuracy"] = (logits.argmax(1) == labels).float().mean()
        parts = [image]
        if self.base == "er_ace" and self.beyond_the_first_task(seen):
            losses = {"stream": asymmetric_cross_entropy(logits, labels, asymmetric_mask(present, seen))}
            places = self.buffer.draw(self.replay or len(image), step.generator)
            if len(places):
                old, old_labels = self.buffer.get(places)
                losses["replay"] = F.cross_entropy(self.classify(self.augment(old, step)), old_labels)
                parts.append(old)
        else:
            losses = {"stream": F.cross_entropy(logits, labels)}
        losses.setdefault("replay", logits.new_zeros(()))
        if "pretext" in self.weights:
            losses["pretext"] = self.regularise(parts, step)
        if self.training and torch.is_grad_enabled():
            self.noted.append((image, labels))
        return losses

    def beyond_the_first_task(self, seen: Tensor) -> bool:
        highest = int(seen.nonzero().max())
        return bool(task_of_class(len(seen), self.num_tasks)[highest] > 0)

    def regularise(self, parts: list[Tensor], step: Step) -> Float[Tensor, ""]:
        """The pretext's loss on the pictures of the stream and of the replay, as they are."""
        return torch.stack([self.ask(puzzle, parts, step) for puzzle in self.asked]).mean()

    def ask(self, puzzle: Puzzle, parts: list[Tensor], step: Step) -> Float[Tensor, ""]:
        shown, answer = self.transformed(puzzle, parts, step)
        logits = puzzle(self.encoder, shown)
        step.metrics[puzzle.name] = (logits.argmax(2) == answer).float().mean()
        return F.cross_entropy(logits.flatten(0, 1), answer.flatten())

    def after_step(self, step: Step) -> None:
        if not self.noted:
            return
        image, labels = map(torch.cat, zip(*self.noted, strict=True))
        self.noted.clear()
        self.seen += present_classes(labels, len(self.seen))
        if self.base == "er_ace":
            self.buffer.add(image, labels, step.generator)

    def question(self, batch: Batch, step: Step) -> Question | None:
        """Which transformation was it? Tiles that changed places are one class for each way to do so."""
        shown, sources, answers, before = [], [], [], 0
        image = self.pictures(batch)
        for puzzle in self.asked:
            transformed, answer = self.transformed(puzzle, [image], step)
            base = puzzle.classes ** torch.arange(answer.shape[1], device=answer.device)
            shown.append(transformed)
            sources.append(torch.arange(len(image), device=image.device))
            answers.append((answer * base).sum(1) + before)
            before += puzzle.classes
        return Question(torch.cat(shown), torch.cat(sources), torch.cat(answers)) if shown else None

    def preview(self, batch: Batch, step: Step) -> Sheet:
        image = self.pictures(batch)
        rows: list[list[Panel]] = [[] for _ in image]
        for puzzle in self.asked:
            shown, answer = self.transformed(puzzle, [image], step)
            said = puzzle(self.encoder, shown).argmax(2)
            claimed = puzzle.transform(image, said)
            for row, panels in enumerate(rows):
                truth, claim = (",".join(map(str, a[row].tolist())) for a in (answer, said))
                panels.append(Panel(f"what it sees: {puzzle.name} {truth}", shown[row].clamp(0, 1)))
                panels.append(Panel(f"answer: {puzzle.name} {claim}", claimed[row].clamp(0, 1), "answer"))
        for number, panels in enumerate(rows):
            caption = f", class {int(batch['label'][number])}" if "label" in batch else ""
            panels.append(Panel(f"the picture{caption}", image[number], "truth"))
        if hasattr(self, "classifier"):
            for panels, picture, said in zip(rows, image, self.classify(image).argmax(1), strict=True):
                panels.append(Panel(f"answer: class {int(said)}", picture, "answer"))
        return Sheet("CLER", "What was done to the picture, and of which class of the stream is it?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        if not len(self.puzzles):
            return {}
        return {"pretext": sum(puzzle.chance for puzzle in self.asked) / len(self.puzzles)}
