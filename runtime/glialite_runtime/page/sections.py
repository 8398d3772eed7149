"""The parts of the page that are words and numbers; each returns HTML, or nothing where there is nothing to say."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from glialite_runtime.page.identity import clean, readable_date
from glialite_runtime.page.words import Words
from glialite_runtime.picture import COLOURS
from glialite_runtime.sequences import REGIONS

__all__ = [
    "comparison_section",
    "diameter_section",
    "lesion_section",
    "quality_section",
    "sequence_section",
    "uncertainty_section",
    "volume_section",
]

_ROWS: Final = 8  # lesions on the page; the JSON report lists more
_SVG_DASH: Final = {"WT": "", "TC": "12 5", "ET": "4 4"}


def _t(words: Words, key: str, **values: str | int) -> str:
    return escape(words.say(key, **values))


def _heading(words: Words, key: str) -> str:
    return f"<h2>{_t(words, key)}</h2>"


def _paragraph(words: Words, key: str, kind: str = "note", **values: str | int) -> str:
    return f'<p class="{kind}">{_t(words, key, **values)}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """Return a table of cells that are HTML already; the last `numbers` columns are aligned to the right."""
    kinds = [' class="number"' if i >= len(head) - numbers else "" for i in range(len(head))]
    lines = [("th", head), *(("td", row) for row in rows)]
    body = "".join(
        f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))}</tr>"
        for tag, cells in lines
    )
    return f'<table class="data">{body}</table>'


def _key(region: str) -> str:
    """Return a sample of a region's line, as it is in the pictures: on black, and printed so everywhere."""
    return (
        '<svg class="key" width="44" height="10" aria-hidden="true"><rect width="44" height="10"/>'
        f'<line x1="3" x2="41" y1="5" y2="5" stroke="rgb{COLOURS[region]}" stroke-width="2.5" '
        f'stroke-dasharray="{_SVG_DASH[region]}"/></svg>'
    )


def _region(words: Words, region: str) -> str:
    return f"{_key(region)}{_t(words, f'region.{region}')} <small>({_t(words, f'line.{region}')})</small>"


def _ml(words: Words, value: float | None) -> str:
    return f'<span class="whole">{escape(words.ml(value))}</span>' if value is not None else "–"


def volume_section(document: dict[str, Any], words: Words) -> str:
    """Return the volumes; of a corrected report, beside the automatic ones and the overlap of the two."""
    correction, intervals = document.get("correction"), document["volume_intervals_ml"]
    head = [_t(words, "region"), _t(words, "correction" if correction else "volume")]
    if correction:
        head += [_t(words, "automatic"), _t(words, "agreement")]
    elif intervals:
        percent = round(100 * min(interval["rate"] for interval in intervals.values()))
        head.append(_t(words, "range", percent=percent))
    rows = []
    for region in REGIONS:
        value = document["volumes_ml"][region]
        row = [_region(words, region), _ml(words, value) if value is not None else _t(words, "without_t1c")]
        if correction:
            row += [_ml(words, correction["automatic_ml"][region]), _dice(words, correction["dice"][region], value)]
        elif intervals:
            row.append(_range(words, intervals.get(region)))
        rows.append(row)
    absent = "range_absent_corrected" if correction else "range_absent"
    note = _paragraph(words, "range_note" if intervals else absent)
    return f"{_heading(words, 'volumes')}{_table(head, rows, len(head) - 1)}{note}"


def _dice(words: Words, score: float | None, volume_ml: float | None) -> str:
    if score is None or volume_ml is None:
        return "–" if volume_ml is None else _t(words, "both_empty")
    return words.number(score, 3)


def _range(words: Words, interval: dict[str, float] | None) -> str:
    if interval is None:
        return "–"
    return _t(words, "range_ml", low=words.number(interval["low"]), high=words.number(interval["high"]))


def diameter_section(document: dict[str, Any], words: Words) -> str:
    """Return the perpendicular diameters."""
    rows = []
    for region, found in document["diameters"].items():
        if document["volumes_ml"][region] is None:
            text = _t(words, "without_t1c")
        elif found is None:
            text = _t(words, "none")
        else:
            text = _t(
                words,
                "diameters_value",
                longest=words.number(found["longest_mm"]),
                perpendicular=words.number(found["perpendicular_mm"]),
                product=words.number(found["product_mm2"], 0),
                slice=found["slice_z"] + 1,
            )
            text += "" if found["measurable"] else f" <small>({_t(words, 'diameters_small')})</small>"
        rows.append([_t(words, f"region.{region}"), text])
    head = [_t(words, "region"), ""]
    return f"{_heading(words, 'diameters')}{_table(head, rows)}{_paragraph(words, 'diameters_note')}"


