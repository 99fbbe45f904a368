"""Finite categories: the engine that enumerates, against filters written from the definitions."""

from itertools import product
from random import Random

import pytest

from pretask.errors import UsageError
from pretask.studies.theory.categories import (
    CHAIN,
    COSPAN,
    IDEMPOTENT,
    KRONECKER,
    LATTICE,
    SPAN,
    Z2,
    FinCat,
    Presheaf,
    coend,
    cyclic_copies,
    functor,
    identity,
    is_presheaf,
    isomorphic,
    monoid,
    poset,
    presheaves,
    random_monoid,
    transformations,
    yoneda,
)


def frozen(t):
    return tuple(sorted(t.sizes.items())), tuple(sorted(t.tables.items()))


def all_tables(cat, most):
    """Every choice of sets and functions, lawful or not."""
    for numbers in product(range(most + 1), repeat=len(cat.objects)):
        sizes = dict(zip(cat.objects, numbers, strict=True))
        free = [
            list(product(range(sizes[source]), repeat=sizes[target]))
            for source, target in cat.arrows.values()
        ]
        for tables in product(*free):
            yield Presheaf(sizes, dict(zip(cat.arrows, tables, strict=True)))


class TestCategories:
    def test_laws_are_asked_for(self):
        with pytest.raises(UsageError, match="does not say what 'g' after 'f'"):
            FinCat("abc", {"f": ("a", "b"), "g": ("b", "c")})
        with pytest.raises(UsageError, match="its ends differ"):
            FinCat("abc", {"f": ("a", "b"), "g": ("b", "c")}, {("g", "f"): "f"})
        with pytest.raises(UsageError, match="not associative"):
            monoid({("a", "a"): "b", ("a", "b"): "a", ("b", "a"): "b", ("b", "b"): "b"})
        with pytest.raises(UsageError, match="cannot be 'a<c'"):
            poset("abc", lambda x, y: (x, y) in (("a", "b"), ("b", "c")))  # no a < c

    def test_shipped_ones(self):
        assert [len(cat.arrows) for cat in (COSPAN, SPAN, Z2, KRONECKER, IDEMPOTENT, CHAIN)] == [
            5,
            5,
            2,
            4,
            2,
            6,
        ]
        assert len(LATTICE.objects) == 8 and len(LATTICE.arrows) == 27
        assert LATTICE.hom("1", "12") and LATTICE.hom("0", "123") and not LATTICE.hom("12", "1")
        assert not LATTICE.hom("3", "12")
        z4 = cyclic_copies(4, ["x"])
        assert z4.after["x3", "x2"] == "x1" and z4.after["x1", "x3"] == identity("x")

    @pytest.mark.parametrize(
        ("cat", "most"),
        [(COSPAN, 2), (Z2, 3), (KRONECKER, 2), (IDEMPOTENT, 3), (CHAIN, 2), (random_monoid(3, Random(1)), 2)],
    )
    def test_presheaves_are_the_lawful_ones_of_all_tables(self, cat, most):
        found = [frozen(t) for t in presheaves(cat, most)]
        assert len(set(found)) == len(found)
        assert set(found) == {frozen(t) for t in all_tables(cat, most) if is_presheaf(cat, t)}

    def test_a_broken_law_is_seen(self):
        flip = Presheaf({"*": 3}, {identity("*"): (0, 1, 2), "*1": (1, 2, 0)})  # of order three
        assert not is_presheaf(Z2, flip)
        assert not is_presheaf(Z2, Presheaf({"*": 2}, {identity("*"): (1, 0), "*1": (0, 1)}))

    def test_yoneda_turns_arrows_round(self):
        h = yoneda(COSPAN, "c")
        assert h.sizes == {"a": 1, "b": 1, "c": 1} and h.tables["f"] == (0,)
        assert yoneda(COSPAN, "a").sizes == {"a": 1, "b": 0, "c": 0}
        edges = yoneda(KRONECKER, "e")  # the graph with one edge: two ends
        assert edges.sizes == {"v": 2, "e": 1}
        homs = KRONECKER.hom("v", "e")
        assert homs[edges.tables["s"][0]] == "s" and homs[edges.tables["t"][0]] == "t"

    @pytest.mark.parametrize("cat", [COSPAN, KRONECKER, IDEMPOTENT, Z2])
    def test_transformations_are_the_commuting_ones_of_all_functions(self, cat):
        rng = Random(0)
        every = list(presheaves(cat, 2))
        for s, t in [(rng.choice(every), rng.choice(every)) for _ in range(25)]:
            naive = []
            for tables in product(*(product(range(t.sizes[x]), repeat=s.sizes[x]) for x in cat.objects)):
                a = dict(zip(cat.objects, tables, strict=True))
                if all(
                    a[x][s.tables[m][i]] == t.tables[m][a[y][i]]
                    for m, (x, y) in cat.arrows.items()
                    for i in range(s.sizes[y])
                ):
                    naive.append(a)
            assert list(transformations(cat, s, t)) == naive
            bijective = [
                a for a in naive if all(sorted(a[x]) == list(range(t.sizes[x])) for x in cat.objects)
            ]
            bijective = bijective if s.sizes == t.sizes else []
            found = list(transformations(cat, s, t, bijective=True))
            assert len(found) == len(bijective) and all(a in bijective for a in found)

    @pytest.mark.parametrize("cat", [COSPAN, KRONECKER, Z2])
    def test_coend_is_the_closure_of_the_gluing(self, cat):
        rng = Random(1)
        tasks, functors = list(presheaves(cat, 2)), list(presheaves(cat.opposite(), 2))
        for t, f in [(rng.choice(tasks), rng.choice(functors)) for _ in range(25)]:
            found = coend(cat, t, f)
            elements = list(found)
            glued = {(e, e) for e in elements}
            for m, (x, y) in cat.arrows.items():
                for i, j in product(range(t.sizes[y]), range(f.sizes[x])):
                    one, other = (x, t.tables[m][i], j), (y, i, f.tables[m][j])
                    glued |= {(one, other), (other, one)}
            for middle, one, other in product(elements, repeat=3):
                if (one, middle) in glued and (middle, other) in glued:
                    glued.add((one, other))
            for middle, one, other in product(elements, repeat=3):
                if (one, middle) in glued and (middle, other) in glued:
                    glued.add((one, other))
            same = {(a, b) for a, b in product(elements, repeat=2) if found[a] == found[b]}
            assert same == glued

    def test_functors_keep_composites(self):
        with pytest.raises(UsageError, match="ends go elsewhere"):
            functor(COSPAN, CHAIN, {"a": "0", "b": "1", "c": "2"}, {"f": "0<1", "g": "1<2"})
        with pytest.raises(UsageError, match="not kept"):
            functor(IDEMPOTENT, Z2, {"*": "*"}, {"e": "*1"})


def test_isomorphic_tasks_are_relabelled_ones():
    t = Presheaf({"v": 3, "e": 1}, {"1_v": (0, 1, 2), "1_e": (0,), "s": (0,), "t": (1,)})
    u = Presheaf({"v": 3, "e": 1}, {"1_v": (0, 1, 2), "1_e": (0,), "s": (2,), "t": (1,)})
    loop = Presheaf({"v": 3, "e": 1}, {"1_v": (0, 1, 2), "1_e": (0,), "s": (1,), "t": (1,)})
    assert isomorphic(KRONECKER, t, u) and not isomorphic(KRONECKER, t, loop)
