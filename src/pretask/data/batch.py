"""The vocabulary of a batch: one name, one meaning, in every reader, task and protocol.

| key | tensor | meaning |
|---|---|---|
| `image` | (B, C, H, W) uint8, or float in [0, 1] | the whole picture, resampled to a square canvas |
| `size` | (B, 2) int64 | height and width in pixels before resampling: undoes the canvas' distortion |
| `index` | (B,) int64 | the sample's row in the data set |
| `label` | (B,) int64 | present only where the data carry labels; never read by a self-supervised loss |
| `video` | (B, C, T, H, W) | |
| `audio` | (B, S) | samples in [-1, 1] |
| `tokens` | (B, L) int64 | |
| `points` | (B, N, 3+F) | |
| `volume` | (B, C, D, H, W) | |
| `pose` | (B, T, J, D) | |
| `track` | (B, A, T, 2) | metres |
| `graph` | PyG `Data` | |
"""

from torch import Tensor

from pretask.errors import UsageError
from pretask.task import Batch


def to_float(image: Tensor) -> Tensor:
    """A picture as float in [0, 1], whatever it was stored as."""
    return image.float().div_(255) if image.dtype.is_floating_point is False else image


def require(batch: Batch, key: str, ndim: int) -> Tensor:
    """The batch's entry `key` with its number of dimensions checked.

    Raises:
        UsageError: the key is missing or has another number of dimensions.
    """
    if key not in batch:
        raise UsageError(f"the batch has no '{key}' (it has: {', '.join(sorted(batch))})")
    if batch[key].ndim != ndim:
        raise UsageError(f"batch['{key}'] must have {ndim} dimensions, not shape {tuple(batch[key].shape)}")
    return batch[key]
