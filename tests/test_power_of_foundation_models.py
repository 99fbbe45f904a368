"""The three theorems by enumeration; the engine against filters written from the definitions."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import pytest
import torch

from pretask import catalog
from pretask.cli import main
from pretask.errors import PretaskError, UsageError
from pretask.studies import evidence, experiment
from pretask.studies.claim import Comparison, Theory
from pretask.studies.study import END, START, run_study, write_into
from pretask.studies.theory import foundation, posets
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
    inclusion,
    is_presheaf,
    isomorphic,
    monoid,
    poset,
    presheaves,
    random_monoid,
    random_poset,
    transformations,
    universal_element,
    yoneda,
)

SLUG = "power-of-foundation-models"
PAGE = Path(__file__).parents[1] / "docs" / "theory-foundation-models.md"


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


class TestTheorems:
    @pytest.mark.parametrize(
        ("name", "numbers", "pairs"),
        [
            ("cospan", (43, 3, 3, 3), 129),
            ("span", (59, 3, 3, 3), 177),
            ("Z2", (8, 1, 1, 2), 8),
            ("Kronecker", (910, 3, 3, 5), 1820),
            ("idempotent", (15, 2, 2, 3), 15),
            ("chain", (47, 3, 3, 3), 141),
        ],
    )
    def test_counts(self, name, numbers, pairs):
        cat, most = foundation.CASES[name]
        check = foundation.prompting(name, cat, most)
        assert tuple(check.counted.values()) == numbers and check.holds
        check = foundation.fine_tuning(name, cat, most)
        assert check.holds and check.counted["objects and tasks"] == pairs
        assert check.counted["of these by no prompt"] == numbers[0] - numbers[1]

    @pytest.mark.parametrize(
        ("name", "pairs"), [("cospan", 177), ("Kronecker", 50), ("chain", 141), ("Z2", 8), ("idempotent", 15)]
    )
    def test_extensions(self, name, pairs):
        check = foundation.extension(name, foundation.CASES[name][0], foundation.COPRESHEAVES[name])
        assert check.holds and check.counted["given back"] == pairs

    @pytest.mark.parametrize("seed", range(6))
    def test_random_categories(self, seed):
        rng = Random(seed)
        orders = [(random_poset(4, rng), 2), (random_poset(5, rng), 1)]
        monoids = [(random_monoid(3, rng), 3), (random_monoid(4, rng), 2)]
        for cat, most in orders + monoids:
            assert foundation.prompting("", cat, most).holds
            assert foundation.fine_tuning("", cat, most).holds
            assert foundation.extension("", cat, min(most, 2)).holds

    def test_equal_sizes_are_not_enough(self):
        """Two answers that the symmetry leaves alone, against two that it exchanges: the prompt's."""
        still = Presheaf({"*": 2}, {identity("*"): (0, 1), "*1": (0, 1)})
        assert still.sizes == yoneda(Z2, "*").sizes
        assert not foundation.prompted(Z2, still) and universal_element(Z2, still) is None
        moved = Presheaf({"*": 2}, {identity("*"): (0, 1), "*1": (1, 0)})
        assert foundation.prompted(Z2, moved) and universal_element(Z2, moved) == ("*", 0)

    def test_what_is_not_natural_is_refused(self, monkeypatch):
        """The check of theorem 2 can fail: with the Yoneda map's entries exchanged it does."""
        t = next(t for t in presheaves(Z2, 2) if foundation.prompted(Z2, t))
        assert foundation.answers_naturally(Z2, t)
        right = foundation.yoneda_map
        monkeypatch.setattr(
            foundation, "yoneda_map", lambda *args: {z: table[:1] * 2 for z, table in right(*args).items()}
        )
        assert not foundation.answers_naturally(Z2, t)

    def test_the_extension_keeps_sums(self):
        """It preserves colimits, which makes it the only such extension: checked on disjoint unions."""
        functors = list(presheaves(KRONECKER.opposite(), 2))
        tasks, rng = list(presheaves(KRONECKER, 2)), Random(0)
        for s, t, f in [(rng.choice(tasks), rng.choice(tasks), rng.choice(functors)) for _ in range(40)]:
            both = Presheaf(
                {x: s.sizes[x] + t.sizes[x] for x in KRONECKER.objects},
                {
                    m: s.tables[m] + tuple(i + s.sizes[a] for i in t.tables[m])
                    for m, (a, _) in KRONECKER.arrows.items()
                },
            )
            classes = [len(set(coend(KRONECKER, part, f).values())) for part in (s, t, both)]
            assert classes[0] + classes[1] == classes[2]

    def test_rotations_answer_for_one_picture_only(self):
        check = foundation.rotations(2)
        assert check.holds and tuple(check.counted.values()) == (2, 2, 9, 0)

    def test_minimum_power(self):
        found = {check.case: check for check in foundation.minimum_power()}
        assert all(check.holds for check in found.values())
        solved = {case: tuple(check.counted.values()) for case, check in found.items()}
        assert solved["Kronecker, its arrows exchanged"] == solved["Kronecker, the model itself"] == (25, 25)
        assert solved["Kronecker, its arrows merged"] == (25, 11)
        assert solved["cospan, one arrow never learned"][1] > 0

    def test_only_loops_survive_merged_ends(self):
        """By hand: with both ends merged a head answers graphs whose edges all are loops, and no others."""
        loops = sum(t.tables["s"] == t.tables["t"] for t in presheaves(KRONECKER, 2))
        found = {check.case: check for check in foundation.minimum_power()}
        assert found["Kronecker, its arrows merged"].counted["solved by a head"] == loops == 11


