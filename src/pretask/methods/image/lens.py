"""LENS: a small network edits the pictures so that a pretext becomes hard, which takes the shortcuts away
(Minderer et al., Automatic Shortcut Removal for Self-Supervised Representation Learning, ICML 2020).

Around any image task with a loss L_SSL. Of the lens L, the encoder F and a pretext's input x:

    F and the task's heads minimise  L_SSL(F(L(x))) + L_SSL(F(x))
    L minimises                      L_adv + lambda |x - L(x)|^2

from one forward pass, each with its own gradient only (`players`). L_adv is the cross-entropy with the class
that F now holds least likely, or -L_SSL where the task names no classes. What is kept is [F(x), F(L(x))].

The lens sees what F is shown, after the task's own augmentation: patches where the task cuts some.
Conventions the paper leaves open: squared differences are summed over an input's values in [0, 1] and
averaged over inputs (so lambda is 4 times the one for [-1, 1]); L(x) = x + U(x) with a last layer that starts
at zero, and is not clipped; both branches share the task's heads and see the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.image import ImageEncoder
from pretask.encoders.lens import LensedEncoder, LensNet
from pretask.errors import UsageError
from pretask.objectives.adversarial import fast_gradient_sign, least_likely
from pretask.registry import build_task
from pretask.task import Batch, Losses, Panel, Player, PretextTask, Question, Sheet, Step

Edit = Callable[[Tensor], Tensor]
SHOWN_CHANGE = 4  # a change is drawn so many times as large


@contextmanager
def edited(encoder: nn.Module, edit: Edit) -> Iterator[None]:
    """Meanwhile the encoder sees what `edit` makes of its input."""
    hook = encoder.register_forward_pre_hook(lambda module, args: (edit(args[0]), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def outputs_of(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """What a module gives meanwhile."""
    found: list[Tensor] = []
    hook = None if module is None else module.register_forward_hook(lambda m, args, out: found.append(out))
    try:
        yield found
    finally:
        if hook is not None:
            hook.remove()


def same_draws(step: Step) -> Step:
    """The step again from its present randomness, with metrics of its own."""
    return replace(step, generator=step.generator.clone_state(), metrics={})


class Wrapper(PretextTask):
    """A task that trains another one on changed inputs; whatever is not the loss is the other's.

    Args:
        base: the task.

    Raises:
        UsageError: it is not a plain task of pictures.
    """

    def __init__(self, base: PretextTask):
        if not isinstance(base.encoder, ImageEncoder) or base.players or base.stages:
            raise UsageError(
                f"{type(base).__name__} cannot be wrapped: an image task is needed, with neither players nor "
                "stages of its own"
            )
        super().__init__(base.encoder)
        self.base = base
        self.recipe = base.recipe.below("base")

    @property
    def inner(self) -> ImageEncoder:
        """The encoder that learns."""
        assert isinstance(self.base.encoder, ImageEncoder)
        return self.base.encoder

    def ask(self, batch: Batch, step: Step) -> Float[Tensor, ""]:
        """The other task's own loss, L_SSL."""
        return self.base.total(self.base.loss(batch, step))

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        self.base.prepare(batches, num_samples)

    def after_backward(self, step: Step) -> None:
        self.base.after_backward(step)

    def after_step(self, step: Step) -> None:
        self.base.after_step(step)

    def question(self, batch: Batch, step: Step) -> Question | None:
        return self.base.question(batch, step)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return self.base.preview(batch, step)

    def chance_of(self, batch_size: int, *names: str) -> dict[str, float]:
        """The other task's chance, under these names."""
        parts = self.base.chance(batch_size)
        whole = sum(self.base.weights.get(name, 1.0) * value for name, value in parts.items())
        return dict.fromkeys(names, whole) if parts else {}


