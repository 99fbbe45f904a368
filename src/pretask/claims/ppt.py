"""PPT: short steps first, then the end, then all between (Lin et al., 2024)."""

from pretask.studies.claim import Arm, Claim, Comparison

SKIPPED = 1e-9  # of the steps: a stage none of them falls to

CLAIM = Claim(
    statement="Learning the next step, then the destination, then the whole future forecasts better than learning "
    "the whole future at once, and better than keeping the velocity.",
    arms={
        "ppt": Arm("ppt"),
        "future alone": Arm(
            "ppt", {"shares": (SKIPPED, SKIPPED, SKIPPED, 1.0), "distil_next": 0.0, "distil_destination": 0.0}
        ),
        "no next step": Arm("ppt", {"shares": (SKIPPED, 1.0, 1.0, 6.0)}),
        "no distillation": Arm("ppt", {"distil_next": 0.0, "distil_destination": 0.0}),
        "constant velocity": Arm(None, encoder="raw"),
    },
    comparisons=(
        Comparison("forecast ADE", "ppt", "future alone", claimed="lower"),
        Comparison("forecast ADE", "ppt", "no next step", claimed="lower"),
        Comparison("forecast ADE", "ppt", "constant velocity", claimed="lower"),
    ),
    metrics=("forecast",),
    data="eth_ucy_trajectories",
    fallback="walkers",
    modality="track",
    reading={"held_out": "zara1"},
    encoder="gpt:width=64,depth=2,dropout=0.1",
    steps=2000,  # of 500 the last stage had 62: no arm then forecast as well as velocity kept
    batch_size=64,
    train=20_000,
)
