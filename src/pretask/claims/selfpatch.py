"""SelfPatch: patches that agree with similar neighbours help (Yun et al., CVPR 2022)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Patches that say what their most similar neighbours say make features that tell pasted pieces from "
    "their surroundings better than DINO's crops alone do, and pictures no worse; choosing the similar ones is no "
    "worse than taking all eight.",
    arms={
        "selfpatch": Arm("selfpatch"),
        "crops alone": Arm("selfpatch", {"patch_weight": 0.0}),
        "all neighbours": Arm("selfpatch", {"alike": 8}),
        "random": Arm("selfpatch", steps=0),
    },
    comparisons=(
        Comparison("pasted auroc", "selfpatch", "crops alone"),
        Comparison("knn", "selfpatch", "random"),
        Comparison("knn", "selfpatch", "crops alone", margin=-0.02),
        Comparison("pasted auroc", "selfpatch", "all neighbours", margin=-0.02),
    ),
    metrics=("knn", "pasted"),
    encoder="vit_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4,class_token=false,global_pool=avg,fc_norm=false",
    steps=300,
    batch_size=32,
    lr=5e-4,
)
