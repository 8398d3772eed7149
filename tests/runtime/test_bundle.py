"""A bundle is used only when every byte of it is what was written."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glialite_runtime import bundle as module
from glialite_runtime.bundle import MANIFEST, SIGNATURE, Reliability, default_bundle, read_bundle, write_bundle
from glialite_runtime.engine import OnnxEngine, open_engine
from glialite_runtime.errors import BundleError, BundleIntegrityError, BundleVersionError, CheckFailedError, OutputError
from glialite_runtime.files import sha256_bytes
from glialite_runtime.intensity import IntensityRange
from glialite_runtime.measure import VolumeInterval
from glialite_runtime.trust.minisign import NOT_SIGNED
from glialite_runtime.verify import selftest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import threshold_graph, threshold_manifest

MakeBundle = Callable[..., Path]


def rewrite(path: Path, **changes: object) -> None:
    """Change the manifest and seal it again, as somebody who means harm would."""
    document = json.loads((path / MANIFEST).read_bytes()) | changes
    raw = json.dumps(document).encode()
    (path / MANIFEST).write_bytes(raw)
    (path / "bundle.json.sha256").write_text(f"{sha256_bytes(raw)}  {MANIFEST}\n")


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_what_is_written_is_what_is_read(make_bundle: MakeBundle, name: str) -> None:
    """Folder and zip give the same manifest and the same files."""
    bundle = read_bundle(make_bundle(name))
    assert bundle.manifest == threshold_manifest()
    assert bundle.files["cpu-int8.onnx"] == threshold_graph()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from(["bundle", "b.zip"]))
def test_any_flipped_bit_is_rejected(make_bundle: MakeBundle, position: float, bit: int, name: str) -> None:
    """A bit flipped anywhere in the content makes the bundle unusable, with a `BundleError`."""
    path = make_bundle(name)
    original = read_bundle(path)
    if path.is_dir():
        everything = sorted(path.iterdir())
        at = int(position * sum(p.stat().st_size for p in everything))
        for file in everything:
            if at < file.stat().st_size:
                break
            at -= file.stat().st_size
    else:
        file, at = path, int(position * path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(bytes(content))
    try:
        damaged = read_bundle(path)
    except BundleError:
        return
    assert name == "b.zip"  # a zip has bytes that carry nothing, such as its time stamps
    assert damaged.files == original.files


def test_pictures_of_the_card_are_held_to_their_checksums(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A bundle may carry them; one changed byte, and it is refused as for any other file."""
    bundle = read_bundle(make_bundle())
    write_bundle(tmp_path / "shown", bundle.manifest, {**bundle.files, "worst.png": b"a picture"})
    assert read_bundle(tmp_path / "shown").files["worst.png"] == b"a picture"
    (tmp_path / "shown" / "worst.png").write_bytes(b"A picture")
    with pytest.raises(BundleIntegrityError, match=r"worst\.png was changed"):
        read_bundle(tmp_path / "shown")


def test_missing_and_foreign_files_are_named(make_bundle: MakeBundle) -> None:
    """Everything that does not agree is said at once."""
    path = make_bundle()
    (path / "MODEL_CARD.md").unlink()
    (path / "evil.py").write_text("print('hello')")
    with pytest.raises(BundleIntegrityError, match=r"MODEL_CARD\.md is missing; evil\.py does not belong"):
        read_bundle(path)


def test_a_newer_schema_is_refused(make_bundle: MakeBundle) -> None:
    """A future bundle is not half-understood."""
    path = make_bundle()
    rewrite(path, schema=module.SCHEMA + 1)
    with pytest.raises(BundleVersionError, match=f"schema {module.SCHEMA + 1}"):
        read_bundle(path)


def test_a_bundle_of_the_first_schema_confines_no_core_to_a_rim(make_bundle: MakeBundle) -> None:
    """It knew no such rule; a senseless share is refused."""
    path = make_bundle()
    decision = json.loads((path / MANIFEST).read_bytes())["decision"]
    assert decision.pop("rim_share") == 1
    rewrite(path, schema=1, decision=decision)
    assert read_bundle(path).manifest.decision.rim_share == 1
    rewrite(path, decision={**decision, "rim_share": 1.5})
    with pytest.raises(BundleIntegrityError, match=r"rim share 1\.5"):
        read_bundle(path)


