"""`pretask demo`: the whole way on real pictures that ship inside the dependencies, in a few minutes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pretask.data import Dataset, open_data
from pretask.encoders import Encoder
from pretask.errors import UsageError
from pretask.evaluation.protocols import evaluate, test_part
from pretask.pretrain import draw_sheet, make_encoder, train
from pretask.reports.html import write_compare_report, write_run_report

DATA = "digits-on-textures"
PROTOCOLS = ("knn", "linear")


class Part(NamedTuple):
    """One method of the demo: its encoder, how long it trains, how fast, and what it is told."""

    encoder: str
    steps: int
    batch_size: int
    lr: float | str
    options: dict[str, Any]


PARTS = {
    "rotation": Part(
        "resnet10t:stem_width=16,channels=[32,64,128,256]", 800, 64, 0.1, {"crop_scale": (0.6, 1.0)}
    ),
    "mae": Part("vit_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4", 300, 128, "auto", {}),
}


def run(out: str | Path = "demo", *, overwrite: bool = False, seed: int = 0) -> dict[str, Any]:
    """Train two methods of different families and measure them beside raw pixels and untrained networks.

    Args:
        out: a folder for the runs, the page and the contact sheet.
        overwrite: delete an earlier demo there first.
        seed: of weights, batches and pretexts.

    Returns:
        `scores` (all that was measured), a `summary` in a sentence, and the paths of `report` and `sheet`.

    Raises:
        UsageError: the folder is used and `overwrite` was not asked, or it holds something else.
    """
    folder = Path(out)
    clear(folder, overwrite)
    dataset = open_data(DATA)
    parts = test_part(dataset, seed)
    scores = measured("pixels", make_encoder("raw", dataset), parts, seed)
    for slug, part in PARTS.items():
        trained = train(
            slug, DATA, part.encoder, folder / slug, options=part.options, max_steps=part.steps,
            batch_size=part.batch_size, lr=part.lr, seed=seed, evaluate=False,
        )  # fmt: skip
        untrained = make_encoder(part.encoder, dataset, seed=seed)
        own = measured(slug, trained.load_encoder(), parts, seed)
        baseline = measured(f"random:{part.encoder.partition(':')[0]}", untrained, parts, seed)
        trained.add_scores([{**score, "arm": "encoder"} for score in own] + baseline + scores[: len(own)])
        write_run_report(trained.folder)
        scores += own + baseline
    sheet = folder / "sheet.png"
    task = trained.load_task()
    rows = torch.linspace(0, len(parts[1]) - 1, 8).long()
    draw_sheet(task, parts[1].batch(rows), torch.device("cpu"), answers=True, seed=seed).save(sheet)
    report = write_compare_report(folder / "report.html", scores, [folder / slug for slug in PARTS])
    return {"scores": scores, "summary": summary(scores), "report": str(report), "sheet": str(sheet)}


def clear(folder: Path, overwrite: bool) -> None:
    """Make room for a demo, without deleting anything that is not one.

    Raises:
        UsageError: the folder is used.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not all((folder / slug / "config.yaml").is_file() for slug in PARTS if (folder / slug).exists()):
        raise UsageError(f"'{folder}' is not empty and holds no demo: choose another --out")
    if not overwrite:
        raise UsageError(f"'{folder}' holds a demo: use --overwrite, or choose another --out")
    for slug in PARTS:
        shutil.rmtree(folder / slug, ignore_errors=True)


def measured(arm: str, encoder: Encoder, parts: tuple[Dataset, Dataset], seed: int) -> list[dict[str, Any]]:
    found = evaluate(encoder, parts[0], parts[1], PROTOCOLS, seed)
    return [{**score.to_dict(), "arm": arm, "data": DATA} for score in found]


def summary(scores: list[dict[str, Any]]) -> str:
    """What the run measured, in a sentence."""
    linear = {s["arm"]: s["value"] for s in scores if s["protocol"] == "linear" and s["metric"] == "accuracy"}
    best = max(PARTS, key=lambda slug: linear[slug])
    name = PARTS[best].encoder.partition(":")[0]
    untrained, pixels = linear[f"random:{name}"], linear["pixels"]
    return (
        f"{best} is best: a linear probe reads {linear[best]:.1%} of the digits from its features, "
        f"{untrained:.1%} from the same network untrained and {pixels:.1%} from pixels."
    )
