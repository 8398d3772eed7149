"""Training: the schedule, the cases it sees, exact continuation, and that it learns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_distill import student as students
from glialite_distill import train as training
from glialite_distill import train_options, train_state
from glialite_distill.augment import Augmentation
from glialite_distill.averaging import refresh_batch_norm, update_average
from glialite_distill.guidance import Guidance
from glialite_distill.quant_aware import FakeQuantStudent
from glialite_distill.student import Student, StudentSpec
from glialite_distill.student_file import StudentFile, load_student
from glialite_distill.train import Progress, RunSettings, TrainOptions, learning_rate, select_cases, train
from glialite_distill.train_forecast import forecast
from glialite_runtime.errors import CheckFailedError, ConfigError, TimeLimitReached
from glialite_runtime.sequences import SEQUENCES
from torch import nn

SHAPE = (20, 24, 18)


@dataclass(frozen=True)
class Split:
    train: tuple[str, ...]
    validation: tuple[str, ...]


def ball(number: int) -> npt.NDArray[np.uint8]:
    """Return labels: a ball of oedema with an enhancing middle, at a place that depends on the number."""
    centre = np.array([9, 8 + 2 * number, 9])
    distance = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - centre, axis=-1)
    return np.where(distance < 2.5, 3, np.where(distance < 5, 2, 0)).astype(np.uint8)


@dataclass
class Data:
    """Three small cases in which the tumour is bright; `loads` counts."""

    cases: tuple[str, ...] = ("c0", "c1", "c2")
    held_out: tuple[str, ...] = ("c9",)
    cohort_hash: str = "cohort" * 4
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    splits: tuple[Split, ...] = (Split(("c1", "c2"), ("c0",)),)
    loads: int = 0

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        self.loads += 1
        labels = ball(int(case[1:]))
        image = np.random.default_rng(int(case[1:])).normal(0, 0.3, (4, *SHAPE)).astype(np.float32)
        image[3] += 3 * (labels > 0)
        image[1] += 4 * (labels == 3)
        return image, labels


@dataclass
class Soft:
    """Soft labels of some cases: the truth, or what a test says."""

    cases: tuple[str, ...] = ("c1",)
    key: str = "soft" * 4
    members: tuple[str, ...] = ("baseline",)
    value: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.bool_]] = field(default=lambda labels: labels > 0)

    def load(self, case: str) -> npt.NDArray[np.float32]:
        return np.stack([self.value(ball(int(case[1:])))] * 3).astype(np.float32)

    def disagreement(self, case: str) -> npt.NDArray[np.float32]:
        return np.zeros((3, *SHAPE), np.float32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets this small lose more to two waiting threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _tiny_student() -> Iterator[None]:
    """Add a student of a few thousand weights."""
    known = {**students.STUDENTS, "tiny": StudentSpec("tiny", (8, 16), 1)}
    with pytest.MonkeyPatch.context() as patch:
        for module in (train_options, train_state, training):
            patch.setattr(module, "STUDENTS", known)
        yield


OPTIONS = TrainOptions(iterations=8, patch=(16, 16, 16), validations=3)


def options(**changes: object) -> TrainOptions:
    return replace(OPTIONS, **{"student": "tiny", **changes})


def settings(folder: Path, **changes: object) -> RunSettings:
    return replace(RunSettings(folder / "run", folder / "cache"), **changes)


@pytest.fixture(scope="module")
def whole(_tiny_student: None, _one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training that ran through."""
    folder = tmp_path_factory.mktemp("whole")
    train(Data(), Soft(), options(), settings(folder))
    return folder / "run"


def test_learning_rate_by_hand() -> None:
    """Warm-up over 10 of 110 iterations, the middle of the cosine at half, nearly 0 at the end."""
    some = replace(OPTIONS, iterations=110, warm_up=10 / 110, learning_rate=1.0)
    rates = [learning_rate(some, i) for i in (0, 4, 9, 10, 60, 109)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))])


def test_a_short_run_averages_over_a_tenth_of_itself() -> None:
    """Of 500 iterations 50 count, of a hundred thousand the thousand that `average` allows."""
    assert replace(OPTIONS, iterations=500).decay == pytest.approx(0.98)
    assert replace(OPTIONS, iterations=100_000, average=0.999).decay == 0.999
    assert replace(OPTIONS, iterations=1).decay == 0


