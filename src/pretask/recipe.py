"""The optimisation a paper used, as data. `training.plan` scales it to the run at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """A method's own training recipe, at its paper's scale.

    Args:
        optimizer: `adamw`, `adam`, `sgd` or `lars`.
        lr: learning rate for a batch of `lr_batch` samples; scaled linearly with the batch.
        lr_batch: the batch the rate is stated for; 0 leaves the rate as it is for any batch.
        batch_size: the paper's batch.
        epochs: the paper's epochs on ImageNet-sized data.
        weight_decay: decay at the start; biases and one-dimensional parameters are not decayed.
        undecayed: last parts of names of others that are not either.
        decay_vectors: decay biases and one-dimensional parameters too, and let LARS adapt their rates.
        decays: beginnings of parameters' names with a decay of their own, the same all the time; the first that
            fits counts. Of these, too, only what decays at all does.
        weight_decay_end: decay at the end of a cosine from `weight_decay`; None keeps it constant.
        betas: AdamW's and Adam's.
        eps: AdamW's and Adam's.
        momentum: SGD's and LARS'.
        amsgrad: AdamW's and Adam's: steps are divided by the largest second moment so far.
        warmup: fraction of the run in which the rate climbs linearly.
        warmup_from: where the climb begins, as a fraction of the peak.
        warmup_arrives: the climb's last step is at the peak (DINO's code); else the one after it is (MAE's).
        final_lr: the rate a schedule ends on, as a fraction of the peak.
        clip: largest global gradient norm; None does not clip.
        schedule: `cosine`, `linear`, `constant` or `steps` after the warm-up; the first two end on `final_lr`.
        drops: shares of the run at which `steps` takes a tenth of the rate.
        layer_decay: each layer of the encoder learns at this times the rate of the layer above it; None
            treats all alike.
        groups: beginnings of parameters' names with a rate of their own, stated for `lr_batch` like `lr`;
            the first that fits counts.
        vector_lr: rate of biases and one-dimensional parameters where no group says another; None takes `lr`.
        held: beginnings of parameters' names whose rate does not follow the schedule but stays at its peak.
        tasks: 0 shuffles all data. Otherwise the stream brings the classes in their order, divided into so
            many tasks, one task after the other; by default as many passes as `epochs`, for what is
            learned from a stream is not seen again.
    """

    optimizer: Literal["adamw", "adam", "sgd", "lars"] = "adamw"
    lr: float = 5e-4
    lr_batch: int = 256
    batch_size: int = 256
    epochs: int = 100
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    undecayed: tuple[str, ...] = ()
    decay_vectors: bool = False
    decays: tuple[tuple[str, float], ...] = ()
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.9
    amsgrad: bool = False
    warmup: float = 0.1
    warmup_from: float = 0.0
    warmup_arrives: bool = False
    final_lr: float = 0.0
    clip: float | None = None
    schedule: Literal["cosine", "linear", "constant", "steps"] = "cosine"
    drops: tuple[float, ...] = ()
    layer_decay: float | None = None
    groups: tuple[tuple[str, float], ...] = ()
    vector_lr: float | None = None
    held: tuple[str, ...] = ()
    tasks: int = 0

    def below(self, module: str) -> Recipe:
        """The recipe where its task is a module of another task's: beginnings of names are those there. The encoder,
        which both tasks hold, keeps its name."""

        def there(name: str) -> str:
            return name if name.startswith("encoder.") else f"{module}.{name}"

        return replace(
            self,
            held=tuple(map(there, self.held)),
            groups=tuple((there(name), rate) for name, rate in self.groups),
            decays=tuple((there(name), decay) for name, decay in self.decays),
        )
