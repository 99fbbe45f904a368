"""BEiT: naming the words under covered patches teaches features (Bao et al., 2022)."""

from pretask.studies.claim import Arm, Claim, Comparison

BEIT = "beit_base_patch16_224:depth=4,embed_dim=128,num_heads=4,global_pool=avg"

CLAIM = Claim(
    statement="Telling which word of a frozen codebook stands at each covered patch teaches features, more than "
    "asking for the pixels or covering little.",
    arms={
        "beit": Arm("beit"),
        "pixels instead of words": Arm(
            "simmim", encoder="vit_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4"
        ),
        "little covered": Arm("beit", {"mask_ratio": 0.1}),
        "random": Arm("beit", steps=0),
    },
    comparisons=(
        Comparison("linear", "beit", "random"),
        Comparison("linear", "beit", "pixels instead of words"),
        Comparison("linear", "beit", "little covered"),
    ),
    metrics=("linear",),
    encoder=BEIT,
    steps=300,
    batch_size=64,
    lr=1e-3,
)
