"""The smallest real input of each modality, and encoders to go with it. A new modality adds itself here."""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_images

from pretask.catalog import Row
from pretask.encoders.base import Encoder
from pretask.encoders.image import EncoderSpec, ImageEncoder, build
from pretask.registry import task_class
from pretask.task import Batch, PretextTask

SIDE = 32
CLASSES = 10
ENCODERS = {
    "patches": "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2",
    "grid": "resnet10t:stem_width=8,channels=[16,32,48,64],zero_init_last=false",
    "denoiser": "unet:width=8,mults=[1,2]",
}


@lru_cache(maxsize=1)
def sources() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """scikit-learn's two photographs (2, 3, H, W), its digits (N, 8, 8) and what they are."""
    photos = torch.stack([torch.from_numpy(photo.copy()) for photo in load_sample_images().images])
    digits = load_digits()
    photos = photos.permute(0, 3, 1, 2).float() / 255
    return photos, torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target).long()


def images(count: int = 8, *, chans: int = 3, side: int = SIDE, start: int = 0) -> Batch:
    """Real digits at random places on coloured crops of real photographs; `start` moves on to others.

    Channels beyond three are mixtures of the three, as spectral bands are.
    """
    photos, digits, labels = sources()
    pictures, sizes = [], []
    for number in range(start, start + count):
        generator = torch.Generator().manual_seed(number)
        y, x, top, left = (int(torch.randint(high, (), generator=generator)) for high in (380, 590, 16, 16))
        crop = photos[number % 2, :, y : y + SIDE, x : x + SIDE].clone()
        digit = F.interpolate(digits[None, None, number], scale_factor=2, mode="bilinear")[0]
        crop[:, top : top + 16, left : left + 16] = torch.maximum(
            crop[:, top : top + 16, left : left + 16], digit
        )
        pictures.append(crop)
        sizes.append([SIDE + number % 9, SIDE + number % 5])
    image = torch.stack(pictures)
    if chans != 3:
        mix = torch.rand(chans, 3, generator=torch.Generator().manual_seed(chans))
        image = torch.einsum("ij,bjhw->bihw", mix / mix.sum(1, keepdim=True), image)
    if side != SIDE:
        image = F.interpolate(image, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
    index = torch.arange(start, start + count)
    return {
        "image": (image * 255).round().byte(),
        "size": torch.tensor(sizes),
        "index": index,
        "label": labels[index],
    }


BATCHES = {"image": images}
"""By modality: (count, chans=, side=, start=) to a batch with labels that no task may read."""

KEYS = {"image": "image"}
"""By modality: the entry of the batch that a task cannot do without."""


OWN_ENCODERS: dict[str, Callable[[], Encoder]] = {}
"""By modality other than pictures: makes a tiny encoder for `BATCHES`."""


def encoder(kind: str, chans: int = 3, side: int = SIDE) -> ImageEncoder:
    """A tiny encoder of a kind; patches of 4 pixels, or of 5 where 4 do not fit."""
    patch = (4 if side % 4 == 0 else 5) if kind == "patches" else None
    return build(EncoderSpec(ENCODERS[kind], chans, side, patch))


def kinds(row: Row) -> list[str]:
    """The kinds of encoder a method is tried with: patches, a grid, or its modality's own."""
    if row.modality in OWN_ENCODERS:
        return ["own"]
    return ["grid", "patches"] if row.needs == "any" else [row.needs]


def spoilt(value: Any) -> Any:
    """An entry of a batch as no task can use it: without one of its dimensions; a graph without features."""
    return value[0] if isinstance(value, torch.Tensor) else Data(edge_index=value.edge_index)


def task(
    row: Row,
    kind: str | None = None,
    *,
    chans: int = 3,
    side: int = SIDE,
    seed: int = 0,
    own: slice = slice(None),
) -> PretextTask:
    """The method on a tiny encoder, all weights by `seed`, prepared on the first 16 samples, or on those of
    them that are this process's `own`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if row.modality in OWN_ENCODERS:
            method, some = task_class(row.slug)(OWN_ENCODERS[row.modality]()), BATCHES[row.modality](16)
        else:
            method = task_class(row.slug)(encoder(kind or kinds(row)[0], chans, side))
            some = BATCHES[row.modality](16, chans=chans, side=side)
    method.prepare([take(some, own)], 16)
    return method
