"""New figures and their files: matplotlib without a screen, loaded when something is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glialite_runtime.files import replacing

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float, height: float, dpi: int = 100) -> Any:
    """Return an empty figure of `width` × `height` inches that lays its panels out itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second, needed once
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Any) -> None:
    """Write a figure as PNG, in one step."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
