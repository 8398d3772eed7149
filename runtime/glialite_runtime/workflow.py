"""A model that is ready to run, and what it makes of a case in a folder, unless that is done already."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glialite_runtime.bundle import Bundle, default_bundle, read_bundle
from glialite_runtime.cases import Case
from glialite_runtime.engine import Engine, open_engine
from glialite_runtime.predict import Segmentation, finished, outputs_of, segment, write
from glialite_runtime.report import ReportOptions
from glialite_runtime.sequences import REGIONS

__all__ = ["Model", "Result", "open_model", "segment_case"]


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle that was checked, and its network ready to run."""

    bundle: Bundle
    engine: Engine


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case.

    Attributes
    ----------
    report : dict
        The JSON report, with `outputs`: where label map and page lie.
    text : str
        A line for people, and where the page lies.
    """

    report: dict[str, Any]
    text: str


def open_model(bundle: Path | None, threads: int = 0, *, low_memory: bool = False) -> Model:
    """Open a bundle, by default the one of this installation.

    Raises
    ------
    BundleError
        There is none, or it does not hold what it should.
    """
    opened = read_bundle(bundle or default_bundle())
    return Model(opened, open_engine(opened, threads, low_memory=low_memory))


def segment_case(case: Case, model: Model, out: Path, options: ReportOptions | None = None) -> Result:
    """Segment a case into ``out/<case>``; one that is finished there is left as it is.

    The report of a case from DICOM says whose it is, and DICOM results go beside the others.

    Raises
    ------
    GliaLiteError
        See `predict.segment` and `predict.write`.
    """
    options = options or ReportOptions()
    if case.study is not None:
        from glialite_runtime.dicom.study import facts_of  # noqa: PLC0415 - the extra `dicom`

        options = replace(options, identity=facts_of(case.study))
    again = finished(case, model.bundle, out, options)
    if not again:
        write(_segmented(case, model, options), model.bundle, out, options)
    outputs = outputs_of(case, out)
    report = json.loads(outputs.report.read_bytes())
    volumes = ", ".join(
        f"{region} {ml:.1f} mL" if (ml := report["volumes_ml"][region]) is not None else f"{region} -"
        for region in REGIONS
    )
    took = "already done" if again else f"{sum(report['timings_s'].values()):.1f} s"
    lines = [f"{case.name}: {volumes} ({took})", f"  {outputs.page}"]
    if refused := report.get("dicom", {}).get("not_written"):
        lines.append(f"  no DICOM results: {refused}")
    where = {"labels": str(outputs.labels), "page": str(outputs.page)}
    return Result({**report, "outputs": where}, "\n".join(lines))


def _segmented(case: Case, model: Model, options: ReportOptions) -> Segmentation:
    """Segment a case; raw scans are brought to the model's space first, which has a time of its own in the report."""
    if not options.raw:
        return segment(case, model.bundle, model.engine)
    from glialite_runtime.space.atlas import shipped_atlas  # noqa: PLC0415 - raw scans alone
    from glialite_runtime.space.pipeline import to_brats_space  # noqa: PLC0415

    started = time.perf_counter()
    aligned = to_brats_space(case, shipped_atlas(), options.brain_mask)
    seconds = round(time.perf_counter() - started, 4)
    done = segment(case, model.bundle, model.engine, aligned)
    return replace(done, timings_s={"align": seconds, **done.timings_s})