@pytest.mark.parametrize(
    "change",
    [
        {"normalisation": "min-max"},
        {"sequences": ["t2f", "t1n", "t1c", "t2w"]},
        {"spacing_mm": [0, 1, 1]},
        {"spacing_mm": [1, 1]},
        {"decision": {"thresholds": [2, 0.5, 0.5], "minimum_mm3": [0, 0, 0], "temperature": 1}},
        {"graphs": [{"file": "cpu-int8.onnx"}]},
        {"graphs": 7},
        {"files": []},
        {"accepted_sequences": [["t9"]]},
        {"provenance": 3},
    ],
)
def test_a_garbled_manifest_is_refused(make_bundle: MakeBundle, change: dict[str, object]) -> None:
    """Even correctly sealed nonsense is an integrity error, never another exception."""
    path = make_bundle()
    rewrite(path, **change)
    with pytest.raises(BundleIntegrityError):
        read_bundle(path)


def test_external_weights_are_refused(make_bundle: MakeBundle) -> None:
    """A graph that points to another file could load anything from the disk."""
    import onnx
    from onnx.external_data_helper import set_external_data

    path = make_bundle()
    model = onnx.load_from_string(threshold_graph())
    set_external_data(model.graph.initializer[0], location="weights.bin")
    content = model.SerializeToString()
    (path / "cpu-int8.onnx").write_bytes(content)
    files = json.loads((path / MANIFEST).read_bytes())["files"] | {"cpu-int8.onnx": sha256_bytes(content)}
    rewrite(path, files=files)
    with pytest.raises(BundleIntegrityError, match="weights in another file"):
        read_bundle(path)


def test_a_symbolic_link_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A bundle cannot reach out of its folder."""
    path = make_bundle()
    shutil.move(path / "MODEL_CARD.md", tmp_path / "card")
    (path / "MODEL_CARD.md").symlink_to(tmp_path / "card")
    with pytest.raises(BundleIntegrityError, match="not a plain file"):
        read_bundle(path)


def test_a_zip_with_paths_is_refused(make_bundle: MakeBundle) -> None:
    """Names with folders in them are refused before anything is read."""
    path = make_bundle("b.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil", b"")
    with pytest.raises(BundleIntegrityError, match="folders"):
        read_bundle(path)


def test_a_zip_bomb_is_refused_before_it_is_inflated(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size that the archive states is capped."""
    path = make_bundle("b.zip")
    monkeypatch.setattr(module, "_MAX_FILE_BYTES", 100)
    with pytest.raises(BundleIntegrityError, match="larger than any"):
        read_bundle(path)


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    """Absent path, empty folder and a text file are all a `BundleError`."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    for name in ("absent", "empty", "text"):
        with pytest.raises(BundleError):
            read_bundle(tmp_path / name)


def test_a_folder_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    """--out pointing at a home folder must not empty it."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="not a bundle"):
        write_bundle(tmp_path, threshold_manifest(), {})
    assert (tmp_path / "thesis.tex").exists()


def test_a_bundle_is_replaced_by_a_newer_one(make_bundle: MakeBundle) -> None:
    """Writing twice leaves one complete bundle and nothing beside it."""
    path = make_bundle()
    make_bundle()
    assert read_bundle(path)
    assert not list(path.parent.glob(".*"))


