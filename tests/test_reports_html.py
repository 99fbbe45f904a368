"""The pages: complete, self-contained, safe against hostile names, and honest about what is missing."""

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml

from pretask.api import report
from pretask.errors import PretaskError
from pretask.reports.html import write_compare_report, write_run_report
from pretask.reports.map import write_features
from pretask.reports.sheet import render
from pretask.task import Panel, Sheet

HOSTILE = "<script>alert('x')</script>\"&.jpg"
VOID = {"meta", "link", "img", "input", "br", "hr", "line", "path", "circle", "rect"}


def pictures(number: int = 60, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Real digits at random places on a faint gradient, in colour."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(0)
    canvas = np.tile(np.linspace(0.1, 0.5, side, dtype=np.float32), (number, 3, side, 1))
    for i in range(number):
        big = np.kron(digits.images[i] / 16, np.ones((2, 2)))
        top, left = random.integers(0, side - 16, 2)
        place = canvas[i, :, top : top + 16, left : left + 16]
        place += (big * random.uniform(0.4, 1, (3, 1, 1)) - place * (big > 0)).astype(np.float32)
    return torch.from_numpy(canvas).clamp(0, 1), torch.from_numpy(digits.target[:number])


def score(arm: str, protocol: str, value: float, half: float | None = 0.03, metric: str = "accuracy") -> dict:
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"arm": arm, "protocol": protocol, "metric": metric, "value": value, "low": low, "high": high,
            "n": 360, "detail": {"chance": 0.11} if metric == "accuracy" else {}}  # fmt: skip


SCORES = [
    score("encoder", "linear", 0.71), score("random:vit", "linear", 0.31), score("pixels", "linear", 0.44),
    score("encoder", "knn", 0.62), score("random:vit", "knn", 0.24), score("pixels", "knn", 0.35),
    score("encoder", "rankme", 48.2, None, "rank"), score("random:vit", "rankme", 11.0, None, "rank"),
    score("encoder", "uniformity", -2.31, None, "uniformity"),
]  # fmt: skip