def test_all_problems_of_the_options_are_named_at_once() -> None:
    """An unknown student, no iterations and a share above 1 in one message."""
    with pytest.raises(ConfigError, match=r"student 'XL'.*iterations.*foreground"):
        TrainOptions(student="XL", iterations=0, foreground=2)


def test_a_patch_that_the_student_cannot_take_is_refused() -> None:
    """S halves four times, so 40 is no edge for it."""
    with pytest.raises(ConfigError, match="multiple of 16"):
        TrainOptions(patch=(48, 40, 48))


def test_cases_without_soft_labels_are_trained_on_unless_refused() -> None:
    """By default all training cases count; with hard_cases off only those with soft labels."""
    assert select_cases(Data(), Soft(), options()) == (("c1", "c2"), ("c0",))
    assert select_cases(Data(), Soft(), options(hard_cases=False)) == (("c1",), ("c0",))


def test_a_held_out_case_is_never_trained_on() -> None:
    """Folds that contain a held-out case are refused."""
    with pytest.raises(ConfigError, match=r"held-out cases \(c2\)"):
        select_cases(Data(held_out=("c2",)), Soft(), options())


@pytest.mark.parametrize("soft", [None, Soft(cases=("c0",))])
def test_distilling_without_soft_labels_is_refused(soft: Soft | None) -> None:
    """Soft labels of validation cases alone are none; the message says how to do without."""
    with pytest.raises(ConfigError, match="--soft-weight 0"):
        select_cases(Data(), soft, options())


def test_the_truth_alone_needs_no_soft_labels() -> None:
    """With a soft weight of 0 all training cases are taken."""
    assert select_cases(Data(), None, options(soft_weight=0.0))[0] == ("c1", "c2")


def test_an_unknown_fold_is_refused() -> None:
    """The message says which folds there are."""
    with pytest.raises(ConfigError, match="fold 3 does not exist"):
        select_cases(Data(), Soft(), options(fold=3))


def test_a_finished_training_leaves_its_files(whole: Path) -> None:
    """Student, history and curve lie there, the checkpoint is gone, and the provenance says what was seen."""
    assert sorted(p.name for p in whole.iterdir()) == ["curve.png", "history.csv", "student.pt"]
    file = load_student(whole / "student.pt")
    assert file.spacing_mm == (2.0, 2.0, 2.0)
    assert file.provenance["train_cases"] == ["c1", "c2"]
    assert file.provenance["soft_label_cases"] == ["c1"]
    assert file.provenance["validation_cases"] == ["c0"]
    assert file.provenance["cohort_hash"] == Data().cohort_hash
    assert file.provenance["soft_label_key"] == Soft().key
    rows = (whole / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["iteration", "3", "5", "8"]
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_stopped_after_every_iteration_ends_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """Eight runs of one iteration each give the student.pt of one run of eight, bit for bit."""
    for done in range(1, 8):
        with pytest.raises(TimeLimitReached, match=f"after {done} of 8"):
            train(Data(), Soft(), options(), settings(tmp_path, time_limit_s=0.0))
    train(Data(), Soft(), options(), settings(tmp_path, time_limit_s=0.0))
    assert (tmp_path / "run" / "student.pt").read_bytes() == (whole / "student.pt").read_bytes()
    assert (tmp_path / "run" / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_training_killed_between_checkpoints_ends_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """What was done after the last checkpoint is done again, alike."""

    def die_at(iteration: int) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            if progress.iteration == iteration:
                raise KeyboardInterrupt

        return report

    for seconds, iteration in ((0.0, 3), (1e9, 6)):
        with pytest.raises(KeyboardInterrupt):
            train(Data(), Soft(), options(), settings(tmp_path, checkpoint_s=seconds, report=die_at(iteration)))
    train(Data(), Soft(), options(), settings(tmp_path))
    assert (tmp_path / "run" / "student.pt").read_bytes() == (whole / "student.pt").read_bytes()


def test_a_finished_training_is_not_done_again(whole: Path) -> None:
    """The same command reads the student and loads no case."""
    data = Data()
    seen: list[Progress] = []
    file = train(data, Soft(), options(), settings(whole.parent, report=seen.append))
    assert (data.loads, seen) == (0, [])
    assert file.provenance["iterations"] == 8


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 5}, r"seed \(0, now 5\)"),
        ({"temperature": (3.0, 2.0, 2.0)}, r"temperature \(\[2.*now \[3.0, 2.0"),
    ],
)
def test_a_training_with_other_options_is_not_mixed_up(whole: Path, changed: dict[str, object], said: str) -> None:
    """The message names each option that differs, and what to do."""
    with pytest.raises(ConfigError, match=said + ".*--name"):
        train(Data(), Soft(), options(**changed), settings(whole.parent))