class TestCreation:
    same = inclusion(LATTICE, LATTICE)

    def decode(self, *seen):
        return {x: foundation.decode(seen, LATTICE, LATTICE, self.same, x) for x in LATTICE.objects}

    def test_all_eight_are_found_from_three(self):
        assert self.decode("1", "2", "3") == {x: [x] for x in LATTICE.objects}

    def test_two_leave_two_candidates(self):
        found = self.decode("1", "2")
        assert all(len(candidates) == 2 and x in candidates for x, candidates in found.items())

    def test_the_seen_must_be_dense(self):
        """Every object is found exactly where the seen ones are dense: Hom(c, d) = Nat(N(c), N(d))."""
        for seen in [("1", "2", "3"), ("1", "2"), ("12", "13", "23"), ("0", "1", "2", "3"), ("123",)]:
            known = LATTICE.full(seen)
            near = {}
            for c in LATTICE.objects:
                h = yoneda(LATTICE, c)
                near[c] = Presheaf({z: h.sizes[z] for z in seen}, {m: h.tables[m] for m in known.arrows})
            dense = all(
                len(list(transformations(known, near[c], near[d]))) == len(LATTICE.hom(c, d))
                for c, d in product(LATTICE.objects, repeat=2)
            )
            assert dense == (self.decode(*seen) == {x: [x] for x in LATTICE.objects})

    def test_conditions(self):
        found = {check.case: check for check in foundation.creation()}
        assert all(check.holds for check in found.values())
        full = next(check for case, check in found.items() if "not full" in case)
        assert full.counted["taken for another"] == 1
        faithful = next(check for case, check in found.items() if "not faithful" in case)
        assert faithful.counted["without candidate"] == 1
        poorer = poset(LATTICE.objects, lambda x, y: f"{x}<{y}" in LATTICE.arrows and (x, y) != ("1", "12"))
        assert foundation.decode("123", poorer, LATTICE, inclusion(poorer, LATTICE), "12") == ["2"]

    def test_naturality_among_the_seen_decides(self):
        """z has a symmetry; it exchanges the two arrows z -> x and fixes the two z -> y."""
        arrows = {"s": ("z", "z"), "p": ("z", "x"), "q": ("z", "x"), "u": ("z", "y"), "w": ("z", "y")}
        after = {("s", "s"): "1_z", ("p", "s"): "q", ("q", "s"): "p", ("u", "s"): "u", ("w", "s"): "w"}
        cat = FinCat("zxy", arrows, after)
        assert foundation.decode("z", cat, cat, inclusion(cat, cat), "x") == ["z", "x"]
        assert foundation.decode("z", cat, cat, inclusion(cat, cat), "y") == ["y"]


class TestLearned:
    def test_orders_and_down_sets(self):
        generator = torch.Generator().manual_seed(0)
        below = posets.random_order(30, generator)
        assert below.diagonal().all() and not (below & below.T).fill_diagonal_(False).any()
        assert torch.equal((below.float() @ below.float()) > 0, below), "transitive"
        tasks = posets.down_sets(below, 50, generator)
        for task in tasks:
            assert all(task[x] for x, y in product(range(30), repeat=2) if below[x, y] and task[y])
        assert len(tasks) == 50 and tasks.any(1).all()

    def test_prompts_solve_the_representable_and_heads_all(self):
        prompt, head = posets.solved("prompt", 0), posets.solved("head", 0)
        assert prompt["solved of the representable"] == 1 and prompt["solved of the others"] == 0
        assert head["solved"] == 1

    def test_merged_objects_are_lost(self):
        generator = torch.Generator().manual_seed(0)
        below = posets.random_order(12, generator)
        tasks = posets.down_sets(below, 20, generator)
        merged = posets.merge(torch.randn(12, 16, generator=generator), tasks)
        same = [(x, y) for x in range(12) for y in range(x) if torch.equal(merged[x], merged[y])]
        assert len(same) == 1
        x, y = same[0]
        answers = posets.heads(merged, tasks)
        assert torch.equal(answers[:, x], answers[:, y])
        apart = tasks[:, x] != tasks[:, y]
        assert apart.any() and not (answers == tasks).all(1)[apart].any()


