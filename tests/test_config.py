"""Options come from signatures; values are checked against their types."""

import inspect
import subprocess
import sys

import pytest

from pretask import catalog, config
from pretask.errors import UsageError
from pretask.registry import task_class


@pytest.mark.parametrize("slug", [row.slug for row in catalog.TASKS])
def test_options_are_the_constructor(slug):
    """What is read from the source is what Python itself says of the signature."""
    parameters = inspect.signature(task_class(slug).__init__).parameters
    listed = {option.name: option.default for option in config.options(slug)}
    assert listed == {name: parameters[name].default for name in listed}
    assert set(parameters) - set(listed) <= {"self", "encoder", "args", "kwargs"}


@pytest.mark.parametrize("slug", [row.slug for row in catalog.TASKS])
def test_every_option_is_explained(slug):
    assert [option.name for option in config.options(slug) if not option.help] == []


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "3", 3),
        (float, "1e-3", 1e-3),
        (bool, "false", False),
        (str, "block", "block"),
        (tuple[float, float], "0.2,1", (0.2, 1.0)),
        (tuple[int, ...], "1,2,3", (1, 2, 3)),
        (int | None, "none", None),
        (int | None, "4", 4),
        (str | None, "random", "random"),
    ],
)
def test_parse(annotation, text, value):
    assert config.parse(text, annotation, "x") == value


@pytest.mark.parametrize(
    ("annotation", "text"),
    [(int, "3.5"), (float, "high"), (bool, "maybe"), (tuple[float, float], "1"), (int | None, "x")],
)
def test_parse_refuses(annotation, text):
    with pytest.raises(UsageError, match="must be"):
        config.parse(text, annotation, "x")


def test_literals_name_their_choices():
    from typing import Literal

    assert config.parse("b", Literal["a", "b"], "x") == "b"
    with pytest.raises(UsageError, match=r"a\|b"):
        config.parse("c", Literal["a", "b"], "x")


def test_unknown_option_names_the_nearest():
    with pytest.raises(UsageError, match="jitter"):
        config.check("rotation", {"jiter": "1"})


def test_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="rotation"):
        catalog.find("rotatoin")


def test_pairs():
    assert config.pairs(["a=1", "b = x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(UsageError):
        config.pairs(["a"])


@pytest.mark.parametrize("arguments", [["list"], ["show", "rotation"], ["--help"]])
def test_looking_up_imports_no_torch(arguments):
    program = (
        "import sys; from pretask.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'timm', 'lightning'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_is_light():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pretask; assert 'torch' not in sys.modules"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