def test_a_training_on_other_soft_labels_is_not_mixed_up(whole: Path) -> None:
    """New soft labels are another training."""
    with pytest.raises(ConfigError, match="soft_label_key"):
        train(Data(), Soft(key="new"), options(), settings(whole.parent))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """A truncated checkpoint is named, and not silently started over."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is damaged"):
        train(Data(), Soft(), options(), settings(tmp_path))


def test_a_diverged_training_stops(tmp_path: Path) -> None:
    """NaN in the data ends with a sentence instead of a NaN student."""

    class Broken(Data):
        def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
            image, labels = super().load(case)
            return image * np.float32("nan"), labels

    with pytest.raises(CheckFailedError, match="diverged"):
        train(Broken(), Soft(), options(), settings(tmp_path))


def test_a_student_learns_a_bright_tumour(tmp_path: Path) -> None:
    """Eighty iterations on the truth find the tumour of an unseen case."""
    file = train(Data(), None, options(iterations=80, soft_weight=0.0, learning_rate=1e-2), settings(tmp_path))
    assert file.provenance["last"]["dice_wt"] > 0.6


def test_a_student_of_soft_labels_alone_follows_its_teachers(tmp_path: Path) -> None:
    """Teachers that see no tumour make a student that sees none, though the truth has one."""
    blind = Soft(("c1", "c2"), value=lambda labels: labels > 9)
    file = train(Data(), blind, options(iterations=25, hard_weight=0.0), settings(tmp_path))
    assert file.provenance["last"]["dice_wt"] == 0


def test_training_starts_from_a_given_student(whole: Path, tmp_path: Path) -> None:
    """With a vanishing learning rate the weights stay those of the given student."""
    start = load_student(whole / "student.pt")
    tiny = options(iterations=1, learning_rate=1e-12, validations=1)
    file = train(Data(), Soft(), tiny, settings(tmp_path), start)
    torch.testing.assert_close(file.state["head.weight"], start.state["head.weight"])


def test_a_given_student_of_another_shape_is_refused(whole: Path, tmp_path: Path) -> None:
    """S does not start from the weights of a tiny student."""
    with pytest.raises(ConfigError, match="initial weights"):
        train(Data(), Soft(), OPTIONS, settings(tmp_path), load_student(whole / "student.pt"))


@pytest.fixture(scope="module")
def tuned(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a quantisation-aware training of the trained student that ran through."""
    folder = tmp_path_factory.mktemp("tuned")
    train(Data(), Soft(), options(quantisation_aware=True), settings(folder), load_student(whole / "student.pt"))
    return folder / "run"


def test_a_fine_tuned_student_is_an_ordinary_one_that_names_its_parent(whole: Path, tuned: Path) -> None:
    """The same tensors in the same form; statistics are the parent's, weights are not on a grid."""
    parent, file = load_student(whole / "student.pt"), load_student(tuned / "student.pt")
    assert file.spec == parent.spec
    assert all("running" not in key or torch.equal(file.state[key], parent.state[key]) for key in parent.state)
    assert not torch.equal(file.state["head.weight"], parent.state["head.weight"])
    channel = file.state["encoder.0.0.0.weight"][0].flatten() / file.state["encoder.0.0.0.weight"][0].abs().max() * 63
    assert (channel - channel.round()).abs().max() > 0.1
    assert file.provenance["options"]["quantisation_aware"] is True
    digest = hashlib.sha256()
    for key in sorted(parent.state):
        digest.update(parent.state[key].numpy().tobytes())
    assert file.provenance["initial"] == digest.hexdigest()


def test_fine_tuning_stopped_after_every_iteration_ends_in_the_same_bytes(
    whole: Path, tuned: Path, tmp_path: Path
) -> None:
    """The running ranges of activations go into the checkpoint too: the student.pt is that of one run, bit for bit."""
    parent = load_student(whole / "student.pt")
    for done in range(1, 8):
        with pytest.raises(TimeLimitReached, match=f"after {done} of 8"):
            train(Data(), Soft(), options(quantisation_aware=True), settings(tmp_path, time_limit_s=0.0), parent)
    train(Data(), Soft(), options(quantisation_aware=True), settings(tmp_path, time_limit_s=0.0), parent)
    assert (tmp_path / "run" / "student.pt").read_bytes() == (tuned / "student.pt").read_bytes()


