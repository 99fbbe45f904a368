"""What methods for pictures are made of, one record each: the branches and properties of Ozbulak et al. (Know Your
Self-supervised Learning, TMLR 2023). Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pretask.errors import UsageError

Branch = Literal[
    "handcrafted", "clustering", "contrastive", "distillation", "information", "masked, pixels", "masked, tokens",
    "masked, features", "language",
]  # fmt: skip


class Record(NamedTuple):
    """A method's place in the taxonomy.

    Args:
        slug: its name in the catalogue.
        branch: of the taxonomy.
        year: of the paper.
        target: what is predicted or matched.
        negatives: what is told apart: none, batch, queue or bank.
        asymmetry: between the branches that see a picture: none, or of stop-gradient, EMA and predictor those it has.
        masking: share of a picture that is hidden.
        views: of each picture in a step.
        loss: its name.
        trunk: what the paper trains.
        figure: the paper's own top-1 accuracy on ImageNet in percent, and how it was measured.
    """

    slug: str
    branch: Branch
    year: int
    target: str
    negatives: str
    asymmetry: str
    masking: float
    views: str
    loss: str
    trunk: str
    figure: str


RECORDS = tuple(
    Record(*row)
    for row in (
        ("relative-location", "handcrafted", 2015, "which of eight places", "none", "none", 0, "2 patches",
         "cross-entropy", "AlexNet, VGG", "51.4 linear (Kolesnikov et al.)"),
        ("inpainting", "handcrafted", 2016, "the missing square", "none", "none", 0.25, "1",
         "squared error, adversarial", "AlexNet", ""),
        ("jigsaw", "handcrafted", 2016, "which permutation", "none", "none", 0, "9 patches",
         "cross-entropy", "AlexNet", "45.7 linear (ResNet-50)"),
        ("colorization", "handcrafted", 2016, "colours", "none", "none", 0.67, "1", "cross-entropy", "VGG",
         "39.6 linear (ResNet-50)"),
        ("exemplar", "handcrafted", 2014, "which copies belong together", "batch", "none", 0, "8",
         "triplets", "AlexNet", "46.0 linear (Kolesnikov et al.)"),
        ("rotation", "handcrafted", 2018, "which right angle", "none", "none", 0, "4", "cross-entropy",
         "AlexNet", "55.4 linear (Kolesnikov et al.)"),
        ("jigclu", "handcrafted", 2021, "which pieces belong together, where", "batch", "none", 0,
         "montages", "supervised contrast, cross-entropy", "ResNet-50", "66.4 linear"),
        ("deepcluster-v2", "clustering", 2020, "clusters of the last epoch", "none", "none", 0,
         "2 and small crops", "cross-entropy", "ResNet-50", "75.2 linear"),
        ("swav", "clustering", 2020, "balanced codes of another view", "none", "stop-gradient", 0,
         "2 and small crops", "cross-entropy", "ResNet-50", "75.3 linear"),
        ("instdisc", "contrastive", 2018, "which picture of all", "bank", "none", 0, "1", "NCE",
         "ResNet-50", "54.0 linear"),
        ("cpc", "contrastive", 2019, "which rows lie below", "batch", "none", 0, "patches", "InfoNCE",
         "ResNet-161", "63.8 linear (ResNet-50)"),
        ("pirl", "contrastive", 2020, "which picture of all, shuffled", "bank", "none", 0,
         "1 and 9 patches", "NCE", "ResNet-50", "63.6 linear"),
        ("moco", "contrastive", 2020, "which key", "queue", "stop-gradient, EMA", 0, "2", "InfoNCE",
         "ResNet-50", "71.1 linear"),
        ("moco-v3", "contrastive", 2021, "which key", "batch", "stop-gradient, EMA, predictor", 0, "2",
         "InfoNCE", "ViT", "76.7 linear (ViT-B)"),
        ("simclr", "contrastive", 2020, "which view", "batch", "none", 0, "2", "InfoNCE", "ResNet-50",
         "69.3 linear"),
        ("nnclr", "contrastive", 2021, "the neighbour's view", "batch", "stop-gradient, predictor", 0, "2",
         "InfoNCE", "ResNet-50", "75.4 linear"),
        ("byol", "distillation", 2020, "a teacher's projection", "none", "stop-gradient, EMA, predictor", 0,
         "2", "cosine", "ResNet-50", "74.3 linear"),
        ("simsiam", "distillation", 2021, "the other view's projection", "none", "stop-gradient, predictor",
         0, "2", "cosine", "ResNet-50", "71.3 linear"),
        ("dino", "distillation", 2021, "a teacher's prototypes", "none", "stop-gradient, EMA", 0,
         "2 and small crops", "cross-entropy", "ViT", "78.2 linear (ViT-B)"),
        ("ibot", "distillation", 2022, "a teacher's prototypes, of patches too", "none",
         "stop-gradient, EMA", 0.3, "2 and small crops", "cross-entropy", "ViT", "79.5 linear (ViT-B)"),
        ("barlow-twins", "information", 2021, "another view, nothing twice", "none", "none", 0, "2",
         "cross-correlation", "ResNet-50", "73.2 linear"),
        ("vicreg", "information", 2022, "another view, varied, nothing twice", "none", "none", 0, "2",
         "variance, invariance, covariance", "ResNet-50", "73.2 linear"),
        ("w-mse", "information", 2021, "another view, whitened", "none", "none", 0, "2", "cosine", "ResNet-18", ""),
        ("mae", "masked, pixels", 2022, "pixels of hidden patches", "none", "none", 0.75, "1",
         "squared error", "ViT", "83.6 fine-tuned (ViT-B)"),
        ("simmim", "masked, pixels", 2022, "pixels of hidden patches", "none", "none", 0.6, "1",
         "absolute error", "ViT, Swin", "83.8 fine-tuned (ViT-B)"),
        ("gmml", "masked, pixels", 2021, "the picture under noise and foreign blocks", "none", "none", 0.5,
         "1", "absolute error", "ViT", ""),
        ("hiera", "masked, pixels", 2023, "pixels of hidden units", "none", "none", 0.6, "1",
         "squared error", "Hiera", "84.5 fine-tuned (B)"),
        ("beit", "masked, tokens", 2022, "codes of hidden patches", "none", "none", 0.4, "1",
         "cross-entropy", "ViT", "83.2 fine-tuned (ViT-B)"),
        ("maskfeat", "masked, features", 2022, "gradient histograms of hidden patches", "none", "none", 0.4, "1",
         "squared error", "ViT", "84.0 fine-tuned (ViT-B)"),
        ("eva", "masked, features", 2023, "features of a frozen network", "none", "none", 0.4, "1",
         "cosine", "ViT", ""),
        ("data2vec", "masked, features", 2022, "a teacher's features of hidden patches", "none",
         "stop-gradient, EMA", 0.6, "1", "smooth absolute error", "ViT", "84.2 fine-tuned (ViT-B)"),
        ("clip", "language", 2021, "which caption", "batch", "none", 0, "1", "InfoNCE", "ResNet, ViT", ""),
    )
)  # fmt: skip


def select(conditions: Sequence[str], records: Sequence[Record] = RECORDS) -> list[Record]:
    """The records that satisfy all conditions: `branch=distillation`, `asymmetry!=EMA`, `year>2020`, `masking<0.5`.

    `=` and `!=` look for the words anywhere in an entry, whatever their case.

    Raises:
        UsageError: a condition that is none, or of no column.
    """
    found = list(records)
    for condition in conditions:
        sign = next((one for one in ("!=", ">", "<", "=") if one in condition), None)
        name, _, wanted = condition.partition(sign) if sign else (condition, "", "")
        name, wanted = name.strip(), wanted.strip()
        if sign is None or name not in Record._fields:
            raise UsageError(
                f"'{condition}' is no condition: COLUMN=WORDS, with !=, > and <, and a column of "
                + ", ".join(Record._fields)
            )
        found = [record for record in found if holds(getattr(record, name), sign, wanted, condition)]
    return found


def holds(value: object, sign: str, wanted: str, condition: str) -> bool:
    """
    Raises:
        UsageError: words are to be more or less than something.
    """
    if sign in ("=", "!="):
        inside = (
            str(value) == wanted if isinstance(value, (int, float)) else wanted.lower() in str(value).lower()
        )
        return inside == (sign == "=")
    try:
        number, limit = float(value), float(wanted)  # type: ignore[arg-type]
    except ValueError:
        raise UsageError(f"'{condition}': only numbers can be compared, those of year and masking") from None
    return number > limit if sign == ">" else number < limit
