"""What the local page shows: its HTML with the words of every language in it, and what it is told of a case."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from glialite_runtime.cases import sequence_of
from glialite_runtime.clinic.worklist import Job
from glialite_runtime.page.refusals import refusal
from glialite_runtime.page.warnings import warnings_of
from glialite_runtime.page.words import LANGUAGES, REVIEWED, Words, keys_of
from glialite_runtime.sequences import REGIONS

__all__ = ["page", "shown_job"]

_GROUPS: Final = (
    "serve.",
    "sequence.",
    "plane.",
    "region.",
    "not_for_diagnosis",
    "not_segmented",
    "unreviewed",
    "volumes",
    "sequences",
)
"""Beginnings of the keys that the page's script asks for."""

_MOST_FILES: Final = 50  # of a case, by name


@cache
def page(language: str) -> tuple[bytes, str]:
    """Return the page, which begins in a language, and its content security policy: only its own script runs."""
    keys = [key for group in _GROUPS for key in keys_of(group)]
    words = {code: {key: Words(code).template(key) for key in keys} for code in LANGUAGES}
    facts = {"words": words, "names": dict(LANGUAGES), "reviewed": sorted(REVIEWED), "language": language}
    source = (files("glialite_runtime.clinic") / "page.html").read_text("utf-8")
    content = source.replace("/*FACTS*/ {}", json.dumps(facts).replace("<", r"\u003c")).encode()
    script = re.search(rb"<script>(.*?)</script>", content, re.DOTALL)
    digest = b64encode(sha256(script[1] if script else b"").digest()).decode()
    return content, (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def shown_job(job: Job, suggested: str, waiting: list[str], words: Words) -> dict[str, Any]:
    """Return what the page is told of a case, in its language.

    Parameters
    ----------
    job : Job
        The case.
    suggested : str
        What it may be called.
    waiting : list of str
        Keys of the cases that wait, in their order.
    words : Words
        The language.
    """
    return {
        "key": job.key,
        "state": job.state,
        "name": job.name,
        "suggested": suggested,
        "files": [{"name": name, "sequence": sequence_of(Path(name))} for name in list(job.files)[:_MOST_FILES]],
        "count": len(job.files),
        "ahead": waiting.index(job.key) if job.key in waiting else 0,
        "seconds": round(time.monotonic() - job.since, 1) if job.since else 0,
        "sentence": refusal(job.sentence, words),
        "report": _shown_report(job.result.report, words) if job.result else None,
        "downloads": list(job.result.files) if job.result else [],
    }


def _shown_report(report: dict[str, Any], words: Words) -> dict[str, Any]:
    regions = []
    for region in REGIONS:
        ml, interval = report["volumes_ml"][region], report["volume_intervals_ml"].get(region)
        limits = {end: words.number(interval[end]) for end in ("low", "high")} if interval else {}
        regions.append(
            {
                "id": region,
                "volume": words.say("without_t1c") if ml is None else words.ml(ml),
                "range": words.say("range_ml", **limits) if limits else "",
            }
        )
    quality, lesions = report["quality"], len(report["lesions"]) + report["lesions_not_listed"]
    facts = {"lesions": str(lesions), "quality": words.say(f"verdict.{quality['verdict']}")}
    general = words.say("not_for_diagnosis")  # stands on top of the page at all times
    warnings = [words.note(found) for found in quality["findings"]]
    return {
        "regions": regions,
        "facts": [words.say("serve.fact", name=words.say(key), value=value) for key, value in facts.items()],
        "warnings": warnings + [said for said in warnings_of(report, words) if said != general],
    }
