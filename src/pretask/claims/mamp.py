"""MAMP: how joints move is worth more than where they are (Mao et al., 2023).

Five actions of CMU's motion capture in windows of a second, each third recording of an action held out. The
long recordings of signals, the further walks, and actions with too few recordings are left out.
"""

from pretask.studies.claim import Arm, Claim, Comparison

OPTIONS = {"decoder_depth": 1, "shortest": 16}

CLAIM = Claim(
    statement="Telling the motion of hidden joints teaches features that tell actions apart better than telling "
    "where the joints are; hiding above all what moves adds a little.",
    arms={
        "mamp": Arm("mamp", OPTIONS),
        "random mask": Arm("mamp", {**OPTIONS, "tau": 0.0}),
        "joint target": Arm("mamp", {**OPTIONS, "target": "joint"}),
        "masked autoencoder": Arm("mamp", {**OPTIONS, "target": "joint", "tau": 0.0}),
        "random": Arm("mamp", OPTIONS, steps=0),
        "raw": Arm(None, encoder="raw"),
    },
    comparisons=(
        Comparison("linear", "mamp", "masked autoencoder"),
        Comparison("linear", "mamp", "random"),
        Comparison("linear", "masked autoencoder", "random"),
        Comparison("linear", "mamp", "random mask", margin=-0.02),
    ),
    metrics=("linear", "knn"),
    data="cmu_mocap_actions",
    fallback="puppets",
    modality="pose",
    reading={
        "window": 32,
        "hop": 16,
        "spread_to": 0.45,
        "without": "basketball_signal,directing_traffic,walking_extra,washwindow",
        "test_each": 3,
    },
    encoder="skeleton_vit:embed_dim=64,depth=3,num_heads=4,frames=32",
    steps=400,
    batch_size=32,
)
