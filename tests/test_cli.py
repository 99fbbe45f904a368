"""The commands as a person runs them: one folder of photographs, from a look at it to an exported encoder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import pretask
from pretask import catalog
from pretask.cli import main
from pretask.errors import UsageError
from pretask.run import Run

TINY = "resnet10t:stem_width=8,channels=[16,32,48,64]"
SMALL = ("--encoder", TINY, "--image-size", "32", "--max-steps", "4", "--batch-size", "8")


def run(capsys, *arguments: str) -> str:
    """What a command prints; it must succeed."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert left.value.code in (0, None), capsys.readouterr().err
    return capsys.readouterr().out


def fails(capsys, code: int, *arguments: str) -> str:
    """The one line a command complains with."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr().err.strip()
    assert left.value.code == code, printed
    assert "Traceback" not in printed
    return printed


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of photographs in two classes with broken files, and a run on it."""
    from conftest import break_some, photo

    root = tmp_path_factory.mktemp("cli")
    for name in ("left", "right"):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(14):
            picture = Image.fromarray(photo(number + 50 * (name == "left"), (70 + number, 90)))
            picture.save(root / "photos" / name / f"{number}.jpg")
    break_some(root / "photos" / "left")
    with pytest.raises(SystemExit) as left:
        main(["train", "rotation", "--data", str(root / "photos"), "--out", str(root / "run"), *SMALL])
    assert left.value.code in (0, None)
    return root / "photos", root / "run"


