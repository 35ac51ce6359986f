"""The phantom cohort: files, layouts, determinism, distribution, refusals."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules.patients.find import find_cases
from datamodules.phantom.anatomy import brain_grid, draw_pose
from datamodules.phantom.files import LAYOUTS
from datamodules.phantom.lesion import plan_lesion
from datamodules.phantom.simulation import (
    PHANTOM_VERSION,
    enhances,
    generate_cohort,
    generate_patient,
    main,
)
from datamodules.phantom.variety import PIECES, Pieces
from errors import InputError

COARSE = 4.0  # mm


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Five patients, written by two worker processes."""
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    generate_cohort(out, 5, seed=3, spacing=COARSE, progress=False, workers=2)
    return out


def test_same_seed_same_bytes_for_any_number_of_workers(cohort, tmp_path):
    generate_cohort(tmp_path, 5, seed=3, spacing=COARSE, progress=False, workers=1)
    assert contents(tmp_path) == contents(cohort)


def test_interrupted_cohort_is_completed_to_the_same_bytes(cohort, tmp_path):
    generate_cohort(tmp_path, 2, seed=3, spacing=COARSE, progress=False)
    (tmp_path / ".BraTS2021_90003.4711").mkdir()  # what a killed process leaves behind
    kept = (tmp_path / "BraTS2021_90001" / "BraTS2021_90001_t1.nii.gz").stat().st_mtime_ns
    generate_cohort(tmp_path, 5, seed=3, spacing=COARSE, progress=False, workers=1)
    assert contents(tmp_path) == contents(cohort)
    again = (tmp_path / "BraTS2021_90001" / "BraTS2021_90001_t1.nii.gz").stat().st_mtime_ns
    assert again == kept


def test_another_seed_or_index_is_another_patient():
    first, other_index, other_seed = (
        generate_patient(*key, COARSE).images["flair"] for key in ((0, 0), (0, 1), (1, 0))
    )
    assert not np.array_equal(first, other_index)
    assert not np.array_equal(first, other_seed)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_layout_has_its_names_labels_and_grid(layout, tmp_path):
    main(
        [
            "--out",
            str(tmp_path),
            "--patients",
            "2",
            "--seed",
            "1",
            "--layout",
            layout,
            "--spacing",
            str(COARSE),
        ]
    )
    files = sorted(tmp_path.rglob("*.nii.gz"))
    assert len(files) == 10
    endings = {
        "brats2018": ("_flair", "_seg", "_t1", "_t1ce", "_t2"),
        "brats2021": ("_flair", "_seg", "_t1", "_t1ce", "_t2"),
        "brats2023": ("-seg", "-t1c", "-t1n", "-t2f", "-t2w"),
    }[layout]
    first = {
        "brats2018": "Brats18_SYN_001_1",
        "brats2021": "BraTS2021_90001",
        "brats2023": "BraTS-GLI-90001-000",
    }[layout]
    names = {f.name for f in files}
    assert {f"{first}{ending}.nii.gz" for ending in endings} <= names
    if layout == "brats2018":
        grade = {True: "HGG", False: "LGG"}
        for index in range(2):
            case = f"Brats18_SYN_{index + 1:03d}_1"
            assert (tmp_path / grade[enhances(1, index)] / case).is_dir()
    labels = set()
    for file in files:
        image = nib.load(file)
        assert b"SYNTHETIC" in bytes(image.header["descrip"])
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        assert image.shape == (60, 60, 39)
        assert image.affine[1, 3] == (60 - 1) * COARSE
        array = np.asanyarray(image.dataobj)
        if "seg" in file.name:
            labels |= set(np.unique(array).tolist())
            continue
        assert array.dtype == np.int16
        assert array.min() == 0
        assert 0.1 < np.mean(array > 0) < 0.3  # 17 to 20 % of the grid is brain
    assert labels == {0, 1, 2, 3 if layout == "brats2023" else 4}
    cases = find_cases(tmp_path)  # recognised from the names alone
    assert next(case.case_id for case in cases) == first
    assert len(cases) == 2
    for index, case in enumerate(cases):
        native = np.asanyarray(nib.load(case.label).dataobj)
        whole, core, enhancing = case.convention.to_regions(native)
        label = generate_patient(1, index, COARSE).label
        assert whole.sum() == (label > 0).sum()
        assert core.sum() == np.isin(label, (1, 3)).sum()
        assert enhancing.sum() == (label == 3).sum()
    assert "SYNTHETIC" in (tmp_path / "SYNTHETIC.txt").read_text()
    stored = json.loads((tmp_path / "phantom.json").read_text())
    assert stored == {
        "SYNTHETIC": True,
        "version": PHANTOM_VERSION,
        "seed": 1,
        "layout": layout,
        "spacing": COARSE,
        "pieces": list(PIECES),
    }


