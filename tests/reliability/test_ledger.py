"""Proofs stop and go on, and write their figures into their own place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reliability.ledger import Ledger, run_slice, write_section


def test_a_proof_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Two slices do every trial once, in order."""
    assert not run_slice(Ledger("p", tmp_path), 5, 0, lambda n: {"n": n})
    first = Ledger("p", tmp_path)
    first.add({"n": 0})
    assert run_slice(Ledger("p", tmp_path), 3, 60, lambda n: {"n": n})
    assert [t["n"] for t in Ledger("p", tmp_path).trials] == [0, 1, 2]


def test_a_line_that_a_power_cut_broke_is_done_again(tmp_path: Path) -> None:
    """Half a line is no trial."""
    (tmp_path / "p.jsonl").write_text('{"n": 0}\n{"n": ')
    assert [t["n"] for t in Ledger("p", tmp_path).trials] == [0]


def test_figures_replace_those_of_their_own_proof(tmp_path: Path) -> None:
    """What stands outside the marks stays."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end a -->\nafter\n")
    write_section("a", "new", page)
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- end a -->\nafter\n"
    with pytest.raises(SystemExit, match="no place for b"):
        write_section("b", "new", page)
