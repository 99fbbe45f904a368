"""Arms of claims in several processes give what they give one after the other."""

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from pretask.errors import PretaskError, UsageError
from pretask.studies import experiment
from pretask.studies.claim import find_claim
from pretask.studies.experiment import run_claim
from pretask.studies.parallel import measure_arms, result

SLUG = "predict-what-you-know"


def test_processes_measure_what_one_would(tmp_path, monkeypatch):
    measure_arms([SLUG], 2, seeds=1, work=tmp_path / "spread")
    monkeypatch.setattr(experiment, "run_trial", None)  # nothing is left to be run
    found = run_claim(SLUG, seeds=1, out=tmp_path, work=tmp_path / "spread")["arms"]
    arms = find_claim(SLUG).arms
    assert found.keys() == arms.keys()
    name = list(arms)[-1]
    assert found[name] == {key: [pytest.approx(float(value))] for key, value in arms[name](0).items()}


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        measure_arms([SLUG], 0)
    with pytest.raises(UsageError, match="no claim 'nothing'"):
        measure_arms(["nothing"], 2)


@pytest.mark.parametrize(
    ("error", "said"), [(ValueError("why"), "mae: raw, seed 1: ValueError: why"), (BrokenProcessPool(), "fewer")]
)
def test_a_failed_arm_is_named(error, said):
    failed: Future[str] = Future()
    failed.set_exception(error)
    with pytest.raises(PretaskError, match=said):
        result(failed, "mae", "raw", 1)