def test_one_millimetre_grid_is_that_of_brats():
    from datamodules.phantom.files import to_atlas

    grid = brain_grid(1.0)
    box = np.zeros(grid.shape, np.int16)
    box[0, 0, 0] = 7  # the leftmost, hindmost, lowest corner
    full, affine = to_atlas(box, grid)
    assert full.shape == (240, 240, 155)
    np.testing.assert_array_equal(affine[:3, 3], [0, 239, 0])  # as in the released files
    corner = affine @ [*np.argwhere(full == 7)[0], 1]
    opposite = affine @ [*(np.array(full.shape) - 1 - np.argwhere(full == 7)[0]), 1]
    assert corner[0] < opposite[0]
    assert corner[1] < opposite[1]
    assert corner[2] < opposite[2]


def test_lesions_are_spread_as_in_the_public_cohorts():
    poses = [draw_pose(np.random.default_rng([5, i])) for i in range(600)]
    plans = [
        plan_lesion(np.random.default_rng([6, i]), p, True, Pieces(6, i, ()))
        for i, p in enumerate(poses)
    ]
    whole = np.array([p.whole_ml for p in plans])
    assert 85 < np.median(whole) < 110
    assert 8 <= whole.min() < 15
    assert whole.max() == 230.0
    assert 22 < np.median([p.core_ml for p in plans]) < 51  # nine measured patients: 51
    assert 0.15 < np.mean([len(p.foci) > 1 for p in plans]) < 0.25
    assert 0.12 < np.mean([not enhances(0, i) for i in range(2000)]) < 0.18


@pytest.mark.parametrize("index", range(4))
def test_volumes_are_the_planned_ones_and_only_enhancing_patients_enhance(index):
    from datamodules.phantom.simulation import random_stream

    patient = generate_patient(2, index, 3.0)
    pose = draw_pose(random_stream(2, index, "pose"))
    plan = plan_lesion(random_stream(2, index, "plan"), pose, enhances(2, index), Pieces(2, index))
    whole = (patient.label > 0).sum() * patient.grid.voxel_ml
    core = np.isin(patient.label, (1, 3)).sum() * patient.grid.voxel_ml
    assert whole == pytest.approx(plan.whole_ml, rel=0.15)
    assert core == pytest.approx(plan.core_ml, rel=0.15, abs=0.5)
    assert (patient.label == 3).any() == plan.enhancing
    brain = np.any([image > 0 for image in patient.images.values()], axis=0)
    assert brain[patient.label > 0].all()
    assert 1000 < brain.sum() * patient.grid.voxel_ml < 2100  # measured: 1084 to 1731 ml


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layout": "brats1999"}, "Unknown phantom layout 'brats1999'"),
        ({"patients": 0}, "number of phantom patients is 0"),
        ({"patients": 10000}, "number of phantom patients is 10000"),
        ({"seed": -1}, "seed is -1"),
        ({"spacing": 0.1}, "spacing is 0.1 mm"),
        ({"spacing": 9.0}, "spacing is 9 mm"),
        ({"spacing": float("nan")}, "spacing is nan mm"),
        ({"workers": 0}, "number of processes is 0"),
    ],
)
def test_wrong_setting_is_refused_in_one_sentence(change, sentence, tmp_path):
    settings = {"patients": 1, "seed": 0, "layout": "brats2021", "spacing": 4.0} | change
    with pytest.raises(InputError, match=sentence):
        generate_cohort(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_folder_with_other_content_is_refused(cohort, tmp_path):
    (tmp_path / "thesis.docx").write_text("mine")
    with pytest.raises(InputError, match=r"holds other content \(thesis.docx\)"):
        generate_cohort(tmp_path, 1, spacing=COARSE)
    with pytest.raises(InputError, match="is a file"):
        generate_cohort(tmp_path / "thesis.docx", 1, spacing=COARSE)
    with pytest.raises(InputError, match="was made with seed 3, not 4"):
        generate_cohort(cohort, 5, seed=4, spacing=COARSE)
    with pytest.raises(InputError, match=r"holds other content \(BraTS2021_9000"):
        generate_cohort(cohort, 3, seed=3, spacing=COARSE)  # fewer than it holds
    assert contents(tmp_path) == {"thesis.docx": b"mine"}


def test_a_note_of_the_user_is_not_written_over(tmp_path):
    (tmp_path / "SYNTHETIC.txt").write_text("mine")
    with pytest.raises(InputError, match=r"SYNTHETIC\.txt is not what this program writes there"):
        generate_cohort(tmp_path, 1, spacing=5.0, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["SYNTHETIC.txt"]
