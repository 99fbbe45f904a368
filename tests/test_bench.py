"""Every case of the benchmarks runs at toy size, with whatever peers are installed; no time is judged."""

import importlib
import math

import pytest
import torch
from bench import gpu, table
from bench.__main__ import CASES
from bench.harness import RESULTS, Row, against, said, write


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES)
def test_every_case_runs(case, capsys):
    rows = importlib.import_module(f"bench.{case}").measure(toy=True)
    print(*map(said, rows), sep="\n")
    assert rows
    for row in rows:
        assert math.isfinite(row.ours) and row.threads == 1
        assert row.peer is not None or "not installed" in row.note
    missing = [row.note for row in rows if "not installed" in row.note]
    if missing:
        with capsys.disabled():
            print(f"\n{case}: {missing[0]}")


def test_the_gpu_case_runs_on_a_cpu(capsys):
    gpu.main(["--toy"])
    assert "nothing is kept" in capsys.readouterr().out


def test_the_best_peer_is_the_one_beside_ours():
    row = against("x", {"ours": [2.0, 4.0, 3.0], "slow": [9.0], "fast": [4.0, 6.0]}, {}, 0.5)
    assert (row.ours, row.peer, row.peer_name, row.ratio) == (3.0, 5.0, "fast", 0.6)
    assert row.others == {"slow": 9.0, "fast": 5.0}


def test_figures_of_other_numbers_of_threads_stay(tmp_path):
    write("x", [Row("a", 1.0, None, threads=1)], tmp_path)
    write("x", [Row("a", 2.0, None, threads=2)], tmp_path)
    write("x", [Row("a", 3.0, None, threads=1)], tmp_path)
    shown = table.text(tmp_path)
    assert "| a, 2 threads | 2.00 s |" in shown and "| a | 3.00 s |" in shown and "1.00" not in shown


def test_the_page_shows_the_figures_that_are_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(table.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    table.renew(page, RESULTS)
    assert page.read_text(encoding="utf-8") == table.PAGE.read_text(encoding="utf-8")
