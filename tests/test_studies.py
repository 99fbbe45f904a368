"""Studies: rows of the catalogue that are run and not trained, and claims that need no data."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pretask import catalog
from pretask.cli import main
from pretask.errors import PretaskError, UsageError
from pretask.studies import evidence, experiment
from pretask.studies.claim import Comparison, Theory
from pretask.studies.study import END, START, run_study, write_into
from pretask.studies.theory import foundation

SLUG = "power-of-foundation-models"
PAGE = Path(__file__).parents[1] / "docs" / "theory-foundation-models.md"


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
