"""How often the gate speaks when all is well, and how often it is silent when something is wrong.

`make proof-gate` runs it. Every case is inspected as it is, and with one thing wrong at a time. "Said" is a refusal, or
a note of the right kind.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.cases import Case, find_case, find_cases
from glialite_runtime.errors import InputError
from glialite_runtime.intake import inspect_volume
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import Volume, load_volume

from bench.reliability.ledger import Ledger, arguments, run_slice, write_section

Channels = dict[str, npt.NDArray[Any]]
Fault = Callable[[Channels, np.random.Generator], Channels]


def _swap(first: str, second: str) -> Fault:
    return lambda c, _: {**c, first: c[second], second: c[first]}


def _shift(millimetres: int) -> Fault:
    def shift(channels: Channels, rng: np.random.Generator) -> Channels:
        sequence, axis = str(rng.choice(SEQUENCES)), int(rng.integers(3))
        voxels = round(millimetres * channels[sequence].shape[2] / 240)  # all have 240 mm of view
        return {**channels, sequence: np.roll(channels[sequence], voxels, axis)}

    return shift


def _mirror(channels: Channels, rng: np.random.Generator) -> Channels:
    sequence = str(rng.choice(SEQUENCES))
    return {**channels, sequence: channels[sequence][:, :, ::-1]}


def _copy(channels: Channels, rng: np.random.Generator) -> Channels:
    first, second = (str(s) for s in rng.choice(SEQUENCES, 2, replace=False))
    return {**channels, first: (channels[second].astype(np.int32) * 2).astype(np.int16)}


def _saturate(channels: Channels, rng: np.random.Generator) -> Channels:
    sequence = str(rng.choice(SEQUENCES))
    channel = channels[sequence]
    return {**channels, sequence: np.minimum(channel, int(np.percentile(channel[channel != 0], 90)))}


def _slab(channels: Channels, rng: np.random.Generator) -> Channels:
    sequence = str(rng.choice(SEQUENCES))
    changed = channels[sequence].copy()
    changed[len(changed) // 2 :] = 0
    return {**channels, sequence: changed}


def _crop(channels: Channels, _: np.random.Generator) -> Channels:
    return {s: c[: int(0.45 * len(c))] for s, c in channels.items()}


def _mask(channels: Channels, rng: np.random.Generator) -> Channels:
    sequence = str(rng.choice(SEQUENCES))
    return {**channels, sequence: (channels[sequence] > np.median(channels[sequence])).astype(np.int16)}


def _head(channels: Channels, _: np.random.Generator) -> Channels:
    """Grow the mask by 25 mm: a head without its background noise."""
    from scipy import ndimage

    grown = ndimage.binary_dilation(channels["t1n"] != 0, iterations=round(25 * channels["t1n"].shape[2] / 240))
    return {s: np.where(c == 0, grown * 100, c).astype(np.int16) for s, c in channels.items()}


FAULTS: Final[Mapping[str, tuple[str, Fault]]] = {
    "nothing": ("", lambda c, _: c),
    "T2 and FLAIR swapped": ("swapped", _swap("t2w", "t2f")),
    "T1 and T2 swapped": ("swapped", _swap("t1n", "t2w")),
    "contrast T1 and T2 swapped": ("swapped", _swap("t1c", "t2w")),
    "T1 and FLAIR swapped": ("swapped", _swap("t1n", "t2f")),
    "contrast T1 and FLAIR swapped": ("swapped", _swap("t1c", "t2f")),
    "T1 and contrast T1 swapped": ("swapped", _swap("t1n", "t1c")),
    "one sequence given twice": ("one picture", _copy),
    "one sequence shifted by 4 mm": ("registration", _shift(4)),
    "one sequence shifted by 8 mm": ("registration", _shift(8)),
    "one sequence mirrored": ("registration", _mirror),
    "one sequence covers half": ("coverage", _slab),
    "upper half of the head missing": ("coverage", _crop),
    "bright parts of one sequence cut": ("intensity", _saturate),
    "a mask in place of one sequence": ("values only", _mask),
    "scalp of 25 mm left on": ("skull", _head),
}
"""What is wrong -> word in the right answer, and how it is made."""


def cases(phantoms: Path, real: Path) -> list[Case]:
    """Return the real cases with four sequences, then the phantoms."""
    names = ("TCGA-DU-7294", "BraTS-GLI-00001-000", "BraTS-MET-00110-000")
    return [find_case(real / name) for name in names if (real / name).is_dir()] + find_cases(phantoms)


def answer(volume: Volume) -> tuple[str, str]:
    """Return ("refused", sentence), ("check", keys) or ("good", "")."""
    try:
        quality = inspect_volume(volume, [SEQUENCES])
    except InputError as error:
        return "refused", str(error)
    return quality.verdict, " ".join(note.key for note in quality.findings)


def judge(case: Case, number: int) -> dict[str, Any]:
    """Inspect a case as it is and with everything that can be wrong."""
    volume = load_volume(case)
    channels = dict(zip(volume.sequences, volume.channels, strict=True))
    answers, seconds = {}, 0.0
    for name, (_, fault) in FAULTS.items():
        changed = fault(channels, np.random.default_rng([number, len(name)]))
        wrong = dataclasses.replace(volume, channels=tuple(changed[s] for s in volume.sequences))
        began = time.process_time()
        answers[name] = answer(wrong)
        seconds = time.process_time() - began if name == "nothing" else seconds
    return {"case": case.name, "real": "PHA" not in case.name, "answers": answers, "seconds": round(seconds, 4)}


def summary(trials: list[dict[str, Any]]) -> str:
    """Return the table."""
    lines = ["| what is wrong | said, phantoms | of these refused | said, real patients |", "| --- | --- | --- | --- |"]
    for name, (word, _) in FAULTS.items():
        said: dict[bool, list[bool]] = defaultdict(list)
        refused = 0
        for trial in trials:
            verdict, text = trial["answers"][name]
            said[trial["real"]].append(verdict != "good" and word in text)
            refused += verdict == "refused" and word in text and not trial["real"]
        cells = [f"{sum(s)} of {len(s)}" if s else "-" for s in (said[False], said[True])]
        lines.append(f"| {name} | {cells[0]} | {refused} | {cells[1]} |")
    large = [1000 * t["seconds"] for t in trials if t["real"]]
    took = f" Gate on a real case of 240 × 240 × 155: at most {max(large):.0f} ms of processor time." if large else ""
    return "\n".join(lines) + f"\n\n{len(trials)} cases.{took}"


def main() -> None:
    """Run a slice, and write the table."""
    parser = arguments(__doc__ or "", 0)
    parser.add_argument("--real", type=Path, default=Path("../shared/data"))
    given = parser.parse_args()
    listed, ledger = cases(given.cases, given.real), Ledger("gate")
    run_slice(ledger, given.count or len(listed), given.seconds, lambda number: judge(listed[number], number))
    write_section("gate", summary(ledger.trials))


if __name__ == "__main__":
    main()
