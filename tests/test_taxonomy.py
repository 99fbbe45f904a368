"""What methods for pictures are made of, and asking for it."""

import json

import pytest

from pretask import catalog
from pretask.catalogue import taxonomy
from pretask.cli import main
from pretask.errors import UsageError
from pretask.studies.study import find_study


class TestTaxonomy:
    def test_distillation_without_a_slow_teacher(self):
        found = taxonomy.select(["branch=distillation", "asymmetry!=EMA"])
        assert [record.slug for record in found] == ["simsiam"]
        assert {r.slug for r in taxonomy.select(["negatives=queue"])} == {"moco"}
        assert {r.slug for r in taxonomy.select(["masking>0.55", "branch=masked"])} == {
            "mae",
            "simmim",
            "hiera",
            "data2vec",
        }
        assert all(r.year < 2019 for r in taxonomy.select(["year<2019"]))

    @pytest.mark.parametrize("condition", ["distillation", "colour=red", "loss>3"])
    def test_what_is_no_condition(self, condition):
        with pytest.raises(UsageError, match="no condition|only numbers"):
            taxonomy.select([condition])

    def test_every_record_is_of_a_method(self):
        assert {record.slug for record in taxonomy.RECORDS} <= set(catalog.BY_SLUG)
        assert len({record.slug for record in taxonomy.RECORDS}) == len(taxonomy.RECORDS)

    def test_survey_of_a_part(self):
        assert list(find_study("know-your-ssl").chosen(where=["branch=distillation", "asymmetry!=EMA"])) == [
            "simsiam"
        ]

    def test_command(self, capsys):
        with pytest.raises(SystemExit):
            main(["list", "--where", "negatives=bank", "--json"])
        assert {record["slug"] for record in json.loads(capsys.readouterr().out)} == {"instdisc", "pirl"}
