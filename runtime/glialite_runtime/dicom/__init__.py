"""DICOM in and out: a study's series become the four sequences, a label map goes back into the frame of its series."""

from __future__ import annotations

__all__: list[str] = []