def test_without_a_bundle_the_message_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No bundle in the installation and no demo: exit code 4 with a sentence."""
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "bundle.py"))
    with pytest.raises(BundleError, match="make demo"):
        default_bundle()


def test_a_graph_that_is_no_onnx_is_a_bundle_error() -> None:
    """Exceptions of onnxruntime do not come through."""
    with pytest.raises(BundleIntegrityError, match="cannot load"):
        OnnxEngine(threshold_manifest().graphs[0], b"not a graph")


def test_the_engine_takes_any_shape(make_bundle: MakeBundle) -> None:
    """Padding to the divisor is invisible: each voxel is what arithmetic says."""
    engine = open_engine(read_bundle(make_bundle()), threads=1)
    image = np.random.default_rng(0).normal(size=(4, 5, 7, 9)).astype(np.float32)
    np.testing.assert_allclose(engine.logits(image)[0], 4 * image[3] - 6, rtol=1e-5, atol=1e-5)


def test_selftest_compares_bit_for_bit(make_bundle: MakeBundle) -> None:
    """One last bit in one logit is a failed check."""
    path = make_bundle()
    bundle = read_bundle(path)
    assert selftest(bundle)["bit_identical"]
    image, logits = bundle.golden()
    logits[0, 0, 0, 0] = np.nextafter(logits[0, 0, 0, 0], np.float32(9))
    name, content = module.golden_file(image.astype(np.float16), logits)
    write_bundle(path, bundle.manifest, {**bundle.files, name: content})
    with pytest.raises(CheckFailedError, match="comes out differently"):
        selftest(read_bundle(path))


def test_reliability_comes_back(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Temperatures and volume intervals survive the file; a bundle without them has none."""
    plain = read_bundle(make_bundle())
    assert plain.manifest.reliability is None
    interval = VolumeInterval(0.9, 24, -0.2, 0.3)
    wanted = Reliability((1.5, 1.0, 2.0), (interval, interval, interval))
    write_bundle(tmp_path / "more", replace(plain.manifest, reliability=wanted), plain.files)
    assert read_bundle(tmp_path / "more").manifest.reliability == wanted


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"temperature": [1, 1], "volume_intervals": []},
        {"temperature": [1, 1, 0], "volume_intervals": [{"rate": 0.9, "cases": 20, "low": 0, "high": 1}] * 3},
        {"temperature": [1, 1, 1], "volume_intervals": [{"rate": 0.9, "cases": 20, "low": 2, "high": 1}] * 3},
    ],
    ids=["empty", "too few", "temperature 0", "upside down"],
)
def test_reliability_that_is_none_is_refused(make_bundle: MakeBundle, bad: dict[str, object]) -> None:
    """A sealed manifest with such figures is damaged all the same."""
    path = make_bundle()
    rewrite(path, reliability=bad)
    with pytest.raises(BundleIntegrityError, match="garbles"):
        read_bundle(path)


def test_ranges_of_grey_values_come_back(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """They survive the file; an older bundle has none, and a garbled one is damaged."""
    plain = read_bundle(make_bundle())
    assert plain.manifest.intensity is None
    wanted = {"t2w": IntensityRange((-3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0), (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0))}
    write_bundle(tmp_path / "more", replace(plain.manifest, intensity=wanted), plain.files)
    assert read_bundle(tmp_path / "more").manifest.intensity == wanted
    rewrite(tmp_path / "more", intensity={"t2w": {"low": [1], "high": [2]}})
    with pytest.raises(BundleIntegrityError, match="garbles"):
        read_bundle(tmp_path / "more")


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_an_unsigned_bundle_is_used_and_said_to_be(make_bundle: MakeBundle, name: str) -> None:
    """Where no key is trusted; where one is, it is refused."""
    from tests.runtime.trust.test_minisign import KEY

    path = make_bundle(name)
    assert read_bundle(path, keys=()).signature == NOT_SIGNED
    with pytest.raises(BundleIntegrityError, match="is not signed"):
        read_bundle(path, keys=(KEY,))


def test_a_signature_of_something_else_is_refused(make_bundle: MakeBundle) -> None:
    """A true signature, copied from another file."""
    from tests.runtime.trust.test_minisign import KEY, PREHASHED

    path = make_bundle()
    (path / SIGNATURE).write_bytes(PREHASHED)
    with pytest.raises(BundleIntegrityError, match="does not agree with its signature by example"):
        read_bundle(path, keys=(KEY,))


def test_the_installation_s_keys_are_the_default(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can forget to give them."""
    from tests.runtime.trust.test_minisign import KEY

    monkeypatch.setattr(module, "trusted_keys", lambda: (KEY,))
    with pytest.raises(BundleIntegrityError, match="is not signed"):
        read_bundle(make_bundle())
