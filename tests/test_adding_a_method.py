"""The tutorial's excerpts are the repository's own code; the lists of methods are the catalogue's."""

import re
from pathlib import Path

import pytest

from pretask import catalog

ROOT = Path(__file__).parents[1]
EXCERPTS = re.findall(
    r"```python\n# (\S+)\n(.*?)```",
    (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


def test_there_are_excerpts():
    assert len(EXCERPTS) >= 5


@pytest.mark.parametrize(("source", "excerpt"), EXCERPTS)
def test_the_tutorial_is_true(source, excerpt):
    assert excerpt in (ROOT / source).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "content"), [("README.md", catalog.summary), ("docs/methods.md", catalog.table)]
)
def test_pages_list_all_methods(page, content):
    """`python -m pretask.catalog` writes them anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert catalog.between_marks(text, content()) == text
