"""InfoXLM: telling translations apart aligns languages beyond hidden words (Chi et al., NAACL 2021)."""

from pretask.studies.claim import Arm, Claim, Comparison

TINY = "xlm-roberta:num_hidden_layers=4,hidden_size=128,num_attention_heads=4,intermediate_size=512"
BITEXT = "bitext accuracy@1"

CLAIM = Claim(
    statement="Hiding words in translated pairs aligns two languages more than hiding them in each alone, "
    "and contrasting the pairs aligns them more still, with two pairs mixed and at a middle layer most.",
    arms={
        "mlm + tlm + xlco": Arm("infoxlm"),
        "mlm + tlm": Arm("infoxlm", {"xlco_weight": 0.0}),
        "mlm": Arm("infoxlm", {"tlm_weight": 0.0, "xlco_weight": 0.0}),
        "without mixing": Arm("infoxlm", {"mix": False}),
        "last layer": Arm("infoxlm", {"layer": 4}),
        "raw": Arm(None, encoder="raw"),
        "random": Arm("infoxlm", steps=0),
    },
    comparisons=(
        Comparison(BITEXT, "mlm + tlm + xlco", "mlm + tlm"),
        Comparison(BITEXT, "mlm + tlm", "mlm"),
        Comparison(BITEXT, "mlm + tlm + xlco", "without mixing"),
        Comparison(BITEXT, "mlm + tlm + xlco", "last layer"),
        Comparison(BITEXT, "mlm + tlm + xlco", "raw"),
        Comparison(BITEXT, "mlm + tlm + xlco", "random"),
    ),
    metrics=("bitext",),
    data="multi30k",
    fallback="cipher-languages",
    encoder=TINY,
    modality="text",
    reading={"languages": 2},
    steps=500,
    batch_size=32,
    train=29_000,
    labelled=1_000,
    test=1_000,
)
