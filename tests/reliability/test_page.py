"""The attacks on the local page, a few of each kind, on a page that runs; and a page without a guard is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from glialite_runtime.bundle import default_bundle

from bench.reliability import page


def test_a_running_page_refuses_what_the_proof_sends(tmp_path: Path) -> None:
    """One attack of every kind is refused; nothing is shut out that is right."""
    with page.served(tmp_path / "out", default_bundle()) as running:
        kinds = {kind: number for number, (kind, *_) in enumerate(page.attacks(running))}
        assert len(kinds) >= 12
        for number in kinds.values():
            assert page.trial(running, number)["fault"] == ""
        assert page.controls(running) == []


def test_a_page_that_lets_everything_in_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof can fail: an answer of 200, one that tells the token, and a case that appeared."""
    running = page.Page(9, "secret", tmp_path)
    monkeypatch.setattr(page.Page, "state", lambda _: [])
    for answer in ((200, b""), (404, b"secret"), (500, b"")):
        monkeypatch.setattr(page.Page, "ask", lambda *_, answer=answer: answer)
        assert page.trial(running, 0)["fault"]
    monkeypatch.setattr(page.Page, "ask", lambda *_: (401, b""))
    assert page.trial(running, 0)["fault"] == ""
    monkeypatch.setattr(page.Page, "state", lambda _: [{"key": "1"}])
    assert page.trial(running, 0)["fault"]
