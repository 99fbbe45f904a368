"""GMML: groups of pixels are harder to guess than scattered ones, and teach more (Atito et al., 2022)."""

from typing import Any

from pretask.studies.claim import Arm, Claim, Comparison

SCATTERED: dict[str, Any] = {"largest": 0.0, "align": 4}  # blocks of a single patch

CLAIM = Claim(
    statement="Rebuilding groups of connected patches that were replaced teaches features, better than "
    "rebuilding as many scattered patches, and other pictures' pixels in them help.",
    arms={
        "gmml": Arm("gmml", {"align": 4}),
        "noise only": Arm("gmml", {"align": 4, "aliens": False}),
        "scattered": Arm("gmml", SCATTERED),
        "mae": Arm("mae"),
        "random": Arm("gmml", steps=0),
    },
    comparisons=(
        Comparison("linear", "gmml", "random"),
        Comparison("linear", "gmml", "scattered"),
        Comparison("linear", "gmml", "noise only"),
    ),
    steps=300,
    batch_size=32,
    lr=1e-3,
)
