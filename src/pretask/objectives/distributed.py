"""Sums, means and batches over all processes, with gradients. Without `torch.distributed` nothing happens.

The convention every loss keeps: each process returns its own share, and the MEAN over processes of the
losses and of their gradients (what DDP computes) is the loss and the gradient of one process with the
joined batch. All processes hold equally many rows.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


class Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


class Mean(torch.autograd.Function):
    # The losses of all processes depend on the mean, each entry of which holds 1/world of this process's
    # value: the gradient is the mean of their gradients.
    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.div_(world_size())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return Mean.forward(ctx, grad)


def gather(own: Float[Tensor, "batch *rest"]) -> Float[Tensor, "world*batch *rest"]:
    """The rows of all processes in the order of their ranks; gradients come back summed over processes."""
    return Gather.apply(own) if world_size() > 1 else own


def mean(own: Tensor) -> Tensor:
    """The mean over processes."""
    return Mean.apply(own) if world_size() > 1 else own


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of all processes; torch's own can only do this on CUDA.

    Takes the place, the weights and the names of the layer it is made from, and timm's activation where
    the layer has one built in.

    Args:
        layer: the layer to replace.
    """

    def __init__(self, layer: _BatchNorm):
        nn.Module.__init__(self)
        for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
            setattr(self, name, getattr(layer, name))
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(layer, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        self.drop, self.act = getattr(layer, "drop", nn.Identity()), getattr(layer, "act", nn.Identity())

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Float[Tensor, "batch chans *places"]) -> Float[Tensor, "batch chans *places"]:
        if not self.training or world_size() == 1:
            return self.act(self.drop(super().forward(input)))
        dims = [0, *range(2, input.ndim)]
        shape = (1, -1) + (1,) * (input.ndim - 2)
        x = input if input.dtype == torch.float64 else input.float()
        average = mean(x.mean(dims))
        centred = x - average.view(shape)
        variance = mean(centred.square().mean(dims))  # from the joined mean: no difference of large numbers
        self.track(average.detach(), variance.detach(), x.numel() // x.shape[1] * world_size())
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return self.act(self.drop(out.to(input.dtype)))

    @torch.no_grad()
    def track(self, average: Tensor, variance: Tensor, count: int) -> None:
        if not self.track_running_stats:
            return
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(average.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)


def sync_batch_norm(module: nn.Module) -> nn.Module:
    """Let every batch normalisation see the batches of all processes, whatever device they are on.

    Replaces layers in place, keeping weights and their names; returns the module, which is a new one
    only where it is itself a batch normalisation. Call it before DDP wraps the module.
    """
    if any(p.device.type == "cuda" for p in module.parameters()):
        from timm.layers import convert_sync_batchnorm  # torch's, which forgets timm's built-in activations

        return convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return SyncBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, sync_batch_norm(child))
    return module
