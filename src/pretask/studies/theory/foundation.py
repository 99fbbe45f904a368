"""What a foundation model can do, by counting (On the Power of Foundation Models, Yuan, ICML 2023).

A pretext task is a category: data are objects, the relations it teaches are arrows. The ideal model is the
Yoneda embedding h(X) = Hom(-, X), a downstream task is a presheaf T, and solving it is to answer with
something isomorphic to T(X), naturally in X. The three theorems are checked on categories that are small
enough for every task to be tried; wherever a theorem has a condition, a case without it shows the need.

The numbering and wording of the paper's theorems are from memory; the finite constructions are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

from pretask.studies.theory.categories import (
    CHAIN,
    COSPAN,
    IDEMPOTENT,
    KRONECKER,
    LATTICE,
    ROTATIONS,
    SPAN,
    Z2,
    FinCat,
    Functor,
    Presheaf,
    coend,
    functor,
    homs_kept,
    inclusion,
    isomorphic,
    poset,
    presheaves,
    pulled_back,
    transformations,
    universal_element,
    yoneda,
)

CASES: dict[str, tuple[FinCat, int]] = {
    "cospan": (COSPAN, 2),
    "span": (SPAN, 2),
    "Z2": (Z2, 3),
    "Kronecker": (KRONECKER, 3),
    "idempotent": (IDEMPOTENT, 3),
    "chain": (CHAIN, 2),
}
"""Category and the largest set a task may take."""

COPRESHEAVES = {"cospan": 2, "Kronecker": 2, "chain": 2, "Z2": 3, "idempotent": 3}
"""The largest set a covariant functor may take, where extensions are checked."""


class Check(NamedTuple):
    """One thing that was counted.

    Args:
        theorem: which one it belongs to.
        case: the category, and what was changed in it.
        says: what must come out.
        counted: what was counted, by name.
        holds: whether it came out.
    """

    theorem: str
    case: str
    says: str
    counted: dict[str, int]
    holds: bool

    def row(self) -> dict[str, Any]:
        """Plain data."""
        return self._asdict()


def study() -> list[dict[str, Any]]:
    """Every check of the three theorems."""
    checks = [
        *(prompting(name, *case) for name, case in CASES.items()),
        rotations(),
        *(fine_tuning(name, *case) for name, case in CASES.items()),
        *(extension(name, CASES[name][0], most) for name, most in COPRESHEAVES.items()),
        *minimum_power(),
        *creation(),
    ]
    return [check.row() for check in checks]


def prompted(cat: FinCat, t: Presheaf) -> bool:
    """Does some prompt P answer the task: h(P) isomorphic to T? Tried for every P."""
    return any(isomorphic(cat, yoneda(cat, p), t) for p in cat.objects)


def prompting(name: str, cat: FinCat, most: int) -> Check:
    """Theorem 1: a prompt solves T if and only if T is representable.

    The two sides are computed apart: by trying all isomorphisms with every h(P), and by looking for a
    universal element.
    """
    sizes = [yoneda(cat, p).sizes for p in cat.objects]
    tasks = list(presheaves(cat, most))
    solved = [prompted(cat, t) for t in tasks]
    representable = [universal_element(cat, t) is not None for t in tasks]
    counted = {
        "tasks": len(tasks),
        "representable": sum(representable),
        "solved by a prompt": sum(solved),
        "equal to a prompt's answers in size": sum(t.sizes in sizes for t in tasks),
    }
    says = "a prompt solves a task exactly if it is representable"
    return Check("1 prompting", f"{name}, sets up to {most}", says, counted, solved == representable)


def rotations(most: int = 4) -> Check:
    """No prompt solves a task with labels on both pictures where pictures are related to nothing but their
    own rotations: every h(P) is empty on one of them."""
    tasks = [t for t in presheaves(ROTATIONS, most) if all(t.sizes.values())]
    empty = sum(0 in yoneda(ROTATIONS, p).sizes.values() for p in ROTATIONS.objects)
    counted = {
        "prompts": len(ROTATIONS.objects),
        "prompts without answer on one picture": empty,
        "tasks with labels on both": len(tasks),
        "solved by a prompt": sum(prompted(ROTATIONS, t) for t in tasks),
    }
    holds = empty == len(ROTATIONS.objects) and not counted["solved by a prompt"]
    says = "no prompt solves a task about both pictures"
    return Check("1 prompting", f"rotations of two pictures, sets up to {most}", says, counted, holds)


def yoneda_map(cat: FinCat, x: str, t: Presheaf, element: int) -> dict[str, tuple[int, ...]]:
    """The transformation from h(X) to T that an element of T(X) stands for: m -> T(m)(element)."""
    return {z: tuple(t.tables[m][element] for m in cat.hom(z, x)) for z in cat.objects}


def answers_naturally(cat: FinCat, t: Presheaf) -> bool:
    """Is Hom(h(X), T) = T(X) for every X, by the Yoneda map, and naturally in X?"""
    maps = {x: [yoneda_map(cat, x, t, i) for i in range(t.sizes[x])] for x in cat.objects}
    for x in cat.objects:
        found = list(transformations(cat, yoneda(cat, x), t))
        if len(found) != len(maps[x]) or any(one not in found for one in maps[x]):
            return False
        if any(maps[x][i] == maps[x][j] for i in range(len(maps[x])) for j in range(i)):
            return False
    for f, (a, b) in cat.arrows.items():  # what T(f) does to elements, h(f) does to transformations
        for i in range(t.sizes[b]):
            before = {
                z: tuple(maps[b][i][z][cat.hom(z, b).index(cat.after[f, m])] for m in cat.hom(z, a))
                for z in cat.objects
            }
            if before != maps[a][t.tables[f][i]]:
                return False
    return True


def fine_tuning(name: str, cat: FinCat, most: int) -> Check:
    """Theorem 2a: a trained object T of the presheaves answers every task: Hom(h(X), T) = T(X)."""
    tasks = list(presheaves(cat, most))
    solved = [answers_naturally(cat, t) for t in tasks]
    counted = {
        "tasks": len(tasks),
        "objects and tasks": len(tasks) * len(cat.objects),
        "solved by fine-tuning": sum(solved),
        "of these by no prompt": sum(s and not prompted(cat, t) for s, t in zip(solved, tasks, strict=True)),
    }
    says = "fine-tuning solves every task"
    return Check("2 fine-tuning", f"{name}, sets up to {most}", says, counted, all(solved))


def extends(cat: FinCat, f: Presheaf, x: str) -> bool:
    """Is the extension of F at h(X) isomorphic to F(X), by (m: Z -> X, y in F(Z)) -> F(m)(y)?"""
    classes = coend(cat, yoneda(cat, x), f)
    values: dict[tuple[str, int, int], set[int]] = {}
    for (z, i, y), representative in classes.items():
        values.setdefault(representative, set()).add(f.tables[cat.hom(z, x)[i]][y])
    single = [next(iter(found)) for found in values.values() if len(found) == 1]
    return len(single) == len(values) and sorted(single) == list(range(f.sizes[x]))


def extension(name: str, cat: FinCat, most: int) -> Check:
    """Theorem 2b: every functor F from the pretext's category is a layer on the frozen model.

    The left Kan extension along h gives F back on the images of data. The map is natural in X by its
    formula, F(n)(F(m)(y)) = F(n after m)(y).
    """
    functors = list(presheaves(cat.opposite(), most))
    kept = sum(extends(cat, f, x) for f in functors for x in cat.objects)
    counted = {
        "functors": len(functors),
        "objects and functors": len(functors) * len(cat.objects),
        "given back": kept,
    }
    says = "the layer gives every functor back"
    holds = kept == counted["objects and functors"]
    return Check("2 fine-tuning", f"{name}, functors into sets up to {most}", says, counted, holds)


def heads(cat: FinCat, model: FinCat, f: Functor, most: int) -> tuple[int, int]:
    """How many tasks there are, and how many some head on the model f solves: T isomorphic to T' after f."""
    answers = [pulled_back(cat, f, t) for t in presheaves(model, most)]
    tasks = list(presheaves(cat, most))
    return len(tasks), sum(any(isomorphic(cat, answer, t) for answer in answers) for t in tasks)


