"""What counts as a case in a folder for work, and when it has arrived."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from glialite_runtime.clinic.arrivals import find_arrivals, mark_of, open_arrival, prefix_of
from glialite_runtime.errors import InputError, MissingSequenceError

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")


def fill(folder: Path, prefix: str = "", sequences: tuple[str, ...] = SEQUENCES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for sequence in sequences:
        (folder / f"{prefix}{sequence}.nii.gz").write_bytes(sequence.encode())


def test_folders_zips_and_loose_files_are_cases(tmp_path: Path) -> None:
    """Hidden things, other files and empty folders are none."""
    fill(tmp_path / "A")
    fill(tmp_path, "P7_")
    with zipfile.ZipFile(tmp_path / "Z.zip", "w") as made:
        made.writestr("in/t1c.nii", "x")
    for other in (".hidden", "empty"):
        (tmp_path / other).mkdir()
    for other in ("notes.txt", ".t1c.nii.gz", "~t1c.nii.gz"):
        (tmp_path / other).write_text("")
    found = find_arrivals(tmp_path)
    assert [(a.name, a.kind, a.complete, a.problem) for a in found] == [
        ("A", "folder", True, ""),
        ("P7", "files", True, ""),
        ("Z", "zip", True, ""),
    ]
    opened = [open_arrival(a, tmp_path / "scratch") for a in found]
    assert [c.name for c in opened] == ["A", "P7", "Z"]
    assert [tuple(c.paths) for c in opened] == [SEQUENCES, SEQUENCES, ("t1c",)]


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("BraTS-SSA-00002-000-t1n.nii.gz", "BraTS-SSA-00002-000"),
        ("P1_T1_post.nii", "P1"),
        ("P1 post T1.nii.gz", "P1"),
        ("P1-flair-brain.nii.gz", "P1"),
        ("t1ce.nii.gz", ""),
        ("P1_0002.nii.gz", "P1"),
        ("holiday.nii.gz", "holiday"),
    ],
)
def test_the_name_before_the_sequence_is_the_case(name: str, prefix: str) -> None:
    """Words of contrast belong to the sequence; a file with nothing else has no case."""
    assert prefix_of(Path(name), SEQUENCES) == prefix


def test_loose_files_of_nobody_are_refused(tmp_path: Path) -> None:
    """The next patient's would overwrite them."""
    fill(tmp_path)
    (arrival,) = find_arrivals(tmp_path)
    with pytest.raises(InputError, match="do not tell whose files"):
        open_arrival(arrival, tmp_path)


def test_two_things_of_one_name_are_both_refused(tmp_path: Path) -> None:
    """Also when only capitals differ: one drive in two does not keep them apart."""
    fill(tmp_path / "P1")
    (tmp_path / "p1.zip").write_bytes(b"")
    arrivals = find_arrivals(tmp_path)
    assert len({a.name.casefold() for a in arrivals}) == 2
    for arrival in arrivals:
        with pytest.raises(InputError, match="2 things are called"):
            open_arrival(arrival, tmp_path)


def test_a_case_is_complete_with_four_sequences_and_nothing_half_copied(tmp_path: Path) -> None:
    """Three may become four; a browser's or copying program's half file says that more comes."""
    fill(tmp_path / "A", sequences=SEQUENCES[:3])
    assert not find_arrivals(tmp_path)[0].complete
    fill(tmp_path / "A")
    assert find_arrivals(tmp_path)[0].complete
    (tmp_path / "A" / "seg.nii.gz.part").write_bytes(b"")
    assert not find_arrivals(tmp_path)[0].complete


def test_the_mark_follows_names_sizes_and_times(tmp_path: Path) -> None:
    """Not the contents; a file that is gone counts."""
    fill(tmp_path / "A")
    (arrival,) = find_arrivals(tmp_path)
    before = mark_of(arrival)
    assert before == mark_of(arrival)
    path = arrival.files[0]
    os.utime(path, ns=(1, 1))
    touched = mark_of(arrival)
    path.write_bytes(b"longer than before")
    os.utime(path, ns=(1, 1))
    longer = mark_of(arrival)
    path.unlink()
    assert len({before, touched, longer, mark_of(arrival)}) == 4


def test_a_name_that_no_report_can_hold_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text, a line break: shown escaped, with a sentence."""
    fill(tmp_path / "bad\nname")
    if os.name == "posix":
        fill(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")))
    for arrival in find_arrivals(tmp_path):
        assert arrival.name.isprintable()
        with pytest.raises(InputError, match="rename it"):
            open_arrival(arrival, tmp_path)


def test_a_folder_in_a_folder_is_the_case_and_two_are_refused(tmp_path: Path) -> None:
    """As zips are made; never a guess between two patients; images in the folder itself come first."""
    fill(tmp_path / "A" / "inner")
    (arrival,) = find_arrivals(tmp_path)
    assert open_arrival(arrival, tmp_path).name == "A"
    fill(tmp_path / "A" / "other")
    (arrival,) = find_arrivals(tmp_path)
    with pytest.raises(InputError, match="images in 2 folders"):
        open_arrival(arrival, tmp_path)
    fill(tmp_path / "A", sequences=("t1c",))
    (arrival,) = find_arrivals(tmp_path)
    assert open_arrival(arrival, tmp_path).paths == {"t1c": tmp_path / "A" / "t1c.nii.gz"}


def test_what_cannot_be_taken_is_said(tmp_path: Path) -> None:
    """Two files for one sequence, no image, DICOM, a zip that is none."""
    (tmp_path / "P_t1.nii").write_bytes(b"")
    (tmp_path / "P_T1w.nii").write_bytes(b"")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "z.zip").write_bytes(b"no zip")
    found = {a.name: a for a in find_arrivals(tmp_path)}
    assert {n: a.holds_images for n, a in found.items()} == {"P": True, "study": True, "text": False, "z": True}
    with pytest.raises(MissingSequenceError, match="look like t1n"):
        open_arrival(found["P"], tmp_path)
    for name, sentence in (("text", "holds no .nii"), ("study", "DICOM"), ("z", "damaged or no zip")):
        with pytest.raises(InputError, match=sentence):
            open_arrival(found[name], tmp_path / "scratch")


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    """The stick was pulled out."""
    with pytest.raises(InputError, match="check the drive"):
        find_arrivals(tmp_path / "absent")
