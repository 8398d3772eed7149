"""The one-page report: self-contained HTML that opens without a network and prints on A4."""

from __future__ import annotations

import base64
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.picture import COLOURS, PLANES, draw, largest_slices
from glialite_runtime.sequences import REGIONS
from glialite_runtime.volume import Volume

__all__ = ["render"]

_REGION_NAMES: Final = {
    "WT": "Whole tumour (WT)",
    "TC": "Tumour core (TC)",
    "ET": "Enhancing tumour (ET)",
}
_SHOWN: Final = ("t1c", "t2f", "t1n", "t2w")
_SEQUENCE_NAMES: Final = {"t1n": "T1", "t1c": "T1 with contrast", "t2w": "T2", "t2f": "FLAIR"}
_ROWS: Final = 2

_STYLE: Final = """
@page { size: A4; margin: 12mm }
body { font: 15px/1.45 system-ui, sans-serif; color: #111; max-width: 1000px; margin: 1em auto; padding: 0 1em }
h1 { font-size: 1.5em; margin: 0 } h2 { font-size: 1.05em; margin: 1.1em 0 .3em }
.warning { border: 2px solid #111; padding: .4em .7em; font-weight: 600; margin: .7em 0 }
table { border-collapse: collapse }
th, td { text-align: left; padding: .2em 1.4em .2em 0; border-bottom: 1px solid #ccc }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.key { display: inline-block; width: 2em; height: 0; border-top: 4px; vertical-align: middle; margin-right: .5em }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px; background: #000; padding: 6px;
  -webkit-print-color-adjust: exact; print-color-adjust: exact }
figure { margin: 0; text-align: center; color: #ddd; display: flex; flex-direction: column; justify-content: flex-end }
figure img { max-width: 100%; max-height: 330px; margin: auto; object-fit: contain }
footer { margin-top: 1em; font-size: .8em; color: #333; overflow-wrap: anywhere }
"""
_DASHES: Final = {"WT": "solid", "TC": "dashed", "ET": "dotted"}


def render(document: dict[str, Any], volume: Volume, labels: npt.NDArray[np.uint8]) -> str:
    """Return the page of a case.

    Parameters
    ----------
    document : dict
        The JSON report.
    volume : Volume
        The case's images in LPS.
    labels : uint8 array (z, y, x)
        Label map on the same grid.

    Returns
    -------
    str
        HTML with its pictures inside; no script, no link, nothing loaded from elsewhere.
    """
    case = escape(document["case"])
    found = bool(labels.any())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{case}: glioma segmentation</title><style>{_STYLE}</style></head><body>
<h1>{case}</h1>
<div>Automatic outline of a brain glioma on MRI</div>
<div class="warning">Research use: decision support, not a diagnosis.
{"" if found else "No tumour was outlined; that is not a normal finding and does not rule one out."}</div>
{_network_warning(document["bundle"])}
<h2>Volumes</h2>
{_volume_table(document)}
<p>{_lesion_sentence(document)}</p>
<h2>Quality of the scan: {escape(document["quality"]["verdict"])}</h2>
{_notes(document["quality"]["notes"])}
<h2>Outlines {"where the tumour is largest" if found else "(none); middle of the brain"}</h2>
<p>Radiological convention: the patient's right is on the left of the picture.</p>
<div class="pictures">{_pictures(volume, labels)}</div>
<footer><p>{escape(document["bundle"]["intended_use"])}</p>
<p>Model: {escape(document["bundle"]["name"])} ({document["bundle"]["sha256"][:16]});
{escape(document["bundle"]["trained_on"])} · {escape(document["software"])} · {escape(document["created"])}</p></footer>
</body></html>
"""


def _network_warning(bundle: dict[str, Any]) -> str:
    """Return a warning when this computer's integer arithmetic was not trusted, else nothing."""
    if bundle.get("golden_crop") != "differs":
        return ""
    return (
        '<div class="warning">The self-check of the model did not come out on this computer as it should. The model '
        f"was run in another way instead ({escape(bundle['precision'])}): outlines and volumes may differ slightly "
        "from those of other computers.</div>"
    )


def _volume_table(document: dict[str, Any]) -> str:
    rows = []
    for region in REGIONS:
        colour = "rgb" + str(COLOURS[region])
        key = f'<span class="key" style="border-top-style:{_DASHES[region]};border-color:{colour}"></span>'
        value = document["volumes_ml"][region]
        text = f"{value:.1f} mL" if value is not None else escape(document["not_reported"][region])
        rows.append(f'<tr><td>{key}{_REGION_NAMES[region]}</td><td class="number">{text}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _lesion_sentence(document: dict[str, Any]) -> str:
    sizes = [lesion["volumes_ml"]["WT"] for lesion in document["lesions"]]
    small = document["lesions_not_listed"]
    specks = f" {small} more {'speck' if small == 1 else 'specks'} under 0.05 mL." if small else ""
    if not sizes:
        return "No separate areas." + specks
    listed = ", ".join(f"{size:.1f}" for size in sizes[:5]) + (", …" if len(sizes) > 5 else "")
    return f"{len(sizes)} separate {'area' if len(sizes) == 1 else 'areas'} ({listed} mL).{specks}"


def _notes(notes: list[str]) -> str:
    if not notes:
        return "<p>Nothing unusual was noticed.</p>"
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _pictures(volume: Volume, labels: npt.NDArray[np.uint8]) -> str:
    shown = [s for s in _SHOWN if s in volume.sequences][:_ROWS]
    first = volume.channels[volume.sequences.index(shown[0])]
    slices = largest_slices(labels, first != 0)
    figures = []
    for sequence in shown:
        channel = volume.channels[volume.sequences.index(sequence)]
        for plane in PLANES:
            at = slices[plane.axis]
            data = base64.b64encode(draw(channel, labels, plane, at, volume.spacing_mm)).decode()
            caption = f"{_SEQUENCE_NAMES[sequence]}, {plane.name}, slice {at + 1}"
            figures.append(
                f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption>'
                "</figure>"
            )
    return "".join(figures)
