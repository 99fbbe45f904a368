"""AttMask: what the teacher attends to is the thing to hide (Kakogeorgiou et al., 2022)."""

from typing import Any

from pretask.studies.claim import Arm, Claim, Comparison

HELD: dict[str, Any] = {"mask_ratio": (0.3, 0.3)}

CLAIM = Claim(
    statement="Hiding the patches that the teacher attends to teaches better features than hiding random "
    "ones, and hiding those it attends to least teaches worse ones.",
    arms={
        "high": Arm("attmask", HELD),
        "hint": Arm("attmask", {"mask": "hint", **HELD}),
        "low": Arm("attmask", {"mask": "low", **HELD}),
        "random patches": Arm("ibot", {"mask": "random", **HELD}),
        "blocks": Arm("ibot", HELD),
        "random": Arm("ibot", steps=0),
    },
    comparisons=(
        Comparison("knn", "high", "random"),
        Comparison("knn", "high", "random patches"),
        Comparison("knn", "high", "low"),
    ),
    steps=300,
    batch_size=32,
    lr=5e-4,
)
