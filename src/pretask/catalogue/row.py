"""What the catalogue says of a method."""

from typing import Literal, NamedTuple

Modality = Literal[
    "image",
    "video",
    "audio",
    "text",
    "graph",
    "points",
    "volume",
    "pose",
    "track",
    "multimodal",
    "film",
    "captioned",
    "place",
    "any",
]


class Row(NamedTuple):
    """A method's entry.

    Args:
        slug: its name on the command line.
        title: the method's name in print.
        modality: what it learns from.
        path: `module:Class` of the task.
        paper: title, authors, venue.
        hides: what is hidden of the data.
        asks: what the network is asked.
        encoder: the default encoder; a vision transformer where the method needs patches.
        needs: `patches` where only a vision transformer fits, `bare` where only one without class token
            does, `crate` a white-box transformer, `hiera` a hierarchical one, `denoiser` a diffusion model's
            network, `dictionary` nothing but that, `any` otherwise.
        labels: whether its loss may read labels; to every other method they are not shown.
        kind: a `task` is trained; a `study` is run (`pretask study`), its path is `module:function`.
    """

    slug: str
    title: str
    modality: Modality
    path: str
    paper: str
    hides: str
    asks: str
    encoder: str = "resnet18"
    needs: Literal["any", "patches", "bare", "crate", "hiera", "denoiser", "dictionary"] = "any"
    labels: bool = False
    kind: Literal["task", "study"] = "task"