def write_metrics(folder, steps: int = 200, end: float = 0.4, speed: float = 40, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    with (folder / "metrics.csv").open("w", newline="") as file:
        columns = ["step", "epoch", "lr", "weight_decay", "loss/rotation", "loss/total", "metric/accuracy",
                   "watch/feature_std", "watch/rankme", "seconds/data", "seconds/compute",
                   "samples_per_second"]  # fmt: skip
        rows = csv.DictWriter(file, columns)
        rows.writeheader()
        for step in range(0, steps * 10, 10):
            loss = end + (1.386 - end) * np.exp(-step / (speed * 10)) + random.normal(0, 0.04)
            row = dict.fromkeys(columns, "")
            row |= {"step": step, "epoch": step / 100, "lr": 1e-3 * np.sin(np.pi * (step + 1) / steps / 10),
                    "weight_decay": 0.05, "loss/rotation": loss, "loss/total": loss,
                    "metric/accuracy": 1 - loss / 1.9 + random.normal(0, 0.02),
                    "seconds/data": 0.01,
                    "seconds/compute": 0.05, "samples_per_second": 2000 + 100 * random.random()}  # fmt: skip
            if step % 100 == 0:
                row |= {"watch/feature_std": 0.06 + 0.0001 * step, "watch/rankme": 8 + step / 60}
            rows.writerow(row)


def make_run(folder, slug: str = "rotation", number: int = 60, scores=SCORES, seed: int = 0, **metrics):
    """A run folder as a training leaves it behind, small."""
    (folder / "preview").mkdir(parents=True)
    config = {
        "task": slug, "options": {"crop_scale": [0.25, 1.0], "jitter": 0.4},
        "encoder": {"name": "resnet18", "in_chans": 3, "image_size": 32, "patch_size": None, "pool": None},
        "data": {"source": "digits-on-textures", "samples": 1437, "classes": ["a", "b"]},
        "chance": {"rotation": 1.3863},
        "plan": {"optimizer": "sgd", "lr": 0.05, "epochs": 20, "batch_size": 64}, "seed": seed, "pretask": "0.1.0",
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_metrics(folder, seed=seed, **metrics)
    (folder / "evaluation.json").write_text(json.dumps(scores))
    environment = {"python": "3.11.9", "machine": {"cpu": 2}, "packages": {"torch": "2.9.0"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "skipped.csv").write_text(
        f'path,reason\n"{HOSTILE.replace(chr(34), chr(34) * 2)}",truncated file\n'
    )
    (folder / "encoder.safetensors").write_bytes(b"")
    images, labels = pictures(number)
    rows = [
        [Panel("what it sees", picture.rot90(k % 4, (1, 2))), Panel("turned by 90°", picture, "truth"),
         Panel("answer", picture.rot90(int(k > 2), (1, 2)), "answer")]
        for k, picture in enumerate(images[:6])
    ]  # fmt: skip
    for step in (0, 500, 2000):
        sheet = Sheet("Rotation prediction", "By which right angle was the picture turned?", rows)
        render(sheet, answers=step > 0).save(folder / "preview" / f"step-{step:06d}.png")
    x = torch.randn(number, 16, generator=torch.Generator().manual_seed(seed)) * 0.5
    x[:, :10] += 2 * torch.nn.functional.one_hot(labels, 10)
    write_features(folder, x, labels, images, [f"digit {k}" for k in range(10)])
    return folder


class Balance(HTMLParser):
    """Every tag that is opened is closed, in order; what would be loaded from elsewhere is noted."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [
            v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("data:", "#"))
        ]

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def whole(page: str) -> Balance:
    found = Balance(page)
    assert not found.wrong and not found.open and not found.loaded, "balanced, and nothing from elsewhere"
    return found


def test_a_run_reads_in_words_with_its_numbers(tmp_path):
    page = whole(write_run_report(make_run(tmp_path / "run")).read_text()).text
    for words in (
        "Rotation prediction",
        "71.0 %",
        "31.0 %",
        "44.0 %",
        "Raw pixels",
        "Untrained network",
        "1,437",
    ):
        assert words in page, words
    assert "chance 1.39" in page or "1.39" in page
    assert "truncated file" in page and "torch" in page


def test_hostile_names_stay_names(tmp_path):
    raw = write_run_report(make_run(tmp_path / "run")).read_text()
    assert "<script>alert" not in raw and "alert('x')" in whole(raw).text


@pytest.mark.parametrize(
    "missing",
    ["metrics.csv", "evaluation.json", "environment.json", "skipped.csv", "report/features.safetensors"],
)
def test_what_is_missing_or_broken_is_said_and_the_rest_shown(tmp_path, missing):
    folder = make_run(tmp_path / "run")
    (folder / missing).unlink()
    assert "Rotation prediction" in whole(write_run_report(folder).read_text()).text
    (folder / missing).write_bytes(b"\xff\xfe{ not what it should be")
    assert "Rotation prediction" in whole(write_run_report(folder).read_text()).text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(PretaskError, match="no run folder"):
        write_run_report(tmp_path)
    (tmp_path / "config.yaml").write_text("- just\n- a list\n")
    with pytest.raises(PretaskError, match="holds no settings"):
        write_run_report(tmp_path)


def test_the_best_of_three_runs_is_named_with_how_sure_that_is(tmp_path):
    worse = [score("encoder", "linear", 0.52), score("pixels", "linear", 0.44)]
    folders = [
        make_run(tmp_path / "good", number=20),
        make_run(tmp_path / "middling", "simclr", number=20, scores=worse, seed=1),
        make_run(tmp_path / "poor", "mae", number=20, scores=[score("encoder", "linear", 0.30)], seed=2),
    ]
    page = whole(write_compare_report(tmp_path / "all.html", None, folders).read_text()).text
    assert "Rotation prediction is best" in page and "as good as certain" in page
    assert page.index("71.0 %") < page.index("52.0 %") < page.index("30.0 %")


def test_a_loss_that_did_not_fall_is_not_called_success(tmp_path):
    folder = make_run(tmp_path / "run", scores=[], end=1.386)
    assert "rests at its chance level" in whole(write_run_report(folder).read_text()).text


def test_one_run_goes_where_it_is_asked_to_go(tmp_path):
    page = report([make_run(tmp_path / "run", number=20)], tmp_path / "else" / "page.html")
    assert page == tmp_path / "else" / "page.html" and "Did it work?" in page.read_text()
    assert not (tmp_path / "run" / "report.html").exists()


def test_raw_data_are_a_baseline_and_not_the_run(tmp_path):
    scores = [score("encoder", "linear", 0.5), score("random:gcn", "linear", 0.2), score("raw", "linear", 0.9)]
    page = whole(write_run_report(make_run(tmp_path / "run", number=20, scores=scores)).read_text()).text
    assert "but raw data are still better" in page and "clearly worse" in page