class TestStudy:
    def test_rows(self):
        rows = run_study(SLUG)
        assert all(row["holds"] for row in rows)
        assert {row["theorem"][0] for row in rows} == {"1", "2", "3"}

    def test_command(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["study", SLUG, "--json"])
        assert not ended.value.code
        assert json.loads(capsys.readouterr().out) == run_study(SLUG)

    def test_a_check_that_fails_is_an_error(self, capsys, monkeypatch):
        failed = foundation.rotations(1)._replace(holds=False).row()
        monkeypatch.setattr(foundation, "study", lambda: [failed])
        with pytest.raises(SystemExit) as ended:
            main(["study", SLUG])
        assert ended.value.code == 1 and "1 of 1 checks" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["train", "preview"])
    def test_there_is_nothing_to_train(self, command, capsys):
        with pytest.raises(SystemExit) as ended:
            main([command, SLUG])
        assert ended.value.code == 2 and f"pretask study {SLUG}" in capsys.readouterr().err

    def test_a_task_is_no_study(self):
        with pytest.raises(UsageError, match="pretask train mae"):
            run_study("mae")

    def test_it_is_listed_and_shown(self, capsys):
        assert catalog.BY_SLUG[SLUG] not in catalog.TASKS
        for arguments, expected in ((["list", "--json"], SLUG), (["show", SLUG], f"pretask study {SLUG}")):
            with pytest.raises(SystemExit):
                main(arguments)
            assert expected in capsys.readouterr().out

    def test_the_page_says_what_a_run_finds(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
        write_into(page, run_study(SLUG))
        assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")

    def test_a_page_without_marks_is_refused(self, tmp_path):
        (tmp_path / "page.md").write_text(f"{END}\n{START}\n")
        with pytest.raises(UsageError, match="no place for results"):
            write_into(tmp_path / "page.md", [{"a": 1}])


class TestTheoryClaim:
    claim = Theory(
        "More is more.",
        {
            "more": lambda seed: {"value": 2.0 + seed, "items": torch.ones(5)},
            "less": lambda seed: {"value": 1.0},
        },
        (Comparison("value", "more", "less"), Comparison("items", "more", margin=0.5)),
    )

    def run(self, monkeypatch, tmp_path, claim, **kwargs):
        monkeypatch.setattr(experiment, "find_claim", lambda slug: claim)
        return experiment.run_claim(SLUG, out=tmp_path / "evidence", work=tmp_path / "work", **kwargs)

    def test_evidence_by_the_same_rule(self, monkeypatch, tmp_path):
        result = self.run(monkeypatch, tmp_path, self.claim)
        assert result["verdict"] == "holds" and result["effect"] == 3.0
        assert result["arms"]["more"]["value"] == [2.0, 3.0, 4.0, 5.0, 6.0]
        sources = {
            "claims/power_of_foundation_models.py",
            "studies/theory/foundation.py",
            "studies/theory/posets.py",
        }
        assert sources <= set(result["source"])
        assert evidence.freshness(result) == "current"
        page = evidence.write_table(tmp_path / "evidence", tmp_path / "docs").read_text()
        assert "Data: none needed." in page and "samples to pretrain on" not in page

    def test_a_study_that_changed_makes_it_stale(self, monkeypatch, tmp_path):
        result = self.run(monkeypatch, tmp_path, self.claim)
        for name, expected in (("foundation", "**stale**"), ("categories", "current; blocks changed")):
            now = result["source"] | {f"studies/theory/{name}.py": "other"}
            monkeypatch.setattr(evidence, "method_sources", lambda slug, now=now: now)
            assert evidence.freshness(result).startswith(expected)

    def test_no_number_no_arm(self, monkeypatch, tmp_path):
        broken = replace(self.claim, arms={**self.claim.arms, "less": lambda seed: {"value": float("nan")}})
        with pytest.raises(PretaskError, match="not finite"):
            self.run(monkeypatch, tmp_path, broken)
        with pytest.raises(UsageError, match="no arm 'typo'"):
            replace(self.claim, comparisons=(Comparison("value", "typo"),))


def test_nothing_of_it_needs_torch():
    code = f"import sys, pretask; pretask.run_study('{SLUG}'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_isomorphic_tasks_are_relabelled_ones():
    t = Presheaf({"v": 3, "e": 1}, {"1_v": (0, 1, 2), "1_e": (0,), "s": (0,), "t": (1,)})
    u = Presheaf({"v": 3, "e": 1}, {"1_v": (0, 1, 2), "1_e": (0,), "s": (2,), "t": (1,)})
    loop = Presheaf({"v": 3, "e": 1}, {"1_v": (0, 1, 2), "1_e": (0,), "s": (1,), "t": (1,)})
    assert isomorphic(KRONECKER, t, u) and not isomorphic(KRONECKER, t, loop)
