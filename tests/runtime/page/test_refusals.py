"""Refusals in four languages: what the gate raises is found again in the table, what it does not know stays English."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from glialite_runtime.cases import find_case
from glialite_runtime.errors import BundleError, ConfigError, GeometryError, InputError, IntensityError
from glialite_runtime.intake import inspect_volume
from glialite_runtime.page.refusals import refusal, refused_in
from glialite_runtime.page.words import LANGUAGES, Words, keys_of
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import load_volume

from tests.conftest import save, toy

PT = Words("pt")
Spoil = Callable[[Path], object]


def put(folder: Path, sequence: str, data: np.ndarray, move_mm: float = 0) -> None:
    save(folder / f"P01-{sequence}.nii.gz", data, toy().affine + np.eye(4, k=3) * move_mm)


def full() -> np.ndarray:
    image = np.zeros_like(toy().images["t1n"])
    image[1:-1, 1:-1, 1:-1] = 100
    return image


IMAGE = toy().images["t2f"]
SPOILT: dict[str, Spoil] = {
    "refused.full": lambda f: put(f, "t2f", full()),
    "refused.edge": lambda f: put(f, "t2f", IMAGE + np.random.default_rng(0).integers(1, 9, IMAGE.shape, np.int16)),
    "refused.empty": lambda f: put(f, "t2f", IMAGE * 0),
    "refused.mask": lambda f: put(f, "t2f", (IMAGE != 0).astype(np.int16)),
    "refused.huge": lambda f: put(f, "t2f", np.where(IMAGE.max() == IMAGE, 1e8, IMAGE).astype(np.float32)),
    "refused.constant": lambda f: put(f, "t2f", IMAGE * 0 + 3),
    "refused.normalised": lambda f: put(f, "t2f", ((IMAGE - IMAGE.mean()) / IMAGE.std()).astype(np.float32)),
    "refused.same": lambda f: put(f, "t2f", toy().images["t1n"]),
    "refused.missing": lambda f: (f / "P01-t2f.nii.gz").unlink(),
    "refused.shape": lambda f: put(f, "t2f", IMAGE[1:]),
    "refused.shifted": lambda f: put(f, "t2f", IMAGE, 4),
    "refused.damaged": lambda f: (f / "P01-t2f.nii.gz").write_bytes((f / "P01-t2f.nii.gz").read_bytes()[:-2000]),
    "refused.no_nifti": lambda f: (f / "P01-t2f.nii.gz").write_bytes(b"not really"),
    "refused.not_finite": lambda f: put(f, "t2f", np.where(IMAGE > 500, np.nan, IMAGE).astype(np.float32)),
    "refused.dimensions": lambda f: put(f, "t2f", np.stack([IMAGE, IMAGE], axis=3)),
}


@pytest.mark.parametrize("key", SPOILT)
def test_what_is_raised_is_translated_with_its_values(case_folder: Path, key: str) -> None:
    """The table's English is still that of whoever raises; the English sentence follows the unreviewed one."""
    SPOILT[key](case_folder)
    with pytest.raises(InputError) as raised:
        inspect_volume(load_volume(find_case(case_folder)), [SEQUENCES])
    sentence = str(raised.value)
    assert refusal(sentence, Words("en")) == sentence
    for language in set(LANGUAGES) - {"en"}:
        said = refusal(sentence, Words(language))
        opening = Words(language).template(key).partition("{")[2].partition("}")[2].partition("{")[0]
        assert opening in said, "the words of this key, and of no other"
        assert said.endswith(f"{sentence})")
        assert "FLAIR" in said or "P01-t2f" in said


@pytest.mark.parametrize("key", keys_of("refused."))
def test_every_refusal_of_the_table_is_found_again(key: str) -> None:
    """Also one whose sentence is longer or shorter than another's, whatever its values."""
    english = Words("en").template(key)
    sequences = dict(zip(("first", "second", "other", "sequence"), ("t1n", "t2f", "t1c", "t2w"), strict=True))
    names = {name for _, name, _, _ in Formatter().parse(english) if name}
    values = {name: f"<{name}>" for name in names} | sequences
    values["largest"] = "9"
    expected = Words("sw").fill(key, values)
    assert refusal(english.format(**values), Words("sw")).startswith(expected)


def test_several_problems_are_translated_together() -> None:
    """The gate names all of them in one sentence; the name of the sequence becomes the reader's."""
    both = "t1c is empty: every voxel is 0; t2f shows nothing but specks; this model needs t1n, t1c; missing: t1n"
    said = refusal(both, Words("fr"))
    assert said.startswith(
        "T1 avec contraste est vide : tous les voxels valent 0; FLAIR ne montre que des points isolés"
    )
    assert "ce modèle a besoin de T1, T1 avec contraste ; il manque : T1 (" in said


@pytest.mark.parametrize(
    "sentence", ["", "something else went wrong", "t1c is empty: every voxel is 0; and so on", "{x}"]
)
def test_what_the_table_does_not_know_stays_english(sentence: str) -> None:
    """Word for word, not half of it."""
    assert refusal(sentence, Words("sw")) == sentence


def test_braces_in_a_file_name_are_left_alone() -> None:
    """A name cannot be taken for a value."""
    said = refusal("{path}{0}.nii is not a single-file NIfTI image (.nii or .nii.gz)", Words("pt"))
    assert said.startswith("{path}{0}.nii não é uma imagem NIfTI")


def test_an_error_keeps_its_kind() -> None:
    """So does the exit code; what is no fault of the scan passes as it is."""
    with pytest.raises(IntensityError, match="est vide") as raised, refused_in("fr"):
        raise IntensityError("t1c is empty: every voxel is 0")
    assert raised.value.exit_code == 3
    with pytest.raises(GeometryError, match=r"^something new$"), refused_in("fr"):
        raise GeometryError("something new")
    with pytest.raises(ConfigError, match="est vide") as usage, refused_in("fr"):
        raise ConfigError("t1c is empty: every voxel is 0")
    assert usage.value.exit_code == 2
    with pytest.raises(BundleError, match=r"^t1c is empty: every voxel is 0$"), refused_in("fr"):
        raise BundleError("t1c is empty: every voxel is 0")


def test_a_sentence_within_a_sentence_is_translated_too() -> None:
    """The reason why a file is not read, or why the watcher waits."""
    said = refusal("usb holds no DICOM image that can be read: a.dcm is not read: its header is longer than 4 MiB", PT)
    assert said.startswith("usb não contém nenhuma imagem DICOM legível: a.dcm não é lido: o seu cabeçalho tem mais de")
    said = refusal("cannot write P/a: disk full; free space; waiting, and trying again every 10 s", PT)
    assert said.startswith("não é possível escrever P/a: disk full; liberte espaço; à espera, nova tentativa a cada 10")


def test_a_hostile_name_takes_no_time() -> None:
    """Nested lookups and patterns that may match in many places stay quick."""
    name = " is not read: (a) holds, which ; (t1n) and 'b' are " * 80
    started = time.process_time()
    refusal(f"{name} is not a folder; {name}", PT)
    refusal(f"{name} holds 3 files; 2 are accepted: zip one case alone", PT)
    assert time.process_time() - started < 2
