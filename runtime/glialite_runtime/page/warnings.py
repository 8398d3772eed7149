"""What has to be said wherever a result is shown: on the page, in the DICOM picture, in the structured report."""

from __future__ import annotations

from typing import Any, Final

from glialite_runtime.page.words import Words

__all__ = ["ADULT_YEARS", "warnings_of"]

ADULT_YEARS: Final = 18


def warnings_of(document: dict[str, Any], words: Words) -> list[str]:
    """Return the warnings of a report (the JSON document), the most general first; there is always one."""
    bundle = document["bundle"]
    said = [words.say("not_for_diagnosis")]
    if not document["volumes_ml"]["WT"]:
        said.append(words.say("nothing_outlined"))
    if "synthetic" in bundle["trained_on"].lower():
        said.append(words.say("synthetic_only" if "only" in bundle["trained_on"].lower() else "synthetic_partly"))
    if bundle.get("golden_crop") == "differs":
        said.append(words.say("golden_differs", precision=bundle["precision"]))
    years = (document.get("identity") or {}).get("age_years")
    if isinstance(years, int | float) and years < ADULT_YEARS:
        said.append(words.say("child", years=words.number(years, 0)))
    if "correction" in document:
        said.append(f"{words.say('correction')}. {words.say('correction_note')}")
    return said