def minimum_power() -> list[Check]:
    """Theorem 2c: a model must keep all relations, up to symmetry; what it merges, no head takes apart."""
    arrow = poset("xy", lambda x, y: x < y)
    swap = functor(KRONECKER, KRONECKER, {"v": "v", "e": "e"}, {"s": "t", "t": "s"})
    models = {
        "Kronecker, the model itself": (KRONECKER, KRONECKER, inclusion(KRONECKER, KRONECKER), 2),
        "Kronecker, its arrows exchanged": (KRONECKER, KRONECKER, swap, 2),
        "Kronecker, its arrows merged": (
            KRONECKER, arrow, functor(KRONECKER, arrow, {"v": "x", "e": "y"}, {"s": "x<y", "t": "x<y"}), 2,
        ),
        "cospan, two objects merged": (
            COSPAN, arrow,
            functor(COSPAN, arrow, {"a": "x", "b": "x", "c": "y"}, {"f": "x<y", "g": "x<y"}), 2,
        ),
    }  # fmt: skip
    checks = []
    for case, (cat, model, f, most) in models.items():
        ideal = all(homs_kept(cat, model, f))
        tasks, solved = heads(cat, model, f, most)
        says = "a head solves every task" if ideal else "some tasks no head solves"
        counted = {"tasks": tasks, "solved by a head": solved}
        checks.append(Check("2 minimum power", case, says, counted, (solved == tasks) == ideal))
    checks += [separated(name, *case) for name, case in CASES.items() if len(case[0].objects) > 1]
    return [*checks, dropped()]


