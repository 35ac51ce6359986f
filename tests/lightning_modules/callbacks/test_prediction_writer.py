"""Files of `predict`, as `evaluate` reads them."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

import cli
from datamodules.cases.cache import prepare_cases
from datamodules.layouts.case_files import probabilities_name
from datamodules.nifti.headers import SYNTHETIC_TRAINING
from datamodules.patients.find import find_cases
from errors import InputError
from evaluation.metrics.calibration import Reliability, measure_reliability
from evaluation.tables.per_case import read_csv
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.contracts.settings import UseSettings
from outputs import LEDGER

CASE = "BraTS2021_00003"
REGIONS = ("WT", "TC", "ET")


@pytest.fixture
def case(tmp_path):
    """A prepared patient of 14 x 16 x 12 voxels with a box of each region."""
    rng = np.random.default_rng(0)
    brain = np.zeros((14, 16, 12), bool)
    brain[2:12, 2:14, 2:10] = True
    label = np.zeros(brain.shape, np.uint8)
    label[4:10, 4:12, 3:9], label[5:9, 5:10, 4:8], label[6:8, 6:9, 5:7] = 2, 1, 4
    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        image = label if name == "seg" else np.where(brain, rng.integers(50, 99, brain.shape), 0)
        path = tmp_path / "cohort" / CASE / f"{CASE}_{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(image.astype(np.uint8), np.eye(4)), path)
    (found,) = prepare_cases(
        find_cases(tmp_path / "cohort"), tmp_path / "cache", 1.0, progress=False
    )
    return found


def write(folder, case, **settings):
    """Predict a patient: the reference shifted by a voxel, with probabilities."""
    regions = np.roll(case.native_regions(), 1, axis=1)
    probabilities = (0.8 * regions + 0.05).astype(np.float32)
    writer = PredictionWriter(folder, **settings)
    outputs = {
        "case": case,
        "labels": case.convention.from_regions(regions),
        "regions": regions,
        "probabilities": probabilities,
    }
    data = SimpleNamespace(cases={case.case_id: case})
    trainer = SimpleNamespace(world_size=1, is_global_zero=True, datamodule=data)
    module = SimpleNamespace(regions=REGIONS, usage=UseSettings())
    writer.on_predict_start(trainer, module)
    writer.on_predict_batch_end(trainer, module, outputs, None, 0)
    return probabilities


def test_evaluate_calibrates_the_probabilities_that_predict_wrote(case, tmp_path):
    found = []
    output = tmp_path / "predictions"
    announced = {"announce": lambda: found.append(sorted(output.iterdir()))}
    probabilities = write(output, case, probabilities=True, **announced)
    assert found == [[]]  # once, and nothing was written before
    assert {file.name for file in output.iterdir()} == {
        f"{CASE}_seg.nii.gz",
        f"{CASE}_probabilities.nii.gz",
        f"{CASE}.png",
        "volumes.csv",
        LEDGER,
    }
    words = ("--predictions", str(output), "--references", str(tmp_path / "cohort"))
    assert cli.main(["evaluate", *words]) == 0
    rows = read_csv(output / "calibration.csv")
    for region, predicted, reference in zip(
        REGIONS, probabilities, case.native_regions(), strict=True
    ):
        expected = measure_reliability(predicted, reference)
        counts = Reliability.from_rows([row for row in rows if row["region"] == region])
        assert counts.voxels.tolist() == expected.voxels.tolist()
        assert counts.ece == pytest.approx(expected.ece)


@pytest.mark.parametrize(
    ("mask", "probabilities"),
    [
        ("BraTS-GLI-00001-000-seg.nii.gz", "BraTS-GLI-00001-000_probabilities.nii.gz"),
        ("BRATS_001.nii", "BRATS_001_probabilities.nii.gz"),
        ("p1_v1_auto.nii.gz", "p1_v1_auto_probabilities.nii.gz"),
    ],
)
def test_probabilities_are_named_after_the_case_as_evaluate_calls_it(mask, probabilities):
    assert probabilities_name(mask) == probabilities


def test_a_prediction_is_never_written_over_the_label(case, tmp_path):
    folder = tmp_path / "cohort" / CASE
    label = (folder / f"{CASE}_seg.nii.gz").read_bytes()
    with pytest.raises(InputError, match=rf"written over .*{CASE}_seg\.nii\.gz, which is an i"):
        write(folder, case)
    assert (folder / f"{CASE}_seg.nii.gz").read_bytes() == label


def test_evaluate_repeats_the_mark_of_a_network_that_saw_no_real_patient(case, tmp_path, capsys):
    settings = {"unlike": lambda case: ["T2 is noisier", "FLAIR is smoother"]}
    write(tmp_path / "predictions", case, remark=SYNTHETIC_TRAINING, **settings)
    (row,) = read_csv(tmp_path / "predictions" / "volumes.csv", ("case_id", "doubts", "remark"))
    assert row["remark"] == SYNTHETIC_TRAINING
    assert row["doubts"] == "unlike the training patients: T2 is noisier, FLAIR is smoother"
    words = ("--predictions", f"{tmp_path}/predictions", "--references", f"{tmp_path}/cohort")
    assert cli.main(["evaluate", *words]) == 0
    assert SYNTHETIC_TRAINING in capsys.readouterr().out
    write(tmp_path / "unmarked", case)
    words = ("--predictions", f"{tmp_path}/unmarked", "--references", f"{tmp_path}/cohort")
    assert cli.main(["evaluate", *words]) == 0
    assert SYNTHETIC_TRAINING not in capsys.readouterr().out
