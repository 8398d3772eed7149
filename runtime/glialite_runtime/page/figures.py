"""The pictures of the page: two sequences in three planes, cut where the tumour is largest."""

from __future__ import annotations

import base64
from html import escape
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.page.words import Words
from glialite_runtime.picture import PLANES, draw, largest_slices
from glialite_runtime.volume import Volume

__all__ = ["drawn", "figures"]

_SHOWN: Final = ("t1c", "t2f", "t1n", "t2w")  # the first two that are there
_ROWS: Final = 2


def figures(volume: Volume | None, labels: npt.NDArray[np.uint8], words: Words) -> str:
    """Return the pictures of a case with their heading; without its images, a sentence in their place.

    Parameters
    ----------
    volume : Volume or None
        The case's images in LPS.
    labels : uint8 array (z, y, x)
        Label map on the same grid.
    words : Words
        The language.
    """
    if volume is None:
        return f"<p>{escape(words.say('pictures_absent'))}</p>"
    shown = []
    for text, png in drawn(volume, labels, words):
        caption, data = escape(text), base64.b64encode(png).decode()
        shown.append(
            f'<figure><div><img alt="{caption}" src="data:image/png;base64,{data}"></div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    heading = escape(words.say("pictures_largest" if labels.any() else "pictures_middle"))
    return (
        f'<div class="together"><h2>{heading}</h2><p>{escape(words.say("convention"))}</p>'
        f'<div class="pictures">{"".join(shown)}</div></div>'
    )


def drawn(volume: Volume, labels: npt.NDArray[np.uint8], words: Words) -> list[tuple[str, bytes]]:
    """Return the pictures of a case as captions and PNG files; parameters as for `figures`."""
    shown = [s for s in _SHOWN if s in volume.sequences][:_ROWS]
    channels = [volume.channels[volume.sequences.index(s)] for s in shown]
    slices = largest_slices(labels, channels[0])
    pictures = []
    for sequence, channel in zip(shown, channels, strict=True):
        for plane in PLANES:
            at = slices[plane.axis]
            name, cut = words.say(f"sequence.{sequence}"), words.say(f"plane.{plane.name}")
            caption = words.say("caption", sequence=name, plane=cut, slice=at + 1)
            pictures.append((caption, draw(channel, labels, plane, at, volume.spacing_mm)))
    return pictures
