"""Optimisers from a recipe: which parameters decay, and which learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pretask.errors import UsageError
from pretask.training.plan import Schedule

TRUST = 1e-3
"""LARS' trust coefficient eta."""


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017), as SimCLR, BYOL and their successors use it.

    g <- g + decay w;  g <- g eta |w| / |g| where both norms are positive;  m <- momentum m + g;
    w <- w - lr m. Groups with `adapt` False get neither decay nor the second line: biases and
    one-dimensional parameters, unless the recipe has them decay (SwAV's LARC).

    Args:
        params: groups of parameters.
        lr: rate.
        momentum: of m.
        weight_decay: decay.
        trust: eta.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = TRUST,
    ):
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads: list[Tensor] = [p.grad for p in params]
            if group["adapt"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
                torch._foreach_mul_(grads, ratios(params, grads, group["trust"]))
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            moving = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(moving, group["momentum"])
            torch._foreach_add_(moving, grads)
            torch._foreach_add_(params, moving, alpha=-group["lr"])


def ratios(params: list[Tensor], grads: list[Tensor], trust: float) -> list[Tensor]:
    """eta |w| / |g| of each pair, 1 where a norm is zero; without asking the device."""
    weights, slopes = torch._foreach_norm(params), torch._foreach_norm(grads)
    return [
        torch.where((w > 0) & (g > 0), trust * w / g, torch.ones_like(w))
        for w, g in zip(weights, slopes, strict=True)
    ]


def layer_scales(encoder: nn.Module, decay: float) -> dict[str, float]:
    """By parameter of the encoder, decay^(layers above it), in timm's own division into layers; heads, and
    whatever else a task has, are one layer above the last (BEiT).

    Raises:
        UsageError: the encoder's model does not say what its layers are.
    """
    from timm.models import group_parameters

    model: Any = getattr(encoder, "model", encoder)
    if not hasattr(model, "group_matcher"):
        raise UsageError(
            f"layer_decay needs an encoder that says what its layers are; {type(model).__name__} does not"
        )
    layers: Mapping[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    prefix = "model." if model is not encoder else ""
    return {prefix + name: decay ** (last + 1 - layer) for name, layer in layers.items()}


def groups(
    named: Iterable[tuple[str, nn.Parameter]], schedule: Schedule, encoder: nn.Module
) -> list[dict[str, Any]]:
    """Parameters by (highest rate, whether they decay, whether the rate is held, a decay of their own), in the order
    in which these first occur."""
    recipe = schedule.recipe
    scales = {} if recipe.layer_decay is None else layer_scales(encoder, recipe.layer_decay)
    found: dict[tuple[float, bool, bool, float | None], dict[str, Any]] = {}
    for name, parameter in named:
        last = name.rpartition(".")[2]
        matrix = parameter.ndim > 1 and last != "bias"
        usual = recipe.lr if matrix or recipe.vector_lr is None else recipe.vector_lr
        rate = next((lr for prefix, lr in recipe.groups if name.startswith(prefix)), usual)
        peak = rate * schedule.scale * scales.get(name.removeprefix("encoder."), 1.0)
        decays = (matrix or recipe.decay_vectors) and last not in recipe.undecayed
        held = name.startswith(recipe.held)
        decay = next((value for prefix, value in recipe.decays if name.startswith(prefix)), None)
        own = {"params": [], "names": [], "peak": peak, "decays": decays, "held": held, "decay": decay}
        group = found.setdefault((peak, decays, held, decay if decays else None), own)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(found.values())


def make_optimiser(
    named: Iterable[tuple[str, nn.Parameter]], schedule: Schedule, encoder: nn.Module
) -> Optimizer:
    """The optimiser of a recipe for these parameters.

    Raises:
        UsageError: there is no such optimiser.
    """
    recipe, parts = schedule.recipe, groups(named, schedule, encoder)
    fused = all(p.is_floating_point() and type(p.data) is Tensor for part in parts for p in part["params"])
    if recipe.optimizer in ("adamw", "adam"):
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        return kind(
            parts, lr=schedule.peak, betas=recipe.betas, eps=recipe.eps, amsgrad=recipe.amsgrad,
            fused=fused or None,
        )  # fmt: skip
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parts, lr=schedule.peak, momentum=recipe.momentum, fused=fused or None)
    if recipe.optimizer == "lars":
        for part in parts:
            part["adapt"] = part["decays"]
        return LARS(parts, lr=schedule.peak, momentum=recipe.momentum)
    raise UsageError(f"there is no optimiser '{recipe.optimizer}': adamw, adam, sgd or lars")


def set_rates(optimiser: Optimizer, schedule: Schedule, index: int) -> None:
    """Rate and decay of every group for this step."""
    shape, usual = schedule.shape(index), schedule.weight_decay(index)
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * (1.0 if group["held"] else shape)
        own = usual if group["decay"] is None else group["decay"]
        group["weight_decay"] = own if group["decays"] else 0.0
