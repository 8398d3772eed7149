"""New figures and their files: matplotlib without a screen, loaded when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from glialite_runtime.files import replacing

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float, height: float, dpi: int = 100) -> Any:
    """Return an empty figure of `width` × `height` inches that lays its panels out itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second, needed once
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Any, palette: Sequence[tuple[int, int, int]] = ()) -> None:
    """Write a figure as PNG, in one step; with a palette, a byte a pixel, each the nearest of these colours."""
    with replacing(path) as temporary:
        if not palette:
            figure.savefig(temporary, format="png")
            return
        from PIL import Image  # noqa: PLC0415 - comes with matplotlib

        figure.canvas.draw()
        colours = Image.new("P", (1, 1))
        colours.putpalette([value for colour in palette for value in colour])
        drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
        drawn.quantize(palette=colours, dither=Image.Dither.NONE).save(temporary, format="png", optimize=True)
