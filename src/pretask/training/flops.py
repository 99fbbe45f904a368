"""How much of the machine's arithmetic a run uses."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

PEAK = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "A40": 150e12,
    "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "V100": 125e12, "T4": 65e12,
    "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Multiplications and additions a second in half precision without sparsity, by the makers' data sheets; of
the names that fit a card the first counts."""

SIDE = 1024
"""Of the matrices whose product stands for what a machine can do, where no data sheet says it."""


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second: of a known GPU the data sheet's, else what a product reaches."""
    if device.type == "cuda" and dtype != torch.float32:
        name = torch.cuda.get_device_name(device)
        known = next((rate for card, rate in PEAK.items() if card in name), None)
        if known is not None:
            return known
    return measured_peak(device, dtype)


def measured_peak(device: torch.device, dtype: torch.dtype, tries: int = 4) -> float:
    side = SIDE * (8 if device.type == "cuda" else 1)
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def counted(work: Callable[[], object]) -> int:
    """Floating-point operations in matrix products, convolutions and attention of some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
