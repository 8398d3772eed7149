"""The local page in a real browser without a window: a case is dropped, looked at and downloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from glialite_runtime.page.words import words_in

from tests.conftest import toy, write_case

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is absent: pip install '.[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 60_000

GREEN_PIXELS = """() => {
  const c = document.getElementById("canvas"), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  let n = 0;
  for (let i = 0; i < d.length; i += 4) if (d[i + 1] > d[i] + 60 && d[i + 1] > d[i + 2] + 60) n++;
  return n;
}"""
NAMELESS = """() => [...document.querySelectorAll("button, input, select, canvas, progress")].filter(e =>
  !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.ariaLabel && !e.textContent.trim()
).map(e => e.id)"""
ATTACKS = """async home => {
  const token = {headers: {"X-GliaLite-Token": "x"}}, change = {method: "POST"}, found = [];
  const attempts = [["api/state", {}], ["api/state", token], ["api/cases", change], ["", {}],
    ["api/quit", {...change, mode: "no-cors"}], ["api/cases", {...change, mode: "no-cors", body: "x"}]];
  for (const [path, options] of attempts)
    try { const answer = await fetch(home + path, options); found.push(answer.type); } catch { found.push("refused"); }
  return found;
}"""


class Stranger(BaseHTTPRequestHandler):
    """Another page on this computer."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>stranger")

    def log_message(self, *said: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, make_bundle: Callable[..., Path]) -> Iterator[str]:
    """Return the address that `glialite serve` prints, run as a program of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = "from glialite_runtime.cli import main; main()"
    arguments = ["serve", "--no-browser", "--bundle", str(make_bundle()), "--out", str(tmp_path / "out")]
    program = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert program.stdout is not None
    yield program.stdout.readline().strip()
    program.terminate()
    assert program.wait(60) == 0
    program.stdout.close()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """Return a tab of 1024 × 768 pixels that has the page open; any fault in its script fails the test."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this computer")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab, faults, asked = browser.new_page(viewport={"width": 1024, "height": 768}), [], []
        tab.set_default_timeout(PATIENCE_MS)
        tab.on("pageerror", lambda fault: faults.append(str(fault)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        yield tab
        browser.close()
    assert not faults
    home = address.partition("#")[0]
    assert all(url.startswith((home, "blob:", "data:")) for url in asked), "something was asked for elsewhere"


def painted(tab: Any, what: str) -> None:
    """Wait until the canvas shows a sequence, plane and slice."""
    tab.wait_for_selector(f'#canvas[data-painted^="{what}"]')


def test_a_case_from_drop_to_download(page: Any, tmp_path: Path) -> None:
    """Everything that a radiographer does, with the mouse, the wheel and the keys; nothing sticks out of the window."""
    files = sorted(write_case(tmp_path / "P07", toy()).glob("*-t*.nii.gz"))
    page.set_input_files("#files", files)
    page.get_by_label("Name of the case").wait_for()
    assert page.get_by_label("Name of the case").input_value() == "P07"
    assert page.get_by_label("P07-t2f.nii.gz").input_value() == "t2f"
    assert "token" not in page.url
    page.get_by_role("button", name="Segment").click()

    painted(page, "t1c axial")
    first = page.get_attribute("#canvas", "data-painted")
    colours = page.evaluate(GREEN_PIXELS)
    assert colours > 20, "the green outline of the whole tumour"
    page.keyboard.press("PageUp")
    painted(page, f"t1c axial {int(first.split()[-1]) + 10}")
    page.hover("#canvas")
    page.mouse.wheel(0, 100)
    painted(page, f"t1c axial {int(first.split()[-1]) + 9}")
    page.keyboard.press("4")
    painted(page, "t2f axial")
    page.get_by_role("button", name="Sagittal").click()
    painted(page, "t2f sagittal")
    assert page.get_attribute("#canvas", "aria-label").startswith("P07, FLAIR, sagittal, Slice ")
    page.get_by_label("Contrast").fill("80")
    assert page.evaluate("document.documentElement.scrollWidth <= 1024 && document.documentElement.scrollHeight <= 768")

    with page.expect_download() as zipped:
        page.get_by_role("button", name="Download all (zip)").click()
    names = zipfile.ZipFile(zipped.value.path()).namelist()
    assert {"P07/P07-seg.nii.gz", "P07/P07-report.html", "P07/P07-report.json"} <= set(names)
    with page.expect_popup() as report:
        page.get_by_role("button", name="Open report").click()
    report.value.wait_for_selector("text=P07")
    assert (tmp_path / "out" / "P07" / "P07-manifest.json").exists()


@pytest.mark.parametrize("language", ["fr", "pt", "sw"])
def test_another_language_is_chosen_on_the_page(page: Any, tmp_path: Path, language: str) -> None:
    """Labels, buttons, numbers and refusals change at once; it is marked as not reviewed; nothing sticks out."""
    words = words_in(language)
    assert not page.is_visible("#unreviewed")
    page.set_input_files("#files", sorted(write_case(tmp_path / "P07", toy()).glob("*-t*.nii.gz")))
    page.get_by_label("Name of the case").wait_for()
    page.select_option("#language", language)
    assert words.say("unreviewed") in page.inner_text("#unreviewed")
    assert "has not been reviewed" in page.inner_text("#unreviewed")
    page.get_by_label(words.say("serve.name")).wait_for()
    assert not page.get_by_label(words.say("serve.raw")).is_checked()
    page.get_by_role("button", name=words.say("serve.segment")).click()
    painted(page, "t1c axial")
    assert page.get_attribute("#canvas", "aria-label").startswith(f"P07, {words.say('sequence.t1c')}, ")
    assert words.say("nothing_outlined") not in page.inner_text("#notes")
    assert words.say("region.WT") in page.inner_text("#volumes")
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("document.documentElement.scrollWidth <= 1024 && document.documentElement.scrollHeight <= 768")

    (tmp_path / "P1-t1c.nii.gz").write_bytes(b"no image")
    page.set_input_files("#files", tmp_path / "P1-t1c.nii.gz")
    page.get_by_role("button", name=words.say("serve.segment")).click()
    page.wait_for_selector("li.failed")
    sentence = words.say("refused.no_nifti", path="P1-t1c.nii.gz")
    assert sentence in page.inner_text("li.failed")
    page.reload()
    page.get_by_role("button", name=words.say("serve.quit")).wait_for()
    page.select_option("#language", "en")
    page.get_by_role("button", name="End program").wait_for()
    assert not page.is_visible("#unreviewed")
    report = json.loads((tmp_path / "out" / "P07" / "P07-report.json").read_text())
    assert report["language"] == language, "the report is in the language in which the case was started"


def test_what_cannot_be_used_is_said_and_labels_name_every_control(page: Any, tmp_path: Path) -> None:
    """A file that is no image; a screen reader finds a name on each control."""
    (tmp_path / "P1-t1c.nii.gz").write_bytes(b"no image")
    page.set_input_files("#files", tmp_path / "P1-t1c.nii.gz")
    page.get_by_role("button", name="Segment").click()
    page.wait_for_selector("text=Not segmented: P1-t1c.nii.gz is not a single-file NIfTI image")
    assert page.evaluate(NAMELESS) == []


def test_another_page_in_the_same_browser_gets_nothing(page: Any, address: str) -> None:
    """A page of another origin can neither read nor change; without its token our own cannot either."""
    home = address.partition("#")[0]
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stranger = page.context.browser.new_page()
        stranger.goto(f"http://127.0.0.1:{server.server_port}/")
        tried = stranger.evaluate(ATTACKS, home)
        server.shutdown()
    assert set(tried[:4]) == {"refused"}
    assert set(tried[4:]) <= {"refused", "opaque"}
    assert page.evaluate("fetch('/api/state').then(a => a.status)") == 401
    cases = page.evaluate("ask('/api/state').then(a => a.json()).then(s => s.cases)")
    assert cases == [], "it still runs, and the stranger has put nothing there"
