"""The smallest real input of each modality, and encoders to go with it. A new modality adds itself here."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_images
from torch_geometric.data import Data

from pretask.catalog import Row
from pretask.data import Dataset, open_data
from pretask.data.batch import take
from pretask.data.phantoms import KINDS as BODIES
from pretask.data.phantoms import phantom
from pretask.data.scans import Reading
from pretask.data.solids import KINDS, solid
from pretask.data.text import open_text
from pretask.data.voxels import Reading as VolumeReading
from pretask.encoders.audio import build as build_audio
from pretask.encoders.base import Encoder
from pretask.encoders.graph import build as build_graphs
from pretask.encoders.image import EncoderSpec, ImageEncoder, build
from pretask.encoders.points import build as build_points
from pretask.encoders.poses import build as build_poses
from pretask.encoders.text import build as build_text
from pretask.encoders.towers import build as build_towers
from pretask.encoders.tracks import build as build_tracks
from pretask.encoders.valor import build as build_valor
from pretask.encoders.video import build as build_video
from pretask.encoders.volume import build as build_volumes
from pretask.registry import task_class
from pretask.task import Batch, PretextTask

SIDE = 32
CLASSES = 10
ENCODERS = {
    "patches": "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2",
    "bare": "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2,class_token=false,global_pool=avg,fc_norm=false",
    "grid": "resnet10t:stem_width=8,channels=[16,32,48,64],zero_init_last=false",
    "crate": "vit_crate_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2",
    "hiera": "hiera_tiny_224:embed_dim=16,stages=[1,1,1],q_pool=1",
    "denoiser": "unet:width=8,mults=[1,2]",
    "dictionary": "sparse_dictionary:atoms=12,side=8",
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


@lru_cache(maxsize=512)
def cloud(number: int) -> dict[str, torch.Tensor]:
    """A solid of kind `number % 10`, with its surface."""
    rng = np.random.default_rng([7, number])
    reading = Reading(128, turn="y", noise=0.01)
    columns = reading.columns(solid(list(KINDS)[number % CLASSES], rng, 512), number, [0])
    return {key: torch.from_numpy(column)[0] for key, column in columns.items()}


def clouds(count: int = 8, *, start: int = 0) -> Batch:
    """Solids of ten kinds, 128 points of each; `start` moves on to others."""
    numbers = range(start, start + count)
    columns = {key: torch.stack([cloud(number)[key] for number in numbers]) for key in cloud(0)}
    index = torch.arange(start, start + count)
    return {**columns, "index": index, "label": index % CLASSES}


@lru_cache(maxsize=1)
def corpus() -> Dataset:
    """Sentences in English and two invented languages, in an order that keeps no two of a line together."""
    dataset = open_text("cipher-languages", vocab_size=600, max_length=64)
    return dataset.subset(torch.randperm(2000, generator=torch.Generator().manual_seed(0)))


def sentences(count: int = 8, *, start: int = 0) -> Batch:
    """Sentences about ten topics with a translation each; `start` moves on to others."""
    return corpus().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def network() -> Dataset:
    """Real digits as the nodes of a graph, 600 of them, joined by the likeness of their lower halves."""
    whole = open_data("digit-neighbours", modality="graph")
    graph = whole.samples.graph
    inside = (graph.edge_index < 600).all(0)
    data = Data(x=graph.x[:600], edge_index=graph.edge_index[:, inside], y=whole.targets[:600])
    return open_data(data, modality="graph")


def nodes(count: int = 8, *, start: int = 0) -> Batch:
    """Nodes of the graph of digits, with all of it; `start` moves on to others."""
    return network().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def walks() -> Dataset:
    return open_data("walkers", modality="track")


def tracks(count: int = 8, *, start: int = 0) -> Batch:
    """Walkers of four kinds; `start` moves on to others."""
    return walks().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def dances() -> Dataset:
    return open_data("puppets", modality="pose")


def poses(count: int = 8, *, start: int = 0) -> Batch:
    """Puppets that do six things; `start` moves on to others."""
    return dances().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def films() -> Dataset:
    return open_data("moving-digits", modality="video", image_size=16)


def videos(count: int = 8, *, start: int = 0) -> Batch:
    """Real digits that move over real textures; `start` moves on to others."""
    return films().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def music() -> Dataset:
    return open_data("cadences", modality="audio", rate=16000, seconds=1.0)


def sounds(count: int = 8, *, start: int = 0) -> Batch:
    """Two progressions of half a second in one of 24 keys; `start` moves on to others."""
    return music().batch(torch.arange(start, start + count))


@lru_cache(maxsize=512)
def body(number: int) -> dict[str, torch.Tensor]:
    """A phantom of kind `number % 4`, 16 x 16 x 8 voxels of it."""
    scan = phantom(BODIES[number % len(BODIES)], np.random.default_rng([3, number]))
    return VolumeReading((16, 16, 8), segmented=True).columns(scan)


def volumes(count: int = 8, *, start: int = 0) -> Batch:
    """Made-up abdomens of four kinds; `start` moves on to others."""
    numbers = range(start, start + count)
    columns = {key: torch.stack([body(number)[key] for number in numbers]) for key in body(0)}
    index = torch.arange(start, start + count)
    return {**columns, "index": index, "label": index % len(BODIES)}


@lru_cache(maxsize=1)
def stories() -> Dataset:
    return open_data("narrated-digits", modality="multimodal", image_size=16, frames=16)


def narrated(count: int = 8, *, start: int = 0) -> Batch:
    """Digits that do four things, each told in a sentence; `start` moves on to others."""
    return stories().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def audible() -> Dataset:
    return open_data("sounding-digits", modality="film", image_size=16, frames=4, seconds=0.64, max_length=16)


def audible_films(count: int = 8, *, start: int = 0) -> Batch:
    """Digits that move while an instrument plays along, with captions; `start` moves on to others."""
    return audible().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def album() -> Dataset:
    return open_data("captioned-digits", modality="captioned")


def captioned(count: int = 8, *, start: int = 0) -> Batch:
    """Coloured digits on textures, each with a sentence; `start` moves on to others."""
    return album().batch(torch.arange(start, start + count))


@lru_cache(maxsize=1)
def globe() -> Dataset:
    dataset = open_data("seasons", modality="place")
    return dataset.subset(torch.randperm(2000, generator=torch.Generator().manual_seed(0)))


def places(count: int = 8, *, start: int = 0) -> Batch:
    """Made-up places with what they look like at other times; `start` moves on to others."""
    return globe().batch(torch.arange(start, start + count))


BATCHES = {
    "place": places,
    "captioned": captioned,
    "film": audible_films,
    "multimodal": narrated,
    "volume": volumes,
    "audio": sounds,
    "video": videos,
    "pose": poses,
    "track": tracks,
    "image": images,
    "graph": nodes,
    "points": clouds,
    "text": sentences,
}
"""By modality: (count, chans=, side=, start=) to a batch with labels that no task may read."""

KEYS = {
    "place": "image",
    "captioned": "image",
    "film": "tokens",
    "multimodal": "script",
    "volume": "volume",
    "audio": "audio",
    "video": "video",
    "pose": "pose",
    "track": "track",
    "image": "image",
    "graph": "graph",
    "points": "points",
    "text": "tokens",
}
"""By modality: the entry of the batch that a task cannot do without."""


OWN_ENCODERS: dict[str, Callable[[], Encoder]] = {
    "place": lambda: encoder("grid"),
    "film": lambda: build_valor(
        "valor:width=24,depth=1,heads=2,text_width=32,text_depth=1,embed=16,frames=2,patch=8",
        **audible().inputs,
    ),
    "captioned": lambda: build_towers(
        f"image={ENCODERS['grid']};text=distilbert:dim=32,n_layers=1,n_heads=2,hidden_dim=64",
        **album().inputs,
    ),
    "multimodal": lambda: build_towers(
        "video=space_time_vit:embed_dim=32,depth=2,num_heads=2,frames=8,patch=4;"
        "text=distilbert:dim=32,n_layers=1,n_heads=2,hidden_dim=64",
        **stories().inputs,
    ),
    "volume": lambda: build_volumes("resnet:width=8", size=(16, 16, 8)),
    "audio": lambda: build_audio("chromanet:channels=[6,8,3],kernels=[5,3,3]", rate=16000),
    "video": lambda: build_video("r3d_18:layers=[1,1,1,1],width=4", image_size=16),
    "video hiera": lambda: build_video("hiera_tiny:embed_dim=16,stages=[1,1,1]", image_size=16),
    "track": lambda: build_tracks("gpt:width=32,heads=2,depth=2,dropout=0", length=20),
    "pose": lambda: build_poses("skeleton_vit:embed_dim=16,depth=2,num_heads=2,frames=24", joints=16),
    "graph": lambda: build_graphs("gcn:widths=[24,16]", **network().inputs),
    "points": lambda: build_points("point_vit_tiny:embed_dim=32,depth=2,num_heads=2,groups=16,group_size=8"),
    "text": lambda: build_text(
        "xlm-roberta:hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64",
        **corpus().inputs,
    ),
}
"""By modality other than pictures, and by what some of its methods need: makes a tiny encoder for `BATCHES`."""


def own_encoder(row: Row) -> Callable[[], Encoder] | None:
    """What makes the tiny encoder of a method that learns from something else than pictures."""
    return OWN_ENCODERS.get(f"{row.modality} {row.needs}", OWN_ENCODERS.get(row.modality))


def encoder(kind: str, chans: int = 3, side: int = SIDE) -> ImageEncoder:
    """A tiny encoder of a kind; patches of 4 pixels, or of 5 where 4 do not fit."""
    patch = (4 if side % 4 == 0 else 5) if kind in ("patches", "bare", "crate") else None
    if kind == "hiera":
        side = side // 8 * 8  # whole mask units
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
        own_kind = own_encoder(row)
        if own_kind:
            method, some = task_class(row.slug)(own_kind()), BATCHES[row.modality](16)
        else:
            method = task_class(row.slug)(encoder(kind or kinds(row)[0], chans, side))
            some = BATCHES[row.modality](16, chans=chans, side=side)
    method.prepare([take(some, own)], 16)
    return method