def test_fine_tuning_trains_the_rounded_and_the_plain_student_by_turns(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second iteration rounds, from the first one on; none does in an ordinary training."""
    rounding: list[int] = []
    done: list[int] = []
    plain = FakeQuantStudent.forward

    def forward(self: FakeQuantStudent, image: torch.Tensor) -> torch.Tensor:
        rounding.append(len(done))
        return plain(self, image)

    monkeypatch.setattr(FakeQuantStudent, "forward", forward)
    run = settings(tmp_path, report=lambda progress: done.append(progress.iteration))
    train(Data(), Soft(), options(quantisation_aware=True, iterations=5), run, load_student(whole / "student.pt"))
    assert rounding == [0, 2, 4]


def test_fine_tuning_needs_a_trained_student(tmp_path: Path) -> None:
    """The message says why, and what to do; a forecast is refused alike."""
    for command in (train, forecast):
        with pytest.raises(ConfigError, match=r"freezes.*--init"):
            command(Data(), Soft(), options(quantisation_aware=True), settings(tmp_path))


def test_fine_tuning_and_training_are_not_mixed_up(whole: Path, tuned: Path) -> None:
    """The folder of one does not continue as the other."""
    with pytest.raises(ConfigError, match="quantisation_aware"):
        train(Data(), Soft(), options(), settings(tuned.parent), load_student(whole / "student.pt"))


def test_a_forecast_writes_nothing(tmp_path: Path) -> None:
    """It counts cases and iterations, times a few of them, and leaves no file."""
    ahead = forecast(Data(), Soft(), options(), settings(tmp_path))
    assert (ahead.training_cases, ahead.soft_label_cases, ahead.validation_cases) == (2, 1, 1)
    assert ahead.iterations_left == 8
    assert 0 < ahead.seconds < 60
    assert ahead.disk_mb > 3 * 21 * math.prod(SHAPE) / 1e6
    assert list(tmp_path.iterdir()) == []


def test_a_forecast_of_a_finished_training_is_zero(whole: Path) -> None:
    """Nothing is left to do."""
    ahead = forecast(Data(), Soft(), options(), settings(whole.parent))
    assert (ahead.iterations_left, ahead.seconds) == (0, 0)


def test_the_average_starts_fast_and_ends_slow() -> None:
    """From 0 towards 1: nine tenths of the way at iteration 0 whatever the decay, a hundredth late."""
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(average.weight)
    nn.init.ones_(network.weight)
    update_average(average, network, 0.99, 0)
    assert average.weight.item() == pytest.approx(0.9)
    update_average(average, network, 0.99, 10**6)
    assert average.weight.item() == pytest.approx(0.9 + 0.1 * 0.01)


def test_batch_norm_statistics_are_the_mean_over_the_batches() -> None:
    """Two batches of the means 1 and 3: the running mean is 2, the momentum is as before, the mode is evaluation."""
    layer = nn.BatchNorm3d(1)
    layer(torch.tensor([70.0, 80.0])[None, None, None, None])  # what it saw before does not count
    batches = [torch.tensor([0.0, 2.0]), torch.tensor([2.0, 4.0])]
    refresh_batch_norm(layer, (b[None, None, None, None] for b in batches))
    assert layer.running_mean.item() == pytest.approx(2)
    assert layer.running_var.item() == pytest.approx(2)  # of the sample: (1 + 1) / (2 − 1)
    assert layer.momentum == pytest.approx(0.1)
    assert not layer.training


def test_batch_norm_statistics_without_batches_stay() -> None:
    """Nothing to average: nothing is reset."""
    layer = nn.BatchNorm3d(1)
    layer.running_mean = torch.tensor([77.0])
    refresh_batch_norm(layer, [])
    assert layer.running_mean.item() == 77


def a_student(folder: Path, seed: int) -> StudentFile:
    """Return a student of one iteration."""
    return train(Data(), Soft(), options(iterations=1, validations=1, seed=seed), settings(folder / f"assistant{seed}"))


def test_the_provenance_says_which_subsets_were_learnt(whole: Path, tmp_path: Path) -> None:
    """All 15 with dropout, the full set alone without."""
    assert load_student(whole / "student.pt").provenance["accepted_sequences"] == [list(SEQUENCES)]
    some = replace(Augmentation(), dropout=0.25)
    file = train(Data(), Soft(), options(iterations=1, validations=1, augmentation=some), settings(tmp_path))
    assert len(file.provenance["accepted_sequences"]) == 15


def test_a_student_sees_patches_without_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the share 1 no patch that reaches the network has all four."""
    seen: list[torch.Tensor] = []
    plain = Student.forward

    def forward(self: Student, image: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(image.flatten(2).any(2))
        return plain(self, image)

    monkeypatch.setattr(Student, "forward", forward)
    always = replace(Augmentation(), dropout=1.0)
    train(Data(), Soft(), options(iterations=3, validations=1, augmentation=always), settings(tmp_path))
    assert len(seen) == 3 + 12
    assert not torch.cat(seen).all(1).any()


def test_an_assistant_is_followed(tmp_path: Path) -> None:
    """Without truth and teachers' weight to speak of, the student's probabilities come close to the assistant's."""
    teacher = train(Data(), None, options(iterations=40, soft_weight=0.0, learning_rate=1e-2), settings(tmp_path / "a"))
    alike = options(iterations=40, hard_weight=1e-6, soft_weight=0.0, learning_rate=1e-2, seed=7)
    file = train(Data(), None, alike, settings(tmp_path / "b"), None, Guidance(teacher))
    rows = (tmp_path / "b" / "run" / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("assistant")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[-1] < 0.5 * losses[0]
    assert file.provenance["last"]["dice_wt"] > 0.3


@dataclass(frozen=True)
class Scans:
    """Two scans without labels, of one of which the teachers are sure."""

    key: str = "scans" * 4
    cases: tuple[str, ...] = ("u3", "u4")
    soft: Soft = field(default_factory=lambda: Soft(("u3",)))

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        return Data().load(case)


def guided(folder: Path) -> tuple[TrainOptions, Guidance]:
    return options(feature_weight=0.5), Guidance(a_student(folder, 1), Scans())


def test_guided_training_stopped_after_every_iteration_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Assistant, projection, scans without labels and the averaged student: all continue bit for bit."""
    chosen, guidance = guided(tmp_path)
    straight = train(Data(), Soft(), chosen, settings(tmp_path / "straight"), None, guidance)
    assert all(straight.provenance["last"][part] > 0 for part in ("assistant", "features", "unlabelled"))
    for _ in range(7):
        with pytest.raises(TimeLimitReached):
            train(Data(), Soft(), chosen, settings(tmp_path, time_limit_s=0.0), None, guidance)
    train(Data(), Soft(), chosen, settings(tmp_path, time_limit_s=0.0), None, guidance)
    one, other = (folder / "run" / "student.pt" for folder in (tmp_path, tmp_path / "straight"))
    assert one.read_bytes() == other.read_bytes()


def test_another_assistant_or_other_scans_are_another_training(tmp_path: Path) -> None:
    """The message names what differs."""
    chosen, guidance = guided(tmp_path)
    run = settings(tmp_path, time_limit_s=0.0)
    with pytest.raises(TimeLimitReached):
        train(Data(), Soft(), chosen, run, None, guidance)
    for changed, said in (
        (replace(guidance, assistant=a_student(tmp_path, 2)), "different: assistant"),
        (replace(guidance, unlabelled=Scans("other")), "different: unlabelled"),
    ):
        with pytest.raises(ConfigError, match=said):
            train(Data(), Soft(), chosen, run, None, changed)


def test_a_forecast_counts_the_assistant(tmp_path: Path) -> None:
    """It runs with all helpers and leaves no file."""
    chosen, guidance = guided(tmp_path / "made")
    assert forecast(Data(), Soft(), chosen, settings(tmp_path / "new"), None, guidance).iterations_left == 8
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"doubt": 2.0}, "doubt must be in 0 to 1"),
        ({"temperature": (2.0, 0.0, 2.0)}, "temperature must be positive"),
        ({"augmentation": Augmentation(dropout=-0.1)}, "dropout must be in 0 to 1"),
        ({"consistency": -1.0}, "consistency must not be negative"),
        ({"quantisation_aware": True, "feature_weight": 1.0}, "feature_weight has no place"),
    ],
)
def test_options_that_cannot_be_are_refused(changed: dict[str, object], said: str) -> None:
    """One sentence each."""
    with pytest.raises(ConfigError, match=said):
        options(**changed)
