"""A survey: many methods under one budget, one table, and what it finds. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pretask import catalog
from pretask.catalogue.taxonomy import select
from pretask.errors import UsageError
from pretask.studies.claim import Arm, Claim

Values = Mapping[str, Mapping[str, float]]
"""By arm and metric the values of one seed."""


@dataclass(frozen=True)
class Finding:
    """Something that a survey's table should show, beside comparisons of two arms.

    Args:
        says: in words what is measured; the sign follows.
        of: the number for one seed; None where arms it needs were not run.
        claimed: on which side of the margin it is said to lie.
        margin: where that begins.
    """

    says: str
    of: Callable[[Values], float | None]
    claimed: Literal["higher", "lower"] = "higher"
    margin: float = 0.0

    def __str__(self) -> str:
        return f"{self.says} {'>' if self.claimed == 'higher' else '<'} {self.margin:g}"


@dataclass(frozen=True)
class Survey:
    """Members by family, what they are judged by, and what should come out.

    `claim.steps` and `claim.batch_size` are the budget of a method that shows the encoder two views of every picture
    of a batch; the others train until they have shown it as many pictures, crops counted by their area, or for as
    many steps.

    Args:
        claim: arms, data and metrics; its comparisons are findings, too. Arms of methods that the catalogue does not
            have are left out.
        families: names of arms by family, in the order of the table.
        findings: that compare more than two arms.
        theory: rows of checks that need no training.
        alike: what all members get as much of.
    """

    claim: Claim
    families: Mapping[str, Sequence[str]]
    findings: tuple[Finding, ...] = ()
    theory: Callable[[], list[dict[str, object]]] | None = None
    alike: Literal["pictures", "steps"] = "pictures"

    def __post_init__(self) -> None:
        named = [name for names in self.families.values() for name in names]
        if sorted(named) != sorted(self.claim.arms):
            raise UsageError(f"families and arms differ: {sorted(set(named) ^ set(self.claim.arms))}")

    def family(self, arm: str) -> str:
        return next(family for family, names in self.families.items() if arm in names)

    def chosen(self, only: Sequence[str] = (), where: Sequence[str] = ()) -> dict[str, Arm]:
        """The arms to run, in the table's order: those named, by themselves or by their family, or all; with
        conditions those of methods that satisfy them.

        Raises:
            UsageError: a name is no arm and no family, or a condition is none.
        """
        fit = {record.slug for record in select(where)}
        known = [*self.families, *self.claim.arms]
        for name in only:
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.4) or list(self.families)
                raise UsageError(f"the survey has no family or member '{name}'; it has: {', '.join(near)}")
        return {
            name: self.claim.arms[name]
            for family, names in self.families.items()
            for name in names
            if (not only or family in only or name in only)
            and not missing(self.claim.arms[name])
            and (not where or self.claim.arms[name].method in fit)
        }

    def absent(self) -> list[str]:
        """Methods that are named and not in the catalogue."""
        found = [slug for arm in self.claim.arms.values() for slug in missing(arm)]
        return list(dict.fromkeys(found))

    def of(self, arms: Mapping[str, Arm]) -> Survey:
        """The same survey of these arms alone."""
        comparisons = tuple(
            c for c in self.claim.comparisons if c.arm in arms and (c.against is None or c.against in arms)
        )
        families = {
            family: [name for name in names if name in arms] for family, names in self.families.items()
        }
        return replace(
            self, claim=replace(self.claim, arms=dict(arms), comparisons=comparisons), families=families
        )


def missing(arm: Arm) -> list[str]:
    """Methods of an arm that the catalogue does not have."""
    slugs = arm.method.split("+") if isinstance(arm.method, str) else []
    return [slug for slug in slugs if slug not in catalog.BY_SLUG]


@dataclass(frozen=True)
class Settings:
    """How a study is run.

    Args:
        data: anything `open_data` takes by name; None takes the study's own.
        quick: only show that it runs: two steps on a few samples.
        steps: optimiser steps of a method that shows two views of every picture; None takes the study's.
        seeds: repetitions; None takes the study's.
        only: families or members; default all.
        where: conditions on what members are made of (`catalogue.taxonomy.select`); default none.
        work: the folder that keeps what is finished.
    """

    data: str | None = None
    quick: bool = False
    steps: int | None = None
    seeds: int | None = None
    only: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    work: Path = Path("runs/studies")

    @property
    def asked(self) -> list[str]:
        """The names of what was set, but for the folder."""
        return [
            name for name, value in vars(self).items() if name != "work" and value not in (None, False, ())
        ]