def separated(name: str, cat: FinCat, most: int) -> Check:
    """Some task answers differently on any two objects: a model that takes them for one cannot solve it."""
    pairs = [(x, y) for place, x in enumerate(cat.objects) for y in cat.objects[:place]]
    apart = sum(any(t.sizes[x] != t.sizes[y] for t in presheaves(cat, most)) for x, y in pairs)
    says = "some task tells any two objects apart"
    counted = {"pairs of objects": len(pairs), "told apart by a task": apart}
    return Check("2 minimum power", name, says, counted, apart == len(pairs))


def dropped() -> Check:
    """A model that never learned an arrow takes different tasks for the same."""
    poorer = FinCat(COSPAN.objects, {"f": COSPAN.arrows["f"]})
    lost = inclusion(poorer, COSPAN)
    tasks = list(presheaves(COSPAN, 2))
    seen = [pulled_back(poorer, lost, t) for t in tasks]
    pairs = [(i, j) for i in range(len(tasks)) for j in range(i) if isomorphic(poorer, seen[i], seen[j])]
    confused = sum(not isomorphic(COSPAN, tasks[i], tasks[j]) for i, j in pairs)
    counted = {"pairs that look alike to the model": len(pairs), "of these different tasks": confused}
    says = "different tasks look alike"
    return Check("2 minimum power", "cospan, one arrow never learned", says, counted, confused > 0)


def decode(seen: Iterable[str], source: FinCat, target: FinCat, f: Functor, x: str) -> list[str]:
    """The target objects that stand to the seen ones as x does to theirs.

    All c with Hom(F(Z), c) isomorphic to Hom(Z, x), naturally in Z over all arrows between seen objects.
    """
    known = source.full(seen)
    asked = yoneda(source, x)
    asked = Presheaf({z: asked.sizes[z] for z in known.objects}, {m: asked.tables[m] for m in known.arrows})
    along = Functor({z: f.objects[z] for z in known.objects}, {m: f.arrows[m] for m in known.arrows})
    return [
        c for c in target.objects if isomorphic(known, pulled_back(known, along, yoneda(target, c)), asked)
    ]


def aligned(source: FinCat, target: FinCat, f: Functor) -> bool:
    """Does the aligned functor take h(X) to h(F(X)): is the coend of h_X(b) x Hom(c, F(b)) as large as
    Hom(c, F(X)) for all X and c?"""
    for x, c in product(source.objects, target.objects):
        homs = {b: target.hom(c, f.objects[b]) for b in source.objects}
        tables = {
            m: tuple(homs[b].index(target.after[f.arrows[m], g]) for g in homs[a])
            for m, (a, b) in source.arrows.items()
        }
        classes = coend(source, yoneda(source, x), Presheaf({b: len(h) for b, h in homs.items()}, tables))
        if len(set(classes.values())) != len(target.hom(c, f.objects[x])):
            return False
    return True


def creation() -> list[Check]:
    """Theorem 3: from texts' relations to seen texts, the picture that belongs to an unseen text.

    It is found where F is full and faithful and the seen objects are dense. Each condition is dropped once.
    """
    singles = ("1", "2", "3")
    poorer = poset(LATTICE.objects, lambda x, y: f"{x}<{y}" in LATTICE.arrows and (x, y) != ("1", "12"))
    arrow = poset("ve", lambda x, y: (x, y) == ("v", "e"))
    merged = functor(KRONECKER, arrow, {"v": "v", "e": "e"}, {"s": "v<e", "t": "v<e"})
    same, into = inclusion(LATTICE, LATTICE), inclusion(poorer, LATTICE)
    checks = []
    for case, seen, source, target, f, right in (
        ("subsets of {1,2,3}, seen {1}, {2}, {3}", singles, LATTICE, LATTICE, same, True),
        ("the same, {3} unseen: not dense", singles[:2], LATTICE, LATTICE, same, False),
        ("the same, no arrow {1} to {1,2}: not full", singles, poorer, LATTICE, into, False),
        ("Kronecker to one arrow, seen v: not faithful", ("v",), KRONECKER, arrow, merged, False),
    ):  # fmt: skip
        found = {x: decode(seen, source, target, f, x) for x in source.objects}
        unseen = [x for x in source.objects if x not in seen]
        counted = {
            "unseen objects": len(unseen),
            "found": sum(found[x] == [f.objects[x]] for x in unseen),
            "found with others": sum(len(found[x]) > 1 and f.objects[x] in found[x] for x in unseen),
            "taken for another": sum(bool(found[x]) and f.objects[x] not in found[x] for x in unseen),
            "without candidate": sum(not found[x] for x in unseen),
        }
        holds = (counted["found"] == len(unseen)) == right and aligned(source, target, f)
        says = "every unseen object is found" if right else "not every unseen object is found"
        checks.append(Check("3 creation", case, says, counted, holds))
    return checks
