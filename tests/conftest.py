"""What several tests need: small folders of pictures, some of them broken, and real data where they are."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from pretask.data import Dataset, open_data

PHOTOS = [np.asarray(photo) for photo in load_sample_images().images]  # 427 x 640


def photo(number: int, size: tuple[int, int]) -> np.ndarray:
    """A window (height, width) of a real photograph, another for every number."""
    rng = np.random.default_rng(number)
    picture = PHOTOS[number % 2]
    top, left = (int(rng.integers(edge - side + 1)) for edge, side in zip(picture.shape, size, strict=False))
    return picture[top : top + size[0], left : left + size[1]]


def jpeg(number: int, size=(40, 50)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo(number, size)).save(buffer, "JPEG")
    return buffer.getvalue()


def everything(dataset: Dataset) -> dict:
    return dataset.batch(range(len(dataset)))


def break_some(folder: Path) -> dict[str, str]:
    """Files no reader can use, by name with a word of the reason that is to be given."""
    whole = folder / "whole.jpg"
    Image.fromarray(photo(0, (200, 200))).save(whole)
    content = whole.read_bytes()
    whole.unlink()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no picture\n" * 20)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    return {
        "truncated.jpg": "truncated",
        "empty.jpg": "empty",
        "text.jpg": "not a picture",
        "bomb.png": "bomb",
    }


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of JPEGs of different sizes: `classes`, `splits` and `broken` files on demand."""

    def make(
        count: int = 8, classes: tuple[str, ...] = (), splits: tuple[str, ...] = (), broken: bool = False
    ) -> Path:
        root = tmp_path / f"photos{len(list(tmp_path.iterdir()))}"
        number = 0
        for split in splits or ("",):
            for name in classes or ("",):
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    number += 1
                    size = (60 + 7 * (number % 5), 80 - 9 * (number % 4))
                    Image.fromarray(photo(number, size)).save(folder / f"{i}.jpg", quality=90)
        if broken:
            break_some(folder)
        return root

    return make


@pytest.fixture(scope="session")
def embedded() -> Dataset:
    """A small part of the embedded set, in the order and with the splits of the whole."""
    return open_data("digits-on-textures", limit=400)


def data_folder(name: str) -> Path:
    """Where a real data set lies: below $PRETASK_DATA, or beside the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRETASK_DATA", default)) / name
    if not folder.is_dir():
        pytest.skip(f"the real data set {name} is not at {folder} (set PRETASK_DATA)")
    return folder


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """`real_data(name)` is the folder of a real data set; skips where it is absent."""
    return data_folder
