"""ParetoGNN: five tasks weighed by their gradients serve every downstream task (Ju et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretask.studies.claim import Arm, Claim, Comparison, Trained

if TYPE_CHECKING:
    from pretask.studies.bench import Bench

TASKS = ("recon", "ming", "decor", "minsg", "link")
CS = (1.0, 2.0**4, 2.0**8)


def four_tasks(trained: Trained, bench: Bench) -> dict[str, float]:
    """Node accuracy, k-means' NMI, the area under the curve of links that were hidden from training, accuracy
    in METIS' ten parts, and their mean: ParetoGNN's overall score."""
    from pretask.evaluation import graph

    sets = (trained.encoder, bench.labelled, bench.test)
    found = {
        "nodes": graph.node_classes(*sets, repeats=1, cs=CS),
        "clusters": graph.node_clusters(*sets, repeats=2),
        "links": graph.links(*sets, repeats=1),
        "partition": graph.partition(*sets, repeats=1, cs=CS),
    }
    values = {name: scores[0].value for name, scores in found.items() if scores}
    return {**values, "mean": sum(values.values()) / len(values)}


CLAIM = Claim(
    statement="Five pretext tasks, weighed by the min-norm point of their gradients, teach one encoder that "
    "is better over four downstream tasks than any of the five alone, and no worse than their plain sum.",
    arms={
        "pareto": Arm("paretognn"),
        "sum": Arm("paretognn", {"balance": "sum"}),
        **{name: Arm("paretognn", {"tasks": (name,)}) for name in TASKS},
        "random": Arm("paretognn", steps=0),
    },
    comparisons=(
        Comparison("mean", "pareto", "random"),
        Comparison("mean", "pareto", "sum", margin=-0.01),
        *(Comparison("mean", "pareto", name) for name in TASKS),
    ),
    metrics=(four_tasks,),
    data="planetoid_cora_citeseer/cora",
    fallback="digit-neighbours",
    modality="graph",
    reading={"hide_links": True},
    encoder="gcn:widths=[128,64]",
    steps=120,
    batch_size=512,
)
