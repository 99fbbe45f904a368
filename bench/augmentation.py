"""Random views of pictures: two of SimCLR's at 32 and 224 pixels, DINO's eight, MAE's one.

At 224 pixels everyone starts from JPEG files; all end with a normalised batch. Each pipeline has its own
recipe for the same paper; SimCLR's are the same to the number, which a statistical test shows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from bench.harness import Row, against, alternate, find
from bench.pictures import cuts, jpegs, tensors
from pretask.data.decode import void
from pretask.data.images import CANVAS
from pretask.data.pictures import Canvas
from pretask.encoders.image import IMAGENET_MEAN, IMAGENET_STD
from pretask.pretexts.views import View, ViewSpec, apply_view, dino_views, draw_view, mae_view, simclr_views

Views = Callable[[], Any]
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
SIGNIFICANT = 1e-3  # a smaller p-value says that distributions differ; there are about 20 tests


def ours(specs: list[ViewSpec], images: Callable[[], tuple[Tensor, Tensor | None]]) -> Views:
    """Views as the tasks make them: what has the same recipe in one go."""
    generator = torch.Generator().manual_seed(0)

    def run() -> list[Tensor]:
        image, size = images()
        out = []
        for spec in dict.fromkeys(specs):
            times = specs.count(spec)
            drawn = [draw_view(spec, len(image), generator, size) for _ in range(times)]
            out.append(apply_view(spec, image, View.joined(drawn)).sub_(MEAN).div_(STD))
        return out

    return run


def decoded(files: list[bytes], side: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """What our readers make of files: pictures on a canvas, and their true sizes."""
    canvas = Canvas(round(CANVAS * side / 4) * 4, 3)

    def read() -> tuple[Tensor, Tensor]:
        columns = void(len(files), canvas)
        image, size = (columns[name].numpy() for name in ("image", "size"))
        for place, file in enumerate(files):
            image[place], size[place] = canvas.decode(file)
        return columns["image"], columns["size"]

    return read


def stacked(transform: Callable[[Any], Any], pictures: Callable[[], Iterable[Any]]) -> Views:
    """One picture after the other, as the peers' data sets and loaders do it."""

    def run() -> list[Tensor]:
        views = [transform(picture) for picture in pictures()]
        return [torch.stack(same) for same in zip(*views, strict=True)]

    return run


def open_all(files: list[bytes]) -> Callable[[], Iterable[Image.Image]]:
    return lambda: (Image.open(io.BytesIO(file)).convert("RGB") for file in files)


def decode_all(files: list[bytes]) -> Callable[[], Iterable[Tensor]]:
    """By torchvision, faster than Pillow."""
    from torchvision.io import decode_jpeg

    raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    return lambda: map(decode_jpeg, raw)


def lightly(name: str, pictures: Callable[[], Iterable[Any]], **options: Any) -> Callable[[], Views]:
    def make() -> Views:
        import lightly.transforms

        return stacked(getattr(lightly.transforms, name)(**options), pictures)

    return make


def lightly_train(method: str, files: list[bytes], **options: Any) -> Callable[[], Views]:
    """OpenCV's kernels on arrays."""

    def make() -> Views:
        import importlib

        module = importlib.import_module(
            f"lightly_train._methods.{method.lower()}.{method.lower()}_transform"
        )
        arguments = getattr(module, f"{method}TransformArgs")(**options)
        arguments.resolve_auto() if hasattr(arguments, "resolve_auto") else None
        transform = getattr(module, f"{method}Transform")(arguments)
        arrays = decode_all(files)
        return stacked(
            lambda array: [view["image"] for view in transform({"image": array.permute(1, 2, 0).numpy()})],
            arrays,
        )

    return make


