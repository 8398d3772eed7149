"""Time the lesion-wise scores on the six real cases, and hold them to the official ones.

    python bench/lesionwise_seconds.py [FOLDER]

FOLDER (default: GLIALITE_TEST_DATA/lesionwise, else ../shared/data/lesionwise) holds `model_a`, `model_b` and
`golden_2023.csv`, `golden_2024.csv`. Prints, by metric and case, seconds of the wall clock (files read, everything
scored) and of the processor, and the largest difference from the official table.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path

from glialite_distill.label_maps import Pair, read_pair
from glialite_distill.scores import COLUMNS, Settings, score_pair

METRICS = ("brats-2023", "brats-2024")


def largest_difference(folder: Path, case: str, settings: Settings, pair: Pair) -> float:
    """Return the largest absolute difference of any column of any region from the official table."""
    with (folder / f"golden_{settings.metric[-4:]}.csv").open() as stream:
        golden = {r["Labels"]: r for r in csv.DictReader(stream) if r["case"] == case}
    scores = score_pair("model", case, pair, settings)
    return max(abs(s.values[c] - float(golden[s.region][c])) for s in scores for c in COLUMNS[settings.metric])


def main() -> None:
    """Warm up on the first case, then time all of them."""
    data = Path(os.environ.get("GLIALITE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else data / "lesionwise"
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "model_a").glob("[!.]*.nii.gz"))
    print(f"{'metric':<12}{'case':<24}{'seconds':>8}{'of CPU':>8}{'difference':>12}")
    for warm, (metric, case) in enumerate([(METRICS[0], cases[0]), *((m, c) for m in METRICS for c in cases)]):
        settings = Settings(metric, "ssa")
        wall, processor = time.perf_counter(), time.process_time()
        files = [folder / model / f"{case}.nii.gz" for model in ("model_a", "model_b")]
        pair = read_pair(files[0], files[1], settings.conventions)
        score_pair("model", case, pair, settings)
        seconds = time.perf_counter() - wall, time.process_time() - processor
        if warm:
            worst = largest_difference(folder, case, settings, pair)
            print(f"{metric:<12}{case:<24}{seconds[0]:>8.2f}{seconds[1]:>8.2f}{worst:>12.1e}")


if __name__ == "__main__":
    main()
