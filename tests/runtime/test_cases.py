"""Which file is which sequence: by name, and never by guessing between two."""

from __future__ import annotations

from pathlib import Path

import pytest
from glialite_runtime.cases import case_from_files, find_case, find_cases, sequence_of
from glialite_runtime.errors import InputError, MissingSequenceError


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("BraTS-GLI-00001-000-t1n.nii.gz", "t1n"),
        ("BraTS-GLI-00001-000-t2f.nii", "t2f"),
        ("BraTS20_Training_001_t1ce.nii.gz", "t1c"),
        ("patient_T1Gd.nii.gz", "t1c"),
        ("patient_FLAIR.nii.gz", "t2f"),
        ("x_t2.nii.gz", "t2w"),
        ("T1c_subtrMeanDivStd.nii.gz", "t1c"),
        ("T1_post.nii.gz", "t1c"),
        ("brainmask.nii.gz", None),
        ("case_0001.nii.gz", None),
    ],
)
def test_names_of_the_field_are_understood(name: str, sequence: str | None) -> None:
    """Accepted spellings map to one sequence; a word inside another word does not count."""
    assert sequence_of(Path(name)) == sequence


def test_nnunet_channels_need_a_declared_order() -> None:
    """_0001 is what the user says it is, never what is usual."""
    order = ("t1c", "t1n", "t2f", "t2w")
    assert sequence_of(Path("case_0001.nii.gz"), order) == "t1n"


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_case_folder_gives_its_sequences_in_order_and_its_label(tmp_path: Path) -> None:
    """The case is named after the folder; -seg is the label, other files are left alone."""
    names = [f"P1-{s}.nii.gz" for s in ("t2f", "t1c", "seg", "t2w", "t1n")]
    case = find_case(touch(tmp_path / "P1", *names, "notes.txt", "brainmask.nii.gz"))
    assert (case.name, list(case.paths)) == ("P1", ["t1n", "t1c", "t2w", "t2f"])
    assert case.label is not None
    assert case.label.name == "P1-seg.nii.gz"


def test_two_files_for_one_sequence_are_refused(tmp_path: Path) -> None:
    """Choosing between two contrast-enhanced images would be a guess."""
    with pytest.raises(MissingSequenceError, match=r"a_t1ce.*b_t1gd"):
        find_case(touch(tmp_path / "P1", "a_t1ce.nii.gz", "b_t1gd.nii.gz"))


def test_undeclared_nnunet_names_say_what_to_do(tmp_path: Path) -> None:
    """The message names the option that declares the order."""
    with pytest.raises(MissingSequenceError, match="--channel-order"):
        find_case(touch(tmp_path / "P1", "P1_0000.nii.gz", "P1_0001.nii.gz"))


@pytest.mark.parametrize("names", [[], ["readme.txt"]])
def test_a_folder_without_images_is_refused(tmp_path: Path, names: list[str]) -> None:
    """An empty folder is bad input, as a missing one is."""
    with pytest.raises(InputError, match=r"no \.nii"):
        find_case(touch(tmp_path / "P1", *names))
    with pytest.raises(InputError, match="not a folder"):
        find_case(tmp_path / "absent")


def test_cases_of_a_folder_come_in_name_order(tmp_path: Path) -> None:
    """Hidden folders and folders without images are not cases."""
    for name in ("B", "A", ".hidden"):
        touch(tmp_path / name, "x-t1n.nii.gz")
    touch(tmp_path / "empty")
    assert [case.name for case in find_cases(tmp_path)] == ["A", "B"]


@pytest.mark.parametrize(
    ("stems", "name"),
    [
        (("P17-t1n", "P17-t1c", "P17-t2w", "P17-t2f"), "P17"),
        (("BraTS-SSA-00002-000-t1n", "BraTS-SSA-00002-000-t1c"), "BraTS-SSA-00002-000"),
        (("t1n", "t1c"), "case"),
    ],
)
def test_loose_files_are_named_by_their_common_words(stems: tuple[str, ...], name: str) -> None:
    """The common prefix ends at a whole word, not in the middle of the sequence's name."""
    files = dict(zip(("t1n", "t1c", "t2w", "t2f"), (Path(f"{s}.nii.gz") for s in stems), strict=False))
    assert case_from_files(files).name == name


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_a_case_name_cannot_leave_the_output_folder(name: str) -> None:
    """A name that is a path is refused; an empty one falls back to the files' own."""
    files = {"t1n": Path("x-t1n.nii.gz"), "t1c": Path("x-t1c.nii.gz")}
    if name:
        with pytest.raises(InputError, match="--case"):
            case_from_files(files, name)
    else:
        assert case_from_files(files, name).name == "x"