def test_listing_imports_no_torch():
    code = (
        "import sys; from pretask.cli import main\n"
        "for command in (['list'], ['show', 'mae'], ['--help'], ['list', '--modality', 'image', '--json']):\n"
        "    try: main(command)\n"
        "    except SystemExit as left: assert not left.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_needs_no_command(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out.strip() == pretask.__version__


def test_list_and_show(capsys):
    rows = json.loads(run(capsys, "list", "--json"))
    assert [row["slug"] for row in rows] == [row.slug for row in catalog.ROWS]
    shown = json.loads(run(capsys, "show", "mae", "--json"))
    ratio = next(option for option in shown["options"] if option["name"] == "mask_ratio")
    assert ratio["default"] == 0.75 and ratio["type"] == "float" and ratio["help"]
    assert "mask_ratio" in run(capsys, "show", "mae")
    assert "simclr" in fails(capsys, 2, "show", "simclrr")
    assert "modality" in fails(capsys, 2, "list", "--modality", "smell")


def test_data_says_what_is_there(capsys, trained):
    facts = json.loads(run(capsys, "data", trained[0], "--json"))
    assert facts["count"] == 28 and facts["modality"] == "image" and facts["broken"] == 4
    assert facts["labels"] == {"left": 14, "right": 14} and len(facts["broken files"]) == 4
    assert "there is no" in fails(capsys, 1, "data", trained[0] / "nowhere")


def test_a_run_folder_is_whole(trained):
    photos, folder = trained
    names = {path.name for path in folder.iterdir()}
    expected = {"config.yaml", "metrics.csv", "encoder.safetensors", "checkpoint", "report.html", "preview"}
    assert expected | {"environment.json", "skipped.csv", "evaluation.json"} <= names
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["task"] == "rotation" and config["data"]["source"] == str(photos)
    assert config["chance"]["rotation"] == pytest.approx(np.log(4))
    arms = {score["arm"] for score in Run(folder).scores}
    assert "encoder" in arms and "pixels" in arms and any(arm.startswith("random:") for arm in arms)
    page = (folder / "report.html").read_text()
    assert "https://" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert "truncated.jpg" in (folder / "skipped.csv").read_text()


def test_a_used_folder_is_refused_and_a_finished_run_resumed_is_left_alone(capsys, trained):
    photos, folder = trained
    again = ("train", "rotation", "--data", photos, "--out", folder, *SMALL)
    assert "--resume" in fails(capsys, 2, *again)
    before = (folder / "encoder.safetensors").read_bytes()
    run(capsys, "train", "--out", folder, "--resume")
    assert (folder / "encoder.safetensors").read_bytes() == before
    assert "rotation" in fails(capsys, 2, "train", "simclr", "--out", folder, "--resume")
    assert "not a run folder" in fails(capsys, 2, "train", "rotation", "--out", photos, "--overwrite", *SMALL)


def test_evaluate(capsys, trained):
    photos, folder = trained
    scores = json.loads(run(capsys, "evaluate", folder, "--protocol", "knn,linear,rankme", "--json"))
    assert {score["protocol"] for score in scores} == {"knn", "linear", "rankme"}
    other = ("--data", photos, "--image-size", "32", "--protocol", "knn", "--json")
    for reference in (f"random:{TINY}", "pixels"):
        assert json.loads(run(capsys, "evaluate", reference, *other))[0]["arm"] == reference
    assert "knn" in fails(capsys, 2, "evaluate", folder, "--protocol", "knnn")
    assert "give --data" in fails(capsys, 2, "evaluate", "pixels")
    assert "does not exist" in fails(capsys, 2, "evaluate", "nowhere", "--data", photos)


def test_unlabelled_data_are_judged_without_labels(capsys, trained, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (trained[0] / "right").glob("*.jpg"):
        (flat / path.name).write_bytes(path.read_bytes())
    scores = json.loads(run(capsys, "evaluate", trained[1], "--data", flat, "--json"))
    assert "rankme" in {score["protocol"] for score in scores} and "knn" not in {
        s["protocol"] for s in scores
    }
    assert "need labels" in fails(capsys, 2, "evaluate", trained[1], "--data", flat, "--protocol", "knn")


def test_embed(capsys, trained, tmp_path):
    run(capsys, "embed", trained[1], "--out", tmp_path / "x.npy")
    vectors = np.load(tmp_path / "x.npy")
    assert vectors.shape == (28, 64)
    run(capsys, "embed", trained[1], "--out", tmp_path / "x.parquet")
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "x.parquet").to_pydict()
    assert np.allclose(parquet["embedding"], vectors) and set(parquet["label"]) == {"left", "right"}
    assert sum("right" in name for name in parquet["name"]) == 14
    assert ".parquet or .npy" in fails(capsys, 2, "embed", trained[1], "--out", tmp_path / "x.csv")


def test_export_gives_timm_the_same_features(capsys, trained, tmp_path):
    run(capsys, "export", trained[1], "--format", "timm", "--out", tmp_path)
    encoder = pretask.load_encoder(trained[1]).eval()
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected, found = encoder(image).pooled, model(encoder.normalise(image))
    assert torch.allclose(expected, found, atol=1e-5)
    assert "rotation" in (tmp_path / "README.md").read_text()


def test_preview_and_shortcuts(capsys, trained, tmp_path):
    photos, folder = trained
    for extra in ((), ("--run", folder)):
        run(
            capsys,
            "preview",
            "rotation",
            "--data",
            photos,
            "--image-size",
            "32",
            "--out",
            tmp_path / "s.png",
            *extra,
        )
        assert min(Image.open(tmp_path / "s.png").size) > 100
    assert "is a run of rotation" in fails(capsys, 2, "preview", "mae", "--run", folder)
    rows = json.loads(run(capsys, "shortcuts", "rotation", "--data", photos, "--image-size", "32", "--json"))
    assert {"statistic", "value", "chance", "verdict"} <= rows[0].keys()


def test_options_are_checked(capsys, trained):
    train = ("train", "rotation", "--data", trained[0], "--out", "never")
    assert "crop_scale" in fails(capsys, 2, *train, "--set", "crop_scal=0.1,1")
    assert "must be" in fails(capsys, 2, *train, "--set", "jitter=much")
    assert "key=value" in fails(capsys, 2, *train, "--set", "jitter")
    assert "timm has" in fails(capsys, 2, *train, "--encoder", "resnet1000")
    assert "patches" in fails(
        capsys, 2, "train", "mae", "--data", trained[0], "--encoder", TINY, "--out", "never"
    )
    assert "did you mean" in fails(capsys, 2, "train", "rotatoin")
    assert "channel" in fails(capsys, 2, *train, "--read", "chanels=3")
    assert not Path("never").exists()


def test_a_configuration_file_and_joined_methods(capsys, trained, tmp_path):
    settings = {
        "method": "rotation+simclr", "encoder": TINY, "image-size": 32, "max_steps": 2, "batch_size": 8,
        "options": {"rotation.jitter": 0.2}, "out": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    run(capsys, "train", "--data", trained[0], "--config", tmp_path / "run.yaml", "--max-steps", "1")
    config = Run(tmp_path / "run").config
    assert config["task"] == "rotation+simclr" and config["plan"]["steps"] == 1
    assert "loss/rotation/rotation" in (tmp_path / "run" / "metrics.csv").read_text()
    (tmp_path / "bad.yaml").write_text("epohcs: 3\n")
    assert "epohcs" in fails(capsys, 2, "train", "rotation", "--config", tmp_path / "bad.yaml")


def test_compare_is_fair_and_goes_on_where_it_stopped(capsys, trained, tmp_path):
    command = (
        "compare",
        "rotation",
        "simclr",
        "--data",
        trained[0],
        *SMALL,
        "--seeds",
        "2",
        "--out",
        tmp_path,
    )
    board = json.loads(run(capsys, *command, "--json"))
    assert {row["arm"] for row in board["rows"]} == {"rotation", "simclr", "random", "pixels"}
    knn = [row for row in board["rows"] if row["protocol"] == "knn" and row["metric"] == "accuracy"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in knn)
    assert {row["seeds"] for row in knn if row["arm"] != "pixels"} == {2}
    plans = [Run(tmp_path / name / "seed-0").config["plan"] for name in ("rotation", "simclr")]
    assert plans[0]["steps"] == plans[1]["steps"] == 4 and plans[0]["batch_size"] == plans[1]["batch_size"]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("encoder.safetensors")}
    run(capsys, *command)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished is not trained again"
    other = ("compare", "rotation", "--data", trained[0], *SMALL, "--seeds", "1", "--out", tmp_path / "v")
    varied = json.loads(run(capsys, *other, "--vary", "jitter=0,0.4", "--json"))
    assert {"rotation jitter=0", "rotation jitter=0.4"} < {row["arm"] for row in varied["rows"]}
    wrong = fails(capsys, 2, *other[:-1], tmp_path / "w", "--vary", "jitter=0,much")
    assert "jitter" in wrong and not (tmp_path / "w").exists(), "before the first is trained"
    assert "another comparison" in fails(capsys, 2, *command[:-4], "--max-steps", "3", *command[-4:])


def test_advice_names_a_pick(capsys, trained, tmp_path):
    command = (
        "advise",
        "rotation",
        "simclr",
        "--data",
        trained[0],
        *SMALL,
        "--seeds",
        "1",
        "--out",
        tmp_path,
    )
    said = run(capsys, *command)
    assert "pick: rotation" in said or "pick: simclr" in said
    assert json.loads(run(capsys, *command, "--json"))["rows"][0]["steps"] == 4


def test_reports(capsys, trained, tmp_path):
    assert "report.html" in run(capsys, "report", trained[1])
    run(capsys, "report", trained[1], trained[1], "--out", tmp_path / "both.html")
    assert "Leaderboard" in (tmp_path / "both.html").read_text()
    assert "no run folder" in fails(capsys, 2, "report", tmp_path)


def test_a_run_starts_from_another(capsys, trained, tmp_path):
    photos, folder = trained
    run(capsys, "train", "simclr", "--data", photos, "--init", folder, "--max-steps", "1", "--batch-size", "8",
        "--lr", "1e-12", "--out", tmp_path / "next")  # fmt: skip
    before, after = (load_file(f / "encoder.safetensors") for f in (folder, tmp_path / "next"))
    name = next(name for name in before if name.endswith("weight"))
    assert torch.allclose(before[name], after[name], atol=1e-6)


def test_python_has_the_commands(trained):
    task = pretask.build_task("rotation", pretask.build_encoder(TINY, image_size=32))
    with pytest.raises(UsageError, match="which data"):
        pretask.evaluate("pixels")
    assert isinstance(task, pretask.PretextTask)
    assert pretask.evaluate(trained[1], protocols="rankme")[0]["protocol"] == "rankme"