def kornia_simclr(
    size: int, images: Callable[[], Tensor], strength: float, blur: bool
) -> Callable[[], Views]:
    """A batch at a time."""

    def make() -> Views:
        import kornia.augmentation as K

        s = strength
        chain: list[Any] = [
            K.RandomResizedCrop((size, size), (0.08, 1.0)), K.RandomHorizontalFlip(),
            K.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, p=0.8), K.RandomGrayscale(p=0.2),
        ]  # fmt: skip
        if blur:
            taps = size // 10 // 2 * 2 + 1
            chain.append(K.RandomGaussianBlur((taps, taps), (0.1, 2.0), p=0.5))
        chain.append(K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)))
        augment = K.AugmentationSequential(*chain)
        return lambda: [augment(images().float().div_(255)) for _ in range(2)]

    return make


def torchvision_simclr(size: int, pictures: Callable[[], Iterable[Any]], s: float, blur: bool):
    """torchvision's own transforms on bytes."""

    def make() -> Views:
        from torchvision.transforms import v2

        chain: list[Any] = [
            v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True), v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], 0.8), v2.RandomGrayscale(0.2),
        ]  # fmt: skip
        if blur:
            chain.append(v2.RandomApply([v2.GaussianBlur(size // 10 // 2 * 2 + 1, (0.1, 2.0))], 0.5))
        chain += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        view = v2.Compose(chain)
        return stacked(lambda picture: [view(picture), view(picture)], pictures)

    return make


# ---- the same distribution


def same_distribution(count: int) -> str:
    """That views are drawn as torchvision draws them and look like lightly's; for a row's note.

    Raises:
        AssertionError: some distribution differs.
    """
    tests = {**drawn_alike(count), **(looking_alike(count) if find({"": lightly_views})[0] else {})}
    worst = min(tests, key=lambda name: tests[name])
    assert tests[worst] > SIGNIFICANT, f"{worst} differ: p = {tests[worst]:.2g}"
    return f"{len(tests)} tests of equal distributions, the least p-value {tests[worst]:.2g} ({worst})"


def drawn_alike(count: int) -> dict[str, float]:
    """p-values of two-sample tests of what is drawn, against torchvision's own draws."""
    from torchvision.transforms import ColorJitter, RandomResizedCrop

    height, width = 375, 500
    spec = simclr_views(224)
    view = draw_view(spec, count, torch.Generator().manual_seed(1), torch.tensor([[height, width]] * count))
    torch.manual_seed(1)
    blank = torch.empty(3, height, width)
    boxes = np.array([RandomResizedCrop.get_params(blank, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(count)])
    b, h = spec.brightness, spec.hue
    shades = [
        ColorJitter.get_params((1 - b, 1 + b), (1 - b, 1 + b), (1 - b, 1 + b), (-h, h)) for _ in range(count)
    ]
    x0, y0, x1, y1 = (view.box * torch.tensor([width, height, width, height])).round().T.numpy()
    mine = {"tops": y0, "lefts": x0, "heights": y1 - y0, "widths": x1 - x0}
    found = {name: stats.ks_2samp(mine[name], boxes[:, column]).pvalue for column, name in enumerate(mine)}
    for kind, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        theirs = [shade[kind + 1] for shade in shades]
        found[name] = stats.ks_2samp(view.factors[:, kind].numpy(), theirs).pvalue
        places = [
            (view.order == kind).nonzero()[:, 1],
            torch.stack([(s[0] == kind).nonzero()[0, 0] for s in shades]),
        ]
        table = np.stack([torch.bincount(place, minlength=4).numpy() for place in places])
        found[f"the place of {name}"] = stats.chi2_contingency(table).pvalue
    for name, coin, share in (
        ("flips", view.flip, 0.5), ("jitters", view.jitter, 0.8), ("greys", view.grey, 0.2),
        ("blurs", view.blur, 0.5),
    ):  # fmt: skip
        found[name] = stats.binomtest(int(coin.sum()), count, share).pvalue
    found["sigmas"] = stats.kstest(view.sigma.numpy(), stats.uniform(0.1, 1.9).cdf).pvalue
    return found


def lightly_views() -> Callable[[Any], list[Tensor]]:
    from lightly.transforms import SimCLRTransform

    return SimCLRTransform(32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)


def looking_alike(count: int) -> dict[str, float]:
    """p-values of two-sample tests of what views look like, against lightly's pipeline."""
    picture = cuts(1, 32, 32)[0]
    torch.manual_seed(2)
    transform = lightly_views()
    theirs = torch.stack([transform(picture)[0] for _ in range(count)])
    spec = simclr_views(32)
    image = tensors([picture]).expand(count, -1, -1, -1)
    mine = apply_view(spec, image, draw_view(spec, count, torch.Generator().manual_seed(2)))
    measures = {
        "mean reds": lambda x: x[:, 0].mean((1, 2)),
        "mean blues": lambda x: x[:, 2].mean((1, 2)),
        "contrasts": lambda x: x.std((1, 2, 3)),
        "colourfulness": lambda x: (x.amax(1) - x.amin(1)).mean((1, 2)),
        "slopes": lambda x: x.diff(dim=3).mean((1, 2, 3)),
        "details": lambda x: x.diff(dim=3).abs().mean((1, 2, 3)),
    }
    # half precision of bytes: lightly's pixels are multiples of 1/255
    return {
        name: stats.ks_2samp(*(measure(x.mul(255).round().div(255)).numpy() for x in (mine, theirs))).pvalue
        for name, measure in measures.items()
    }


# ---- the measurement


def measure(toy: bool = False) -> list[Row]:
    rounds, least = (1, 0.0) if toy else (5, 0.5)
    rows = []

    def compare(
        name: str, mine: Views, peers: dict[str, Callable[[], Views]], target: float, note: str
    ) -> None:
        found, missing = find(peers)
        taken = alternate({"ours": mine, **found}, rounds, least, 1)
        rows.append(against(name, taken, {}, target, "; ".join(filter(None, (note, missing)))))

    small = cuts(8 if toy else 256, 32, 32)
    bytes_ = tensors(small)
    compare(
        f"SimCLR, two views of {len(small)} decoded pictures, 32 px",
        ours([simclr_views(32)] * 2, lambda: (bytes_, None)),
        {
            "kornia, a batch at once": kornia_simclr(32, lambda: bytes_, 0.5, False),
            "lightly": lightly("SimCLRTransform", lambda: small, input_size=32, cj_strength=0.5, gaussian_blur=0.0),
            "torchvision, v2 on bytes": torchvision_simclr(32, lambda: bytes_, 0.5, False),
        },
        0.75, same_distribution(300 if toy else 4000),
    )  # fmt: skip
    side = 64 if toy else 224
    files = jpegs(2 if toy else 64)
    read, opened = decoded(files, side), open_all(files)
    kept = read()
    simclr = [simclr_views(side)] * 2
    peers = {
        "lightly-train, OpenCV": lightly_train("SimCLR", files, image_size=(side, side)),
        "lightly": lightly("SimCLRTransform", opened, input_size=side),
        "torchvision, v2 on bytes": torchvision_simclr(side, decode_all(files), 1.0, True),
    }
    name = f"SimCLR, two views of {len(files)} JPEG files, 224 px"
    compare(name, ours(simclr, read), peers, 0.85, "decoding included")
    later = {"lightly-train, OpenCV": peers["lightly-train, OpenCV"]}
    note = "ours were decoded in the first pass and kept, peers decode again"
    compare(f"{name}, from the second pass on", ours(simclr, lambda: kept), later, 0.85, note)
    first, second, local = dino_views(side, side * 3 // 7)
    compare(
        f"DINO, 2 + 6 views of {len(files)} JPEG files, 224 px",
        ours([first, second, *[local] * 6], read),
        {
            "lightly-train, OpenCV": lightly_train("DINO", files, image_size=(side, side)),
            "lightly": lightly("DINOTransform", opened, global_crop_size=side, local_crop_size=side * 3 // 7),
        },
        0.85, "decoding included",
    )  # fmt: skip
    compare(
        f"MAE, one view of {len(files)} JPEG files, 224 px",
        ours([mae_view(side)], read),
        {"lightly": lightly("MAETransform", opened, input_size=side)},
        0.85, "decoding included",
    )  # fmt: skip
    return rows
