"""Which cases calibrate: only training cases, never one that an accuracy figure will be taken on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from glialite_runtime.errors import CalibrationError

__all__ = ["guard_cases", "spread"]


def guard_cases(
    wanted: Sequence[str], training: Collection[str], held_out: Collection[str], patients: Mapping[str, str]
) -> tuple[str, ...]:
    """Return `wanted` if every case may be calibrated on.

    Parameters
    ----------
    wanted : sequence of str
        Names of the cases that are to calibrate.
    training, held_out : collections of str
        Names of the training cases, and of the cases kept for the final figures.
    patients : mapping of str to str
        Case -> patient; another scan of a held-out patient is refused too. A case that is not in it is its own
        patient.

    Returns
    -------
    tuple of str
        `wanted`, unchanged.

    Raises
    ------
    CalibrationError
        No case is wanted, or some are held out or unknown; the message names every one.
    """
    if not wanted:
        raise CalibrationError("no calibration case is left; the workspace needs at least one training case")
    kept_patients = {patients.get(case, case) for case in held_out}
    problems = []
    for case in wanted:
        if case in held_out:
            problems.append(f"{case} is held out")
        elif case not in training:
            problems.append(f"{case} is not a training case")
        elif patients.get(case, case) in kept_patients:
            problems.append(f"{case} shows the held-out patient {patients[case]}")
    if problems:
        raise CalibrationError(f"cannot calibrate on: {'; '.join(problems)}; choose training cases only")
    return tuple(wanted)


def spread(cases: Sequence[str], count: int) -> tuple[str, ...]:
    """Return at most `count` of the cases, evenly spread over their order; all when there are fewer."""
    if count >= len(cases):
        return tuple(cases)
    return tuple(cases[(2 * place + 1) * len(cases) // (2 * count)] for place in range(count))
