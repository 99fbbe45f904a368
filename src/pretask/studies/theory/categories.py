"""Finite categories, their presheaves and natural transformations, small enough to be counted one by one.

Conventions: an arrow m: a -> b has source a and target b; (g, f) stands for "g after f". A presheaf turns
arrows round: T(m) is a function from T(b) to T(a). Sets are {0, ..., size - 1} and functions are tables, so
that everything counted here is a labelled table and not a class of isomorphic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import permutations, product
from random import Random
from typing import NamedTuple

from pretask.errors import UsageError

Table = tuple[int, ...]


class FinCat:
    """A category given by its table. Identities (`1_X`) and what composes with them are added.

    Args:
        objects: their names.
        arrows: source and target of every arrow that is no identity, by name.
        after: the composite of every pair of these that fits together, by (second, first).

    Raises:
        UsageError: a composite is missing or has the wrong ends, or composition is not associative.
    """

    def __init__(
        self,
        objects: Iterable[str],
        arrows: Mapping[str, tuple[str, str]] | None = None,
        after: Mapping[tuple[str, str], str] | None = None,
    ):
        self.objects = tuple(objects)
        self.arrows = {**{identity(x): (x, x) for x in self.objects}, **(arrows or {})}
        self.after = dict(after or {})
        for name, (source, target) in self.arrows.items():
            self.after[name, identity(source)] = self.after[identity(target), name] = name
        self.check()
        pairs = product(self.objects, self.objects)
        self.homs: dict[tuple[str, str], tuple[str, ...]] = dict.fromkeys(pairs, ())
        for name, ends in self.arrows.items():
            self.homs[ends] += (name,)

    def check(self) -> None:
        """The laws of a category."""
        arrows, after = self.arrows, self.after
        for g, f in product(arrows, arrows):
            fits = arrows[f][1] == arrows[g][0]
            if fits and (g, f) not in after:
                raise UsageError(f"the table does not say what '{g}' after '{f}' is")
            if fits and arrows.get(after[g, f]) != (arrows[f][0], arrows[g][1]):
                raise UsageError(f"'{g}' after '{f}' cannot be '{after[g, f]}': its ends differ")
        for h, g, f in product(arrows, repeat=3):
            if (g, f) in after and (h, g) in after and after[h, after[g, f]] != after[after[h, g], f]:
                raise UsageError(f"composition is not associative: ({h}, {g}, {f})")

    def hom(self, x: str, y: str) -> tuple[str, ...]:
        """The arrows from x to y."""
        return self.homs[x, y]

    def opposite(self) -> FinCat:
        """The same with all arrows turned round: its presheaves are the covariant functors of this one."""
        turned = {name: (target, source) for name, (source, target) in self.arrows.items()}
        return FinCat(self.objects, turned, {(f, g): name for (g, f), name in self.after.items()})

    def full(self, objects: Iterable[str]) -> FinCat:
        """These objects with all arrows between them."""
        kept = tuple(objects)
        arrows = {name: ends for name, ends in self.arrows.items() if set(ends) <= set(kept)}
        return FinCat(kept, arrows, {k: v for k, v in self.after.items() if set(k) <= set(arrows)})


def identity(x: str) -> str:
    return f"1_{x}"


def poset(objects: Iterable[str], below: Callable[[str, str], bool]) -> FinCat:
    """One arrow `x<y` wherever x is strictly below y.

    Raises:
        UsageError: the order is not transitive.
    """
    names = tuple(objects)
    arrows = {f"{x}<{y}": (x, y) for x, y in product(names, names) if x != y and below(x, y)}
    after = {
        (g, f): f"{arrows[f][0]}<{arrows[g][1]}"
        for g, f in product(arrows, arrows)
        if arrows[f][1] == arrows[g][0] and arrows[f][0] != arrows[g][1]
    }
    return FinCat(names, arrows, after)


def monoid(table: Mapping[tuple[str, str], str]) -> FinCat:
    """One object `*`; the table has every product of elements that are not the identity (`1_*`)."""
    return FinCat(("*",), {name: ("*", "*") for name, _ in table}, dict(table))


def cyclic_copies(order: int, copies: Iterable[str]) -> FinCat:
    """For every name an object whose arrows to itself are the cyclic group of this order."""

    def turn(x: str, k: int) -> str:
        return f"{x}{k % order}" if k % order else identity(x)

    names, steps = tuple(copies), range(1, order)
    arrows = {turn(x, k): (x, x) for x in names for k in steps}
    after = {(turn(x, k), turn(x, j)): turn(x, k + j) for x in names for k in steps for j in steps}
    return FinCat(names, arrows, after)


def subsets(of: str) -> FinCat:
    """All subsets of some letters, ordered by inclusion; the empty one is `0`."""
    names = sorted((chosen(of, bits) for bits in range(2 ** len(of))), key=lambda name: (len(name), name))
    return poset(["0", *names[1:]], lambda x, y: x == "0" or (y != "0" and set(x) <= set(y)))


def chosen(of: str, bits: int) -> str:
    return "".join(letter for place, letter in enumerate(of) if bits >> place & 1)


COSPAN = FinCat(("a", "b", "c"), {"f": ("a", "c"), "g": ("b", "c")})
SPAN = FinCat(("a", "b", "c"), {"f": ("c", "a"), "g": ("c", "b")})
Z2 = cyclic_copies(2, ["*"])
KRONECKER = FinCat(("v", "e"), {"s": ("v", "e"), "t": ("v", "e")})
"""Its presheaves are graphs: T(s) and T(t) say where an edge starts and ends."""
IDEMPOTENT = monoid({("e", "e"): "e"})
CHAIN = poset("012", lambda x, y: x < y)
LATTICE = subsets("123")
ROTATIONS = cyclic_copies(4, ["p", "q"])
"""Two pictures, each related to nothing but its own four rotations."""


def random_poset(size: int, rng: Random, density: float = 0.5) -> FinCat:
    """A random order of objects 0, 1, ...: the transitive closure of random arrows upwards."""
    below = [[x < y and rng.random() < density for y in range(size)] for x in range(size)]
    for middle, x, y in product(range(size), repeat=3):
        below[x][y] |= below[x][middle] and below[middle][y]
    return poset(map(str, range(size)), lambda x, y: below[int(x)][int(y)])


def random_monoid(order: int, rng: Random) -> FinCat:
    """A random table of this order that is associative, found by trying."""
    names = [identity("*"), *map(str, range(1, order))]
    while True:
        table = {pair: rng.choice(names) for pair in product(names[1:], names[1:])}
        try:
            return monoid(table) if table else FinCat(("*",))
        except UsageError:
            continue


class Presheaf(NamedTuple):
    """A set for every object, a function for every arrow, the other way round.

    Args:
        sizes: of the sets, by object.
        tables: T(m) for m: a -> b, by arrow: the place in T(a) of each element of T(b).
    """

    sizes: dict[str, int]
    tables: dict[str, Table]


def functions(domain: int, codomain: int) -> Iterator[Table]:
    """All tables; one where the domain is empty, none where only the codomain is."""
    return product(range(codomain), repeat=domain)


def is_presheaf(cat: FinCat, t: Presheaf) -> bool:
    """Do identities do nothing, and is T(g after f) = T(f) after T(g)?"""
    still = all(t.tables[identity(x)] == tuple(range(t.sizes[x])) for x in cat.objects)
    return still and all(
        t.tables[gf] == tuple(t.tables[f][place] for place in t.tables[g]) for (g, f), gf in cat.after.items()
    )


def presheaves(cat: FinCat, most: int) -> Iterator[Presheaf]:
    """Every presheaf whose sets have at most `most` elements."""
    proper = [name for name in cat.arrows if name not in map(identity, cat.objects)]
    factors = {m: sum(gf == m for (g, f), gf in cat.after.items() if m not in (g, f)) for m in proper}
    order = sorted(proper, key=lambda m: factors[m])  # what is composed comes after what it is made of
    place = {m: number for number, m in enumerate(order)}
    laws: dict[str, list[tuple[str, str, str]]] = {m: [] for m in order}
    for (g, f), gf in cat.after.items():  # each law is looked at as soon as its last arrow is there
        if g in place and f in place:
            laws[max((m for m in (g, f, gf) if m in place), key=place.__getitem__)].append((g, f, gf))

    def composite(tables: dict[str, Table], g: str, f: str) -> Table:
        return tuple(tables[f][element] for element in tables[g])

    def extend(sizes: dict[str, int], tables: dict[str, Table], number: int) -> Iterator[Presheaf]:
        if number == len(order):
            yield Presheaf(sizes, tables)
            return
        name = order[number]
        source, target = cat.arrows[name]
        made = next(((g, f) for g, f, gf in laws[name] if gf == name and name not in (g, f)), None)
        free = functions(sizes[target], sizes[source])
        for table in [composite(tables, *made)] if made else free:
            more = {**tables, name: table}
            if all(more[gf] == composite(more, g, f) for g, f, gf in laws[name]):
                yield from extend(sizes, more, number + 1)

    for numbers in product(range(most + 1), repeat=len(cat.objects)):
        sizes = dict(zip(cat.objects, numbers, strict=True))
        yield from extend(sizes, {identity(x): tuple(range(sizes[x])) for x in cat.objects}, 0)


def yoneda(cat: FinCat, p: str) -> Presheaf:
    """h(P) = Hom(-, P): the arrows into P; m: a -> b takes g: b -> P to g after m."""
    homs = {x: cat.hom(x, p) for x in cat.objects}
    tables = {m: tuple(homs[a].index(cat.after[g, m]) for g in homs[b]) for m, (a, b) in cat.arrows.items()}
    return Presheaf({x: len(homs[x]) for x in cat.objects}, tables)


def transformations(
    cat: FinCat, s: Presheaf, t: Presheaf, bijective: bool = False
) -> Iterator[dict[str, Table]]:
    """Every natural transformation from S to T: a function an object that commutes with all arrows.

    Args:
        bijective: only those that are one to one on every object: the isomorphisms.
    """
    if bijective and s.sizes != t.sizes:
        return
    rank = {x: place for place, x in enumerate(cat.objects)}
    laws: dict[str, list[str]] = {x: [] for x in cat.objects}
    for m, (a, b) in cat.arrows.items():
        laws[max(a, b, key=rank.__getitem__)].append(m)

    def natural(found: dict[str, Table], m: str) -> bool:
        a, b = cat.arrows[m]
        down, across = s.tables[m], t.tables[m]
        return all(found[a][down[i]] == across[found[b][i]] for i in range(s.sizes[b]))

    def extend(found: dict[str, Table], place: int) -> Iterator[dict[str, Table]]:
        if place == len(cat.objects):
            yield found
            return
        x = cat.objects[place]
        tables = permutations(range(t.sizes[x])) if bijective else functions(s.sizes[x], t.sizes[x])
        for table in tables:
            more = {**found, x: table}
            if all(natural(more, m) for m in laws[x]):
                yield from extend(more, place + 1)

    yield from extend({}, 0)


def isomorphic(cat: FinCat, s: Presheaf, t: Presheaf) -> bool:
    return any(True for _ in transformations(cat, s, t, bijective=True))


def universal_element(cat: FinCat, t: Presheaf) -> tuple[str, int] | None:
    """(P, u) with u in T(P) such that every t in every T(X) is T(m)(u) for exactly one m: X -> P."""
    for p in cat.objects:
        for u in range(t.sizes[p]):
            if all(
                sorted(t.tables[m][u] for m in cat.hom(x, p)) == list(range(t.sizes[x])) for x in cat.objects
            ):
                return p, u
    return None


class Functor(NamedTuple):
    """Where objects and arrows go."""

    objects: dict[str, str]
    arrows: dict[str, str]


def functor(source: FinCat, target: FinCat, objects: dict[str, str], arrows: dict[str, str]) -> Functor:
    """A functor from what it does to objects and to arrows that are no identities.

    Raises:
        UsageError: ends or composites are not kept.
    """
    whole = {**{identity(x): identity(objects[x]) for x in source.objects}, **arrows}
    for m, (a, b) in source.arrows.items():
        if target.arrows[whole[m]] != (objects[a], objects[b]):
            raise UsageError(f"'{m}' cannot go to '{whole[m]}': its ends go elsewhere")
    for (g, f), gf in source.after.items():
        if target.after[whole[g], whole[f]] != whole[gf]:
            raise UsageError(f"'{g}' after '{f}' is not kept")
    return Functor(objects, whole)


def inclusion(small: FinCat, large: FinCat) -> Functor:
    """Objects and arrows of the same names."""
    return functor(small, large, {x: x for x in small.objects}, {m: m for m in small.arrows})


def homs_kept(source: FinCat, target: FinCat, f: Functor) -> tuple[bool, bool]:
    """Is the functor full (every arrow between images comes from one), is it faithful (from at most one)?"""
    full = faithful = True
    for x, y in product(source.objects, repeat=2):
        images = [f.arrows[m] for m in source.hom(x, y)]
        full &= set(images) == set(target.hom(f.objects[x], f.objects[y]))
        faithful &= len(set(images)) == len(images)
    return full, faithful


def pulled_back(source: FinCat, f: Functor, t: Presheaf) -> Presheaf:
    """X -> T(f(X)), a presheaf on the functor's source."""
    return Presheaf(
        {x: t.sizes[f.objects[x]] for x in source.objects}, {m: t.tables[f.arrows[m]] for m in source.arrows}
    )


Element = tuple[str, int, int]


def coend(cat: FinCat, t: Presheaf, f: Presheaf) -> dict[Element, Element]:
    """The left Kan extension of F along h at T: pairs (t in T(X), y in F(X)), glued along arrows.

    (T(m)(t'), y) ~ (t', F(m)(y)) for m: X -> X', t' in T(X') and y in F(X).

    Args:
        f: a covariant functor, given as a presheaf on the opposite category.

    Returns:
        for each triple (X, t, y) the one that stands for its class.
    """
    parent = {(x, i, y): (x, i, y) for x in cat.objects for i in range(t.sizes[x]) for y in range(f.sizes[x])}

    def root(element: Element) -> Element:
        while parent[element] != element:
            parent[element] = parent[parent[element]]
            element = parent[element]
        return element

    for m, (a, b) in cat.arrows.items():
        for i, y in product(range(t.sizes[b]), range(f.sizes[a])):
            parent[root((a, t.tables[m][i], y))] = root((b, i, f.tables[m][y]))
    return {element: root(element) for element in parent}
