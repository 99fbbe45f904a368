"""Every method, one row each. Importing this module imports neither torch nor any method."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

from pretask.errors import UsageError

Modality = Literal[
    "image", "video", "audio", "text", "graph", "points", "volume", "pose", "track", "multimodal", "any"
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
        needs: `patches` where only a vision transformer fits, `any` otherwise.
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
    needs: Literal["any", "patches"] = "any"
    labels: bool = False
    kind: Literal["task", "study"] = "task"


VIT = "vit_tiny_patch16_224"

ROWS: tuple[Row, ...] = (
    Row(
        "rotation",
        "Rotation prediction",
        "image",
        "pretask.methods.image.rotation:Rotation",
        "Unsupervised Representation Learning by Predicting Image Rotations (Gidaris et al., ICLR 2018), "
        "as set up in Revisiting Self-Supervised Visual Representation Learning (Kolesnikov et al., 2019)",
        "which way is up",
        "by which of four right angles was the picture turned?",
    ),
    Row(
        "simclr",
        "SimCLR",
        "image",
        "pretask.methods.image.simclr:SimCLR",
        "A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., ICML 2020)",
        "place, size and colours of a crop",
        "which two of the batch's crops come from one picture?",
    ),
    Row(
        "mae",
        "Masked autoencoder",
        "image",
        "pretask.methods.image.mae:MAE",
        "Masked Autoencoders Are Scalable Vision Learners (He et al., CVPR 2022)",
        "three quarters of the patches",
        "which pixels were in the hidden patches?",
        VIT,
        "patches",
    ),
    Row(
        "colorization",
        "Colorful image colorization",
        "image",
        "pretask.methods.image.colorization:Colorization",
        "Colorful Image Colorization (Zhang, Isola, Efros, ECCV 2016)",
        "the colour of a picture",
        "which of 261 colours, or what mixture of them, has each place of this grey picture?",
    ),
    Row(
        "dino",
        "DINO",
        "image",
        "pretask.methods.image.dino:DINO",
        "Emerging Properties in Self-Supervised Vision Transformers (Caron et al., ICCV 2021)",
        "all of a picture but a crop",
        "what does a slowly following copy of the network say of another crop?",
        VIT,
    ),
    Row(
        "ibot",
        "iBOT",
        "image",
        "pretask.methods.image.ibot:IBOT",
        "iBOT: Image BERT Pre-Training with Online Tokenizer (Zhou et al., ICLR 2022)",
        "blocks of patches, and all of a picture but a crop",
        "what does a slowly following copy of the network say of the hidden patches and of another crop?",
        VIT,
        "patches",
    ),
    Row(
        "pirl",
        "PIRL",
        "image",
        "pretask.methods.image.pirl:PIRL",
        "Self-Supervised Learning of Pretext-Invariant Representations (Misra & van der Maaten, CVPR 2020)",
        "the order of nine patches, or which way is up",
        "which picture of all is it whose patches were shuffled?",
    ),
    Row(
        "power-of-foundation-models",
        "The power of foundation models",
        "any",
        "pretask.studies.foundation:study",
        "On the Power of Foundation Models (Yuan, ICML 2023)",
        "nothing: data are known by their relations to each other",
        "which tasks can a perfect model of these relations solve by a prompt, which with a head, and what "
        "can it create?",
        encoder="none",
        kind="study",
    ),
)

BY_SLUG = {row.slug: row for row in ROWS}
TASKS = tuple(row for row in ROWS if row.kind == "task")


def find(slug: str, kind: Literal["task", "study", "any"] = "task") -> Row:
    """The row of a slug.

    Raises:
        UsageError: no such method (the message names the nearest), or it is of the other kind.
    """
    row = BY_SLUG.get(slug)
    if row is None:
        near = get_close_matches(slug, BY_SLUG, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`pretask list` shows all methods"
        raise UsageError(f"there is no method '{slug}': {hint}")
    if kind == "task" and row.kind == "study":
        raise UsageError(f"{slug} is a study, there is nothing to train: run `pretask study {slug}`")
    if kind == "study" and row.kind == "task":
        raise UsageError(f"{slug} is a pretext task, no study: run `pretask train {slug}`")
    return row


def markdown() -> str:
    """The methods as a table for the README."""
    lines = ["| method | learns from | hides | asks |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        link = f"[`{row.slug}`](src/{file_of(row)})"
        lines.append(f"| {link} {row.paper} | {row.modality} | {row.hides} | {row.asks} |")
    return "\n".join(lines)


def file_of(row: Row) -> str:
    """The method's file below `src`."""
    return row.path.partition(":")[0].replace(".", "/") + ".py"


def write_table(path: Path) -> None:
    """Put the table between the two comments of a page."""
    start, end = "<!-- methods -->", "<!-- /methods -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    path.write_text(f"{before}{start}\n{markdown()}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path("README.md"))
