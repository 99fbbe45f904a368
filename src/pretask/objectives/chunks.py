"""Working through a large matrix a few rows at a time."""

from collections.abc import Iterator

import torch

CACHED = 2**18  # numbers at a time on a CPU: with what is made of them they stay in its cache
AT_ONCE = 2**26  # elsewhere: few large kernels in 256 MiB
PRODUCT = 64  # rows from which on a matrix product is limited by arithmetic and not by reading its factors


def row_parts(rows: int, columns: int, device: torch.device, least: int = 1) -> Iterator[slice]:
    """Consecutive slices of a (rows, columns) matrix that are worked on at a time: as many rows as stay in the
    cache, but at least so many."""
    count = max(least, (CACHED if device.type == "cpu" else AT_ONCE) // max(columns, 1))
    for start in range(0, rows, count):
        yield slice(start, min(start + count, rows))
