import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules import RegisteredSliceDataModule
from datamodules.layouts.case_files import MODALITIES
from datamodules.phantom.simulation import generate_cohort
from datamodules.slices.sources import on_one_grid, recognise
from errors import InputError
from tests.datamodules.tiny_patients import LPS, make_volumes, save

pytestmark = pytest.mark.slow

pytest.importorskip("SimpleITK")
OPTIONS = {"spacing": 3.0, "slice_size": 96, "num_workers": 0}


@pytest.fixture(scope="module")
def exams(tmp_path_factory):
    """Folder of two phantom exams."""
    folder = tmp_path_factory.mktemp("exams")
    generate_cohort(folder, 2, layout="exam", spacing=3.0, progress=False)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that the tests share, so that each exam is registered once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def data(exams, cache):
    """The exams as slices."""
    module = RegisteredSliceDataModule(root=str(exams), cache_dir=cache, **OPTIONS)
    module.prepare_data()
    return module


def test_raw_exams_are_registered_into_the_cache_once(data, exams, cache):
    assert sorted(data.cases) == ["SYN-EXAM-001", "SYN-EXAM-002"]
    assert data.identity()["registration"] is not None
    made = {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*_t1.nii.gz")}
    assert len(made) == 2
    again = RegisteredSliceDataModule(root=str(exams), cache_dir=cache, **OPTIONS)
    again.prepare_data()
    assert {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*_t1.nii.gz")} == made
    assert again.identity() == data.identity()


def test_the_grid_is_that_of_the_original_t2_and_the_way_back_is_good(data, exams, tmp_path):
    for case_id, case in data.cases.items():
        original = nib.load(exams / case_id / f"{case_id}_t2.nii.gz")
        assert case.native_shape == original.shape
        case.save_native(np.zeros(case.native_shape), tmp_path / "zeros.nii.gz", np.uint8)
        np.testing.assert_allclose(
            nib.load(tmp_path / "zeros.nii.gz").affine, original.affine, atol=1e-4
        )
        drawn = np.asarray(nib.load(exams / case_id / f"{case_id}_seg.nii.gz").dataobj) > 0
        np.testing.assert_array_equal(case.native_regions()[0], drawn)
        assert case.spacing[2] == pytest.approx(4.0, abs=1e-3)
    fine = RegisteredSliceDataModule(
        root=data.root,
        cache_dir=str(data.cache_dir),
        **{**OPTIONS, "spacing": 1.0},
        selection="largest",
    )
    fine.slice_size = 256
    for case in fine.cases.values():
        back = case.to_native(case.padded_labels()[:, None] != 0) > 0.5
        reference = case.native_regions()
        assert 2 * (back & reference).sum() / (back.sum() + reference.sum()) > 0.95


def test_a_label_is_saved_on_the_original_grid_of_every_modality(data, exams, tmp_path):
    case = data.cases["SYN-EXAM-001"]
    label = case.native_regions()[0].astype(np.uint8)
    case.save_native(label, tmp_path / "x_seg.nii.gz", np.uint8)
    written = case.save_on_modalities(tmp_path / "x_seg.nii.gz")
    assert [path.name for path in written] == [
        f"x_seg_on_{modality}.nii.gz" for modality in ("t1", "t1ce", "flair")
    ]
    for path, modality in zip(written, ("t1", "t1ce", "flair"), strict=True):
        original = nib.load(exams / "SYN-EXAM-001" / f"SYN-EXAM-001_{modality}.nii.gz")
        image = nib.load(path)
        assert image.shape == original.shape
        np.testing.assert_allclose(image.affine, original.affine, atol=1e-3)
        ml = np.asarray(image.dataobj).sum() * np.prod(image.header.get_zooms())
        assert ml == pytest.approx(label.sum() * np.prod(case.native_spacing), rel=0.35)


def test_a_registered_folder_is_recognised_and_gives_the_same(data, cache):
    (folder,) = (path for path in (Path(cache) / "registered").iterdir() if path.is_dir())
    assert recognise(folder, None) == "registered"
    again = RegisteredSliceDataModule(root=str(folder), cache_dir=cache, **OPTIONS)
    again.prepare_data()
    assert again.case_hashes() == data.case_hashes()


def test_one_raw_exam_without_a_modality_is_registered_to_be_predicted(exams, tmp_path):
    present = [m for m in MODALITIES if m != "flair"]
    images = {m: str(exams / "SYN-EXAM-002" / f"SYN-EXAM-002_{m}.nii.gz") for m in present}
    with pytest.raises(InputError, match="flair is missing"):
        RegisteredSliceDataModule(images=images, cache_dir=str(tmp_path), **OPTIONS).prepare_data()
    module = RegisteredSliceDataModule(
        images=images, missing="zero", cache_dir=str(tmp_path), **OPTIONS
    )
    module.prepare_data()
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    (case,) = batch["case"]
    assert "label" not in batch
    assert batch["image"].shape == (1, case.slices, 4, 96, 96)
    assert case.native_shape == nib.load(images["t2"]).shape
    shown = batch["image"][0].abs().sum((0, 2, 3)) > 0
    assert shown.tolist() == [True, True, True, False]
    assert module.identity()["filled"] == {case.case_id: ["flair"]}
    assert any("flair is missing" in notice for notice in module.notices)


def test_without_a_root_phantom_exams_are_made_once(tmp_path, data, monkeypatch):
    from datamodules.phantom import simulation
    from datamodules.registration import cohort as registration_cohort

    made, registered = [], []
    real = simulation.generate_cohort
    monkeypatch.setattr(
        simulation, "generate_cohort", lambda *a, **k: made.append(a) or real(*a, **k)
    )

    def register(found, out, **how):  # the same phantoms were registered for `data`
        registered.append([case.case_id for case in found])
        return [case.files for case in data.cases.values()], {}

    monkeypatch.setattr(registration_cohort, "register_cohort", register)
    for _ in range(2):
        module = RegisteredSliceDataModule(
            cache_dir=str(tmp_path), phantom_patients=2, phantom_spacing=3.0, **OPTIONS
        )
        module.prepare_data()
    assert len(made) == 1
    assert registered == [["SYN-EXAM-001", "SYN-EXAM-002"]] * 2
    assert sorted(module.cases) == ["phantom-0-0001", "phantom-0-0002"]
    assert set(module.case_hashes().values()) == set(data.case_hashes().values())


def test_bad_exams_of_every_kind_are_listed_at_once(exams, tmp_path):
    root = tmp_path / "exams"
    shutil.copytree(exams, root)
    (root / "SYN-EXAM-001" / "SYN-EXAM-001_flair.nii.gz").unlink()
    flat = root / "SYN-EXAM-002" / "SYN-EXAM-002_t1.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((20, 20), np.int16), np.eye(4)), flat)
    module = RegisteredSliceDataModule(root=str(root), cache_dir=str(tmp_path / "c"), **OPTIONS)
    with pytest.raises(InputError, match="2 of 2") as error:
        module.prepare_data()
    _, first, second = str(error.value).splitlines()
    assert "SYN-EXAM-001" in first
    assert "flair is missing" in first
    assert "SYN-EXAM-002" in second
    assert "t1" in second


def test_a_flagged_registration_is_refused_in_one_sentence(exams, tmp_path, monkeypatch):
    from datamodules.registration import cohort as registration_cohort

    asked = {}

    def flag(found, out, **how):
        asked.update(how)
        return [], {case.case_id: "t1 turned by 41 degrees" for case in found}

    monkeypatch.setattr(registration_cohort, "register_cohort", flag)
    module = RegisteredSliceDataModule(
        root=str(exams), cache_dir=str(tmp_path), accept_flagged=True, **OPTIONS
    )
    with pytest.raises(InputError, match="2 of 2") as error:
        module.prepare_data()
    assert str(error.value).count("41 degrees") == 2
    assert asked["accept_flagged"] is True


def test_what_a_folder_holds_is_told_by_its_names(tmp_path, cohort, exams):
    assert recognise(cohort, None) == "brats"
    assert recognise(exams, None) == "exams"
    assert recognise(exams, "described.yaml") == "brats"
    save(
        make_volumes(0)[0]["t1"],
        tmp_path / "new/BraTS-GLI-00002-100/BraTS-GLI-00002-100-t1n.nii.gz",
    )
    assert recognise(tmp_path / "new", None) == "brats"
    save(make_volumes(0)[0]["t1"], tmp_path / "msd/imagesTr/BRATS_001.nii.gz")
    assert recognise(tmp_path / "msd", None) == "brats"
    assert recognise(tmp_path / "msd/imagesTr", None) == "brats"


def test_files_lie_on_one_grid_or_not(tmp_path):
    images = {m: str(tmp_path / f"{m}.nii.gz") for m in MODALITIES}
    for modality, array in make_volumes(0)[0].items():
        save(array, Path(images[modality]))
    assert on_one_grid(images)
    assert not on_one_grid({m: images[m] for m in ("t1", "t2")})
    moved = LPS.copy()
    moved[0, 3] += 1.0
    save(make_volumes(0)[0]["t1"], Path(images["t1"]), moved)
    assert not on_one_grid(images)
    save(make_volumes(0)[0]["t1"][:-1], Path(images["t1"]))
    assert not on_one_grid(images)


def test_a_real_exam_is_segmentable_on_its_own_t2(tmp_path, real_data):
    folder = real_data / "exams" / "TCGA-DU-7294"
    names = {"t1": "t1", "t1ce": "t1c", "t2": "t2", "flair": "fla"}
    images = {m: str(folder / f"{folder.name}_hdbet_native_{n}.nii.gz") for m, n in names.items()}
    module = RegisteredSliceDataModule(images=images, cache_dir=str(tmp_path), num_workers=0)
    module.prepare_data()
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    (case,) = batch["case"]
    assert case.native_shape == (512, 512, 34)
    assert case.brain_ml == pytest.approx(1400, abs=300)
    assert batch["image"].shape == (1, case.slices, 4, 256, 256)
    assert case.spacing == pytest.approx((1.0, 1.0, 5.0), abs=1e-3)
    t2 = batch["image"][0, :, 2:3].numpy()
    assert case.to_native(t2).shape == (1, 512, 512, 34)