class Lens(Wrapper):
    """Learn a task on pictures that a lens edits against it.

    Args:
        encoder: an image encoder; or an image task, which is then the one that is wrapped.
        task: what is wrapped where an encoder is given.
        adversary: what the lens strives for: `least_likely`, that F answers with the class it holds least
            likely, or `full`, that the loss grows; none takes least_likely where the task names classes.
        reconstruction_weight: lambda, the price of an edit's squared values, summed over an input. The knob
            that matters: too small and the lens erases the picture, too large and it does nothing.
        keep: the features that are judged and exported: `both`, those of the picture and of the edited one,
            or `plain` or `lensed` alone.
        lens_width: channels of the lens at full size.
        lens_levels: its resolutions.
        lens_lr: its rate, under Adam, for any batch.
    """

    encoder: ImageEncoder

    def __init__(
        self,
        encoder: ImageEncoder | PretextTask,
        task: Literal["rotation", "exemplar", "jigsaw", "relative-location", "simclr", "pirl"] = "rotation",
        adversary: Literal["least_likely", "full"] | None = None,
        reconstruction_weight: float = 0.1,
        keep: Literal["both", "plain", "lensed"] = "both",
        lens_width: int = 16,
        lens_levels: int = 3,
        lens_lr: float = 1e-3,
    ):
        super().__init__(encoder if isinstance(encoder, PretextTask) else build_task(task, encoder))
        names_classes = hasattr(self.base, "logits_of")
        if adversary == "least_likely" and not names_classes:
            raise UsageError(f"{type(self.base).__name__} names no classes: its adversary can only be 'full'")
        self.adversary = adversary or ("least_likely" if names_classes else "full")
        self.lens = LensNet(self.encoder.in_chans, lens_width, lens_levels)
        self.encoder = self.inner if keep == "plain" else LensedEncoder(self.inner, self.lens, keep)
        own = ("encoder." if keep == "plain" else "encoder.inner.", "base.")
        lens_recipe = replace(
            self.recipe, optimizer="adam", lr=lens_lr, lr_batch=0, betas=(0.9, 0.999), weight_decay=0.0,
            weight_decay_end=None, layer_decay=None, groups=(), vector_lr=None,
        )  # fmt: skip
        self.weights = {"reconstruction": reconstruction_weight}
        self.players = {
            "features": Player(own, ("lensed", "plain"), self.recipe),
            "lens": Player(("encoder.lens.", "lens."), ("adversary", "reconstruction"), lens_recipe),
        }

    @contextmanager
    def through_the_lens(self) -> Iterator[list[Tensor]]:
        """Meanwhile the encoder sees edited inputs; gives the squared change of each."""
        changes: list[Tensor] = []

        def edit(image: Tensor) -> Tensor:
            self.inner.normalise(image[:0])  # its error for a wrong number of channels, before the lens's
            out = self.lens(image)
            changes.append((out - image).square().flatten(1).sum(1))
            return out

        with edited(self.inner, edit):
            yield changes

    def loss(self, batch: Batch, step: Step) -> Losses:
        again = same_draws(step)
        named = getattr(self.base, "logits_of", None)
        layer = self.base.get_submodule(named) if named else None
        with outputs_of(layer) as logits, self.through_the_lens() as changes:
            lensed = self.ask(batch, step)
        if self.adversary == "full":
            against = -lensed
        else:
            against = F.cross_entropy(torch.cat(logits), least_likely(torch.cat(logits)))
        plain = self.ask(batch, again)
        step.metrics |= {f"{name}, plain": value for name, value in again.metrics.items()}
        change = torch.cat(changes).mean()
        return {"lensed": lensed, "plain": plain, "adversary": against, "reconstruction": change}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        """The task's sheet, answered through the lens; beside each row what the lens makes of an input."""
        again = same_draws(step)
        with self.through_the_lens():
            sheet = self.base.preview(batch, step)
        question = self.base.question(batch, again)
        if question is None:
            return Sheet(f"LENS around {sheet.title}", sheet.note, sheet.rows)
        through = self.lens(question.shown.float())
        changed = (0.5 + SHOWN_CHANGE * (through - question.shown)).clamp(0, 1)
        rows = [
            [
                *panels,
                Panel("through the lens", seen.clamp(0, 1), "answer"),
                Panel(f"what it changed, {SHOWN_CHANGE} times", change, "answer"),
            ]
            for panels, seen, change in zip(sheet.rows, through, changed, strict=False)
        ]
        return Sheet(f"LENS around {sheet.title}", f"{sheet.note} A lens makes it hard.", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        return self.chance_of(batch_size, "lensed", "plain")


class FGSM(Wrapper):
    """The paper's baseline: instead of a lens, one step up the loss's gradient, anew for each input.

    Args:
        base: the image task.
        epsilon: the step of every value, of pictures in [0, 1].
    """

    def __init__(self, base: PretextTask, epsilon: float = 8 / 255):
        super().__init__(base)
        self.epsilon = epsilon

    def loss(self, batch: Batch, step: Step) -> Losses:
        again, inputs = same_draws(step), []

        def watch(image: Tensor) -> Tensor:
            inputs.append(image if image.requires_grad else image.detach().requires_grad_())
            return inputs[-1]

        with torch.enable_grad(), edited(self.encoder, watch):
            plain = self.ask(batch, step)
            changes = iter(fast_gradient_sign(plain, inputs, self.epsilon))
        with edited(self.encoder, lambda image: image + next(changes)):
            attacked = self.ask(batch, again)
        return {"attacked": attacked, "plain": plain if torch.is_grad_enabled() else plain.detach()}

    def chance(self, batch_size: int) -> dict[str, float]:
        return self.chance_of(batch_size, "plain")