def lesion_section(document: dict[str, Any], words: Words) -> str:
    """Return the list of separate areas, the largest first."""
    found = document["lesions"]
    if not found:
        return f"{_heading(words, 'lesions')}{_paragraph(words, 'lesions_none', '')}"
    head = [_t(words, key) for key in ("number", "side", "position")]
    head += [f"{region} (mL)" for region in REGIONS]
    rows = [
        [
            str(lesion["number"]),
            _t(words, f"side.{lesion['side']}"),
            f"{_t(words, 'place.' + lesion['depth'])}, {_t(words, 'height.' + lesion['height'])}",
            *("–" if lesion["volumes_ml"][r] is None else words.number(lesion["volumes_ml"][r]) for r in REGIONS),
        ]
        for lesion in found[:_ROWS]
    ]
    more = len(found) - len(rows) + document["lesions_not_listed"]
    rest = _paragraph(words, "lesions_more", "", count=more) if more else ""
    return f"{_heading(words, 'lesions')}{_table(head, rows, 3)}{rest}{_paragraph(words, 'place_note')}"


def quality_section(document: dict[str, Any], words: Words) -> str:
    """Return what the gate found, in words."""
    quality = document["quality"]
    verdict = f"<p>{_t(words, 'verdict.' + quality['verdict'])}</p>"
    notes = "".join(f"<li>{escape(words.note(found))}</li>" for found in quality["findings"])
    return f"{_heading(words, 'quality')}{verdict}{f'<ul>{notes}</ul>' if notes else ''}"


def uncertainty_section(document: dict[str, Any], words: Words) -> str:
    """Return how much lies close to the limit between tumour and not, flagged for review where that is much."""
    found = document.get("uncertainty")
    if not found:
        return ""
    lines = []
    for region, part in found.items():
        values = {"ml": words.number(part["ml"]), "percent": words.number(100 * part["share"], 0)}
        said = words.say("uncertainty_value", region=words.say(f"region.{region}"), **values)
        review = f" <strong>{_t(words, 'uncertainty_review')}</strong>" if part["review"] else ""
        lines.append(f"<li>{escape(said)}{review}</li>")
    return f"{_heading(words, 'uncertainty')}<ul>{''.join(lines)}</ul>"


def sequence_section(document: dict[str, Any], words: Words) -> str:
    """Return which sequences were used, which are missing, and what follows from that."""
    present, missing = document["sequences"]["present"], document["sequences"]["missing"]
    used = ", ".join(words.say(f"sequence.{name}") for name in present)
    said = [words.say("sequences_used", names=used)]
    if missing:
        said.append(words.say("sequences_missing", names=", ".join(words.say(f"sequence.{name}") for name in missing)))
        said.append(words.say("missing_t1c" if "t1c" in missing else "missing_others"))
    text = escape(" ".join(said))
    return f'{_heading(words, "sequences")}<p class="{"warning" if missing else ""}">{text}</p>'


def comparison_section(document: dict[str, Any], words: Words) -> str:
    """Return the comparison with an earlier study; nothing without one."""
    comparison = document.get("comparison")
    if comparison is None:
        return ""
    prior = comparison["prior"]
    date = readable_date(clean(prior["study_date"])) if prior["study_date"] else words.say("date_unknown")
    same = comparison["patient"] == "same"
    head = [_t(words, key) for key in ("region", "earlier", "now", "change", "noise_floor")] + [""]
    rows = []
    for region, found in comparison["regions"].items():
        verdict = _t(words, "change.larger" if found["larger"] else "change.within")
        change = escape(words.say("ml", value=words.number(found["change_ml"], signed=True)))
        row = [_t(words, f"region.{region}"), _ml(words, found["earlier_ml"]), _ml(words, found["now_ml"])]
        change = f'<span class="whole">{change}</span>'
        rows.append([*row, change, f"± {_ml(words, found['noise_floor_ml'])}", verdict])
    percent = comparison["percent"]
    noise = _paragraph(
        words, f"noise.{comparison['noise_floor']}", percent=percent or 0, both=max(2 * (percent or 0) - 100, 0)
    )
    remarks = "".join(f"<li>{_remark(remark, words)}</li>" for remark in comparison["remarks"])
    return (
        f"{_heading(words, 'comparison')}"
        f"{_paragraph(words, 'comparison_with', '', case=clean(prior['case']), date=date)}"
        f"{_paragraph(words, 'patient.' + comparison['patient'], '' if same else 'warning')}"
        f"{f'<ul>{remarks}</ul>' if remarks else ''}{_table(head, rows)}{noise}"
    )


def _remark(remark: dict[str, Any], words: Words) -> str:
    values = {name: words.number(value, 2) for name, value in remark["values"].items()}
    return _t(words, f"comparison.{remark['key']}", **values)
