"""Batch normalisation that looks without remembering."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """Meanwhile batch normalisation neither adds to its running statistics nor counts the batch.

    In training it normalises by the batch's own statistics, as always: for pictures that no test will
    resemble (shuffled, turned), whose statistics must not be those of whole ones.
    """
    layers = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    tracked = [layer.track_running_stats for layer in layers]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer, before in zip(layers, tracked, strict=True):
            layer.track_running_stats = before
