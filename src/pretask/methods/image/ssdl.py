"""SSDL: labels of a few are spread over a hypergraph of all samples by its p-Laplacian, and the soft labels
all of them get take part in learning a dictionary (Self-Supervised Dictionary Learning, Shao et al., ICME 2021).

    pretext     min_F  sum_c S_p(F_c) + mu |F - Y|^2                       soft labels P from F
    dictionary  min_{B,W,M,S}  |X - S B|^2 + lambda |P - S W|^2 + omega |Q - S M|^2 + 2 epsilon |S|_1,

all rows of B, W and M at most 1 long; a row is a sample or an atom here. X are samples of length 1, S their
codes, W reads labels from codes, and Q says that atoms of a class are for samples of that class. No gradient
anywhere: codes are found by ADMM in `loss`, atoms one after the other in `after_step`.

No program of the authors is known. What their abstract leaves open follows their earlier papers (LEDL, SAHDL,
hypergraph p-Laplacian); each such choice is marked (R).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import require, to_float
from pretask.data.dataset import spread
from pretask.encoders.dictionary import SparseDictionary
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.objectives.dictionary import CodeBank, each_once, in_ball, update_atoms
from pretask.objectives.distributed import gather
from pretask.pretexts.hypergraph import attention, clusters, incidence, leading, nearest
from pretask.pretexts.propagation import propagate, propagate_by_eigenvectors, soften
from pretask.pretexts.sparse_codes import ridge_solver, sparse_codes
from pretask.pretexts.views import centre_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step


class SSDL(PretextTask):
    """Learn a dictionary from soft labels that a hypergraph of the data spreads.

    The encoder is a `sparse_dictionary`; its name says how many atoms there are, how sparse codes shall be
    (epsilon, `penalty`) and what samples are: pixels, or the features of a frozen network
    (`sparse_dictionary:atoms=100,penalty=0.125,front=resnet18`). What is kept of it is the codes. Without
    labels, clusters of the data take their place (R).

    Every batch's codes replace those the same samples had before, so that with all samples in one batch a
    step is the paper's alternation, and with fewer its incremental form.

    Args:
        encoder: a `sparse_dictionary`.
        labelled_per_class: labels that are read, drawn at random; 0 reads none.
        classes: clusters, where no labels are read.
        clustering: `spectral`, of the hypergraph, or `kmeans`, of the samples.
        hypergraph: `attention`, each sample as a sparse combination of others, or `nearest`.
        attention_penalty: beta, of these combinations.
        neighbours: k, samples in a hyperedge beside its own.
        p: of the p-Laplacian, above 1 and at most 2.
        mu: how closely given labels are kept while they spread.
        laplacian: `reweighted` least squares, or put together from its `eigenvectors`.
        shared: let all classes share the weights of pairs; a solve an iteration instead of one a class.
        graph_samples: so many samples at most make the hypergraph; others get the soft labels of those
            they attend to.
        label_weight: lambda.
        code_weight: omega; 0 makes it like D-KSVD, and with lambda 0 too plain sparse coding.
        rho: of ADMM.
        iterations: of ADMM, a step.
    """

    encoder: ImageEncoder
    # the paper's 20 rounds over all samples; rates mean nothing here
    recipe = Recipe("sgd", lr=1.0, lr_batch=0, batch_size=256, epochs=20, weight_decay=0.0, warmup=0.0)
    soft: Float[Tensor, "samples classes"]
    inside: Int[Tensor, "graph"]
    known: Float[Tensor, "graph dim"]
    owner: Int[Tensor, "atoms"]
    bank: CodeBank
    reader: Float[Tensor, "atoms classes"]
    mixer: Float[Tensor, "atoms atoms"]

    def __init__(
        self,
        encoder: ImageEncoder,
        labelled_per_class: int = 0,
        classes: int = 10,
        clustering: Literal["spectral", "kmeans"] = "spectral",
        hypergraph: Literal["attention", "nearest"] = "attention",
        attention_penalty: float = 0.1,
        neighbours: int = 10,
        p: float = 1.6,
        mu: float = 1.0,
        laplacian: Literal["reweighted", "eigenvectors"] = "reweighted",
        shared: bool = False,
        graph_samples: int = 1000,
        label_weight: float = 0.015625,
        code_weight: float = 0.015625,
        rho: float = 1.0,
        iterations: int = 30,
    ):
        super().__init__(encoder)
        if not isinstance(getattr(encoder, "model", None), SparseDictionary):
            raise UsageError("ssdl learns a dictionary: its encoder is `sparse_dictionary`, not a network")
        if not 1 < p <= 2:
            raise UsageError(f"ssdl: p must be above 1 and at most 2, not {p}")
        self.labelled_per_class, self.classes, self.clustering = labelled_per_class, classes, clustering
        self.hypergraph, self.attention_penalty, self.neighbours = hypergraph, attention_penalty, neighbours
        self.p, self.mu, self.laplacian, self.shared = p, mu, laplacian, shared
        self.graph_samples, self.rho, self.iterations = graph_samples, rho, iterations
        self.label_weight, self.code_weight = label_weight, code_weight
        self.weights = {"labels": label_weight, "codes": code_weight, "sparsity": 2 * self.model.penalty}
        self.seed = int(torch.randint(2**31, ()))  # of which labels are read and where atoms start
        self.seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    @property
    def model(self) -> SparseDictionary:
        return self.encoder.model

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """B, W and M."""
        return self.model.atoms, self.reader, self.mixer

    # the data, once

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """See every sample, build the hypergraph, spread labels over it, start the dictionary.

        Raises:
            UsageError: their number is not known, labels are asked for and missing, or there are fewer
                samples or atoms than classes.
        """
        if not num_samples:
            raise UsageError("ssdl relates samples to each other: it needs a known number of them")
        atoms = self.model.atoms
        samples = atoms.new_zeros(num_samples, atoms.shape[1])
        labels = torch.full((num_samples,), -1, device=atoms.device)
        for batch in batches:
            index = gather(require(batch, "index", 1).to(atoms.device))
            samples[index] = gather(self.represent(batch))
            if self.labelled_per_class:
                labels[index] = gather(require(batch, "label", 1).to(atoms.device))
        there = samples.any(1).nonzero().flatten()
        inside = there[spread(len(there), self.graph_samples).to(there.device)]
        generator = torch.Generator().manual_seed(self.seed)
        soft = self.soft_labels(samples[inside].double(), labels[inside], generator)
        if len(atoms) < soft.shape[1]:
            raise UsageError(
                f"ssdl gives every class atoms of its own: {len(atoms)} atoms are too few for "
                f"{soft.shape[1]} classes, ask for `sparse_dictionary:atoms={10 * soft.shape[1]}`"
            )
        self.remember(inside=inside, known=samples[inside])
        self.remember(soft=samples.new_zeros(num_samples, soft.shape[1]))
        self.soft[inside] = soft.to(self.soft)
        outside = there[~torch.isin(there, inside)]
        if len(outside):
            self.soft[outside] = self.guess(samples[outside])
        self.start(samples, generator)

    def remember(self, **buffers: Tensor) -> None:
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def represent(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Samples of length 1, seen as the encoder will see them."""
        image = to_float(require(batch, "image", 4)).to(self.model.atoms.device)
        image = centre_view(image, batch.get("size"), self.encoder.image_size)
        return self.model.represent(self.encoder.normalise(image))

    def weights_on(
        self, samples: Float[Tensor, "batch dim"], parts: Float[Tensor, "n dim"], own: Tensor | None = None
    ) -> Float[Tensor, "batch n"]:
        """How much samples look at others."""
        if self.hypergraph == "nearest":
            return nearest(samples, parts, self.neighbours, own)
        return attention(samples, parts, self.attention_penalty, self.neighbours, own)

    def soft_labels(
        self, samples: Float[Tensor, "n dim"], labels: Int[Tensor, "n"], generator: torch.Generator
    ) -> Float[Tensor, "n classes"]:
        """The pretext: labels of a few, or clusters, spread over the hypergraph of all.

        Labels that are given stay as they are; clusters are no truth, and are softened too (R).
        """
        graph = incidence(
            self.weights_on(samples, samples, torch.arange(len(samples), device=samples.device))
        )
        if self.labelled_per_class:
            told = few(labels, self.labelled_per_class, generator)
            given = F.one_hot(labels.clamp(min=0)).to(samples) * told[:, None]
        else:
            told = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
            where = leading(graph, self.classes) if self.clustering == "spectral" else samples
            given = F.one_hot(clusters(where, self.classes), self.classes).to(samples)
        if self.laplacian == "eigenvectors":
            return soften(propagate_by_eigenvectors(graph, given, self.p, self.mu), given, told)
        return soften(propagate(graph, given, self.p, self.mu, self.shared), given, told)

    def guess(self, samples: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Soft labels of samples that are not in the hypergraph: those of the ones they look at."""
        weights = self.weights_on(samples.double(), self.known.double())
        blurred = weights @ self.soft[self.inside].double()
        total = blurred.sum(1, keepdim=True)
        return (blurred / torch.where(total > 0, total, 1)).to(self.soft)

    def start(self, samples: Float[Tensor, "samples dim"], generator: torch.Generator) -> None:
        """Atoms: samples of each class, drawn by their soft labels. Codes: by ridge regression on them."""
        atoms, classes = len(self.model.atoms), self.soft.shape[1]
        self.remember(owner=torch.arange(atoms, device=samples.device) * classes // atoms)
        chances = self.soft.T.double().cpu() + 1e-6 * samples.any(1).double().cpu()
        counts = self.owner.bincount(minlength=classes).tolist()
        chosen = [
            torch.multinomial(chance, count, int((chance > 0).sum()) < count, generator=generator)
            for chance, count in zip(chances, counts, strict=True)
        ]
        self.model.set_atoms(samples[torch.cat(chosen).to(samples.device)])
        learned = self.soft.any(1)
        codes = ridge_solver(self.model.atoms, self.rho)(samples @ self.model.atoms.T) * learned[:, None]
        targets = torch.cat(self.targets(samples, self.soft), 1)
        self.bank = CodeBank(codes, targets)
        self.remember(reader=samples.new_zeros(atoms, classes), mixer=samples.new_zeros(atoms, atoms))
        self.descend()

    # a step

    def targets(
        self, samples: Float[Tensor, "n dim"], soft: Float[Tensor, "n classes"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """X, P and Q: what codes shall rebuild, say, and look like. An atom's entry of Q is its class's of P."""
        return samples, soft, soft[:, self.owner]

    def loss(self, batch: Batch, step: Step) -> Losses:
        if not hasattr(self, "soft"):
            raise UsageError(
                "call prepare(batches, num_samples) first: ssdl relates every sample to all others"
            )
        samples, index = self.represent(batch), require(batch, "index", 1).to(self.soft.device)
        targets = self.targets(samples, self.soft[index])
        roots = (1.0, self.label_weight**0.5, self.code_weight**0.5)
        codes = sparse_codes(
            torch.cat([root * target for root, target in zip(roots, targets, strict=True)], 1),
            torch.cat([root * part for root, part in zip(roots, self.parts, strict=True)], 1),
            self.model.penalty, self.rho, self.iterations, self.bank.codes[index],
        )  # fmt: skip
        learned = targets[1].any(1)  # of a sample without any label nothing is learned
        codes = codes * learned[:, None]
        with torch.autocast(codes.device.type, enabled=False):
            errors = [
                (target - codes @ part).square().sum(1) * learned
                for target, part in zip(targets, self.parts, strict=True)
            ]
            right = (codes @ self.reader).argmax(1) == targets[1].argmax(1)
        step.metrics["accuracy"] = right.float().mean()
        if self.training and torch.is_grad_enabled():
            self.seen.append((index, samples, codes, errors[0]))
        means = [error.mean() for error in errors]
        sparsity = codes.abs().sum(1).mean()
        return {"reconstruction": means[0], "labels": means[1], "codes": means[2], "sparsity": sparsity}

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """New codes take the place of old ones in what atoms are learned from; then atoms take their turn."""
        for index, samples, codes, error in self.seen:
            index, samples, codes, error = map(gather, (index, samples, codes, error))
            index, first = each_once(index)
            targets = self.targets(samples[first], self.soft[index])
            self.bank.replace(index, codes[first], torch.cat(targets, 1))
            self.revive(targets, error[first])
        self.seen.clear()
        self.descend()

    def revive(self, targets: tuple[Tensor, Tensor, Tensor], error: Float[Tensor, "n"]) -> None:
        """An atom that no sample uses any more becomes the sample that is rebuilt worst, each another one."""
        idle = self.bank.idle()
        worst = error.topk(min(len(idle), len(error))).indices
        for part, target in zip(self.parts, targets, strict=True):
            part[idle[: len(worst)]] = in_ball(target[worst])

    def descend(self) -> None:
        """B, W and M, an atom at a time."""
        dim, classes = self.known.shape[1], self.soft.shape[1]
        crosses = self.bank.cross.split([dim, classes, len(self.owner)], 1)
        atoms, reader, mixer = (
            update_atoms(part, self.bank.gram, cross) for part, cross in zip(self.parts, crosses, strict=True)
        )
        self.model.set_atoms(atoms)
        self.reader.copy_(reader)
        self.mixer.copy_(mixer)

    # looking

    def answer(self, samples: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """How much the dictionary gives each class: codes of the samples alone, read by W."""
        return self.model.code(samples) @ self.reader

    def question(self, batch: Batch, step: Step) -> Question:
        """Which class the hypergraph gives a picture most of."""
        image = centre_view(to_float(batch["image"]), batch.get("size"), self.encoder.image_size)
        soft = self.guess(self.represent(batch))
        return Question(image, torch.arange(len(image), device=image.device), soft.argmax(1))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        image = centre_view(to_float(require(batch, "image", 4)), batch.get("size"), self.encoder.image_size)
        samples = self.represent(batch)
        soft, scores = self.guess(samples), self.answer(samples)
        rows = []
        for row, picture in enumerate(image):
            share, name = soft[row].max(0)
            label = f"class {int(name)}: {float(share):.0%}"
            panels = [Panel("what it sees", picture), Panel("its soft label", label, "asked", "text")]
            said = f"class {int(scores[row].argmax())}"
            rows.append([*panels, Panel("what its code says", said, "answer", "text")])
        return Sheet("SSDL", "Which class does a picture belong to, as far as few labels reach?", rows)


def few(labels: Int[Tensor, "n"], count: int, generator: torch.Generator) -> Tensor:
    """Which labels are read: so many of every class, drawn at random.

    Raises:
        UsageError: there are no labels.
    """
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    told = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels[labels >= 0].unique():
        told[order[labels[order] == label][:count]] = True
    if not told.any():
        raise UsageError("ssdl is to read labels and the data have none: leave labelled_per_class at 0")
    return told
