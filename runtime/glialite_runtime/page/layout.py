"""The one-page report: self-contained HTML that opens without a network and prints on A4 in black and white."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.notes import NOT_FOR
from glialite_runtime.page.figures import figures
from glialite_runtime.page.identity import clean, shown_identity
from glialite_runtime.page.sections import (
    comparison_section,
    diameter_section,
    lesion_section,
    quality_section,
    sequence_section,
    uncertainty_section,
    volume_section,
)
from glialite_runtime.page.warnings import warnings_of
from glialite_runtime.page.words import LANGUAGES, REVIEWED, Words, words_in
from glialite_runtime.volume import Volume

__all__ = ["render"]

_ON_EVERY_SHEET: Final = ("patient_name", "patient_id", "accession_number", "study_date")

# The whole page is the body of a table, because browsers repeat a table's head on every sheet of paper.
_STYLE: Final = """
@page { size: A4; margin: 10mm }
* { box-sizing: border-box }
body { font: 14px/1.4 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #000; background: #fff;
  max-width: 1000px; margin: 0 auto; padding: 0 12px }
table { border-collapse: collapse }
.sheet { width: 100% } .sheet > * > tr > td { padding: 0 }
.strip { display: flex; flex-wrap: wrap; gap: 0 1.6em; border-bottom: 2px solid #000; padding: 4px 0; font-weight: 600 }
.strip span:last-child { margin-left: auto }
h1 { font-size: 1.3em; margin: .5em 0 .3em } h2 { font-size: 1.05em; margin: .9em 0 .2em; break-after: avoid }
p, ul { margin: .25em 0 } ul { padding-left: 1.3em }
.warning { border: 2px solid #000; padding: .3em .6em; font-weight: 600; margin: .4em 0; break-inside: avoid }
.note, footer { font-size: .82em; color: #222 } footer { margin-top: .8em; overflow-wrap: anywhere }
.who { display: grid; grid-template-columns: max-content 1fr max-content 1fr; gap: .1em .9em; margin: .3em 0 }
.who dt { color: #333 } .who dd { margin: 0; font-weight: 600; overflow-wrap: anywhere }
.data { margin: .2em 0; break-inside: avoid } .data th, .data td { text-align: left; padding: .15em 1.1em .15em 0;
  border-bottom: 1px solid #888; vertical-align: top }
.data .number { text-align: right; font-variant-numeric: tabular-nums }
.data .whole { white-space: nowrap }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2em }
.key { vertical-align: middle; margin-right: .5em }
.together { break-inside: avoid }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; margin-top: .3em }
figure { margin: 0; text-align: center; break-inside: avoid; font-size: .85em }
figure div { background: #000; height: 300px; display: flex; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
figure img { max-width: 100%; max-height: 100%; margin: auto }
.by-hand { border-bottom: 1px solid #000; height: 1.9em } .sign { margin-top: 1em }
@media print { body { font-size: 11.5px; padding: 0; max-width: none } figure div { height: 62mm } }
@media (max-width: 700px) { .columns, .who { grid-template-columns: 1fr } .pictures { grid-template-columns: 1fr } }
"""


def render(document: dict[str, Any], volume: Volume | None, labels: npt.NDArray[np.uint8], language: str = "en") -> str:
    """Return the page of a case.

    Parameters
    ----------
    document : dict
        The JSON report.
    volume : Volume or None
        The case's images in LPS; without them the page has no pictures.
    labels : uint8 array (z, y, x)
        Label map on the same grid.
    language : str
        One of `words.LANGUAGES`.

    Returns
    -------
    str
        HTML with its pictures inside; no script, no link, nothing loaded from elsewhere.

    Raises
    ------
    ConfigError
        There is no such language.
    """
    words = words_in(language)
    case = escape(clean(document["case"]))
    return f"""<!DOCTYPE html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{case}: {_t(words, "title")}</title><style>{_STYLE}</style></head><body>
<table class="sheet" role="presentation"><thead><tr><td>{_strip(document, words)}</td></tr></thead><tbody><tr><td>
<h1>{_t(words, "title")}</h1>
{_identity(document, words)}
{_warnings(document, words)}
{volume_section(document, words)}
<div class="columns"><div>{diameter_section(document, words)}</div>
<div>{quality_section(document, words)}{sequence_section(document, words)}</div></div>
{uncertainty_section(document, words)}
{comparison_section(document, words)}
{lesion_section(document, words)}
{figures(volume, labels, words)}
<div class="sign">{_t(words, "read_by")}<div class="by-hand"></div></div>
{_footer(document, words)}
</td></tr></tbody></table></body></html>
"""


def _t(words: Words, key: str, **values: str | int) -> str:
    return escape(words.say(key, **values))


def _strip(document: dict[str, Any], words: Words) -> str:
    """Return the line on top of every printed sheet: whose scan it is."""
    shown = shown_identity(document.get("identity") or {})
    named = {field: shown[field] for field in _ON_EVERY_SHEET if field in shown}
    parts = [f"{_t(words, 'case')} {escape(clean(document['case']))}"]
    parts += [f"{_t(words, field)} {escape(text)}" for field, text in named.items()]
    parts.append(_t(words, "not_for_diagnosis_short"))
    return f'<div class="strip">{"".join(f"<span>{part}</span>" for part in parts)}</div>'


def _identity(document: dict[str, Any], words: Words) -> str:
    shown = shown_identity(document.get("identity") or {})
    rows = [(_t(words, "case"), escape(clean(document["case"])))]
    rows += [(_t(words, field), escape(text)) for field, text in shown.items()]
    side = f"{_t(words, 'side.' + document['hemisphere'])}"
    rows.append((_t(words, "summary"), f"{side} <small>({_t(words, 'side_note')})</small>"))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    by_hand = ""
    if "patient_name" not in shown and "patient_id" not in shown:
        by_hand = f'<p>{_t(words, "identity_absent")}</p><div class="by-hand"></div>'
    return f'<dl class="who">{listed}</dl>{by_hand}'


def _warnings(document: dict[str, Any], words: Words) -> str:
    said = warnings_of(document, words)
    boxes = "".join(f'<div class="warning">{escape(text)}</div>' for text in said)
    if words.language in REVIEWED:
        return boxes
    english = words_in("en").say("unreviewed")
    return (
        f'{boxes}<div class="warning">{_t(words, "unreviewed")} <span lang="en">({LANGUAGES[words.language]}: '
        f"{escape(english)})</span></div>"
    )


def _footer(document: dict[str, Any], words: Words) -> str:
    bundle = document["bundle"]
    limits = [words.note(asdict(note)) for note in NOT_FOR] + [words.say("nothing_outlined_general")]
    english = "" if words.language == "en" else ' lang="en"'
    return f"""<footer><p>{escape(" ".join(limits))}</p>
<p>{_t(words, "model")}: {escape(bundle["name"])} ({escape(bundle["sha256"][:16])});
<span{english}>{escape(bundle["trained_on"])} {escape(bundle["intended_use"])}</span></p>
<p>{_t(words, "software")}: {escape(document["software"])} · {_t(words, "made")} {escape(document["created"])}</p>
</footer>"""
