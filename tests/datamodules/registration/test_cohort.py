"""Exams to registered patients: files, labels, repeats, failures, the `prepare` command."""

import gzip
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules.exams.sequence_names import find_exams
from datamodules.layouts.conventions import CANONICAL
from datamodules.layouts.label_values import refuse_whole_tumours
from datamodules.registration.cohort import register_cohort
from datamodules.registration.command import main
from datamodules.registration.folder import find_registered, is_registered, labels_on_modality
from datamodules.registration.label import label_drawn_on
from datamodules.registration.patient import exam_problems
from errors import InputError
from tests.datamodules.exam_phantoms import exams as exams  # the session's phantoms

pytestmark = pytest.mark.slow

MODALITIES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def prepared(exams, tmp_path_factory) -> Path:
    """Both exams, registered by two processes."""
    out = tmp_path_factory.mktemp("prepared")
    cases, problems = register_cohort(find_exams(exams), out, workers=2, progress=False)
    assert not problems
    assert len(cases) == 2
    return out


@pytest.fixture
def exam(exams, tmp_path) -> Path:
    """A copy of one exam's images and label, to be broken."""
    folder = tmp_path / "exams" / "P1"
    folder.mkdir(parents=True)
    for kind in (*MODALITIES, "seg"):
        shutil.copy(exams / "SYN-EXAM-001" / f"SYN-EXAM-001_{kind}.nii.gz", folder)
    return folder


def file(folder: Path, kind: str) -> Path:
    return next(folder.glob(f"*_{kind}.nii.gz"))


def edit(path: Path, change) -> None:
    image = nib.load(path)
    array, affine = change(np.asanyarray(image.dataobj).copy(), image.affine.copy())
    path.unlink()
    nib.Nifti1Image(array, affine).to_filename(path)


def attempt(folder: Path, **options) -> str:
    """The problem of the one exam in `folder`."""
    exams = find_exams(folder.parent)
    cases, problems = register_cohort(
        exams, folder.parent.parent / "out", workers=1, progress=False, **options
    )
    assert not cases
    (problem,) = problems.values()
    assert "\n" not in problem
    return problem


def test_everything_lies_on_t2s_grid(exams, prepared):
    case = find_registered(prepared)[0]
    folder = prepared / case.case_id
    assert (case.layout, case.patient_id) == ("registered", "SYN-EXAM-001")
    t2 = nib.load(case.images["t2"].path)
    assert case.images["t2"].path.read_bytes() == file(exams / case.case_id, "t2").read_bytes()
    for modality in MODALITIES:
        image = nib.load(case.images[modality].path)
        assert image.shape == t2.shape
        np.testing.assert_array_equal(image.affine, t2.affine)
        assert image.get_data_dtype() == np.int16
        assert b"SYNTHETIC" in bytes(image.header["descrip"])
        inside = np.asanyarray(image.dataobj)[np.asanyarray(t2.dataobj) > 0] != 0
        assert inside.mean() > 0.9
    label = np.asanyarray(nib.load(case.label).dataobj)
    drawn = np.asanyarray(nib.load(file(exams / case.case_id, "seg")).dataobj)
    np.testing.assert_array_equal(label, drawn)
    assert (folder / "sheet.png").stat().st_size > 50_000
    assert "# SYNTHETIC" in (folder / "t1_to_t2.tfm").read_text()
    report = json.loads((folder / "registration.json").read_text())
    assert report["verdict"] == "good"
    for modality in ("t1", "t1ce", "flair"):
        figures = report["registration"][modality]
        truth = json.loads((exams / case.case_id / f"{case.case_id}.json").read_text())[modality]
        assert figures["rotation_degrees"] == pytest.approx(truth["degrees"], abs=1.0)
        assert figures["similarity_after"] > figures["similarity_before"]


def test_a_second_run_redoes_nothing_and_gives_the_same_bytes_elsewhere(exams, prepared, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in prepared.rglob("*") if p.is_file()}
    cases, problems = register_cohort(find_exams(exams), prepared, progress=False)
    assert not problems
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert cases == find_registered(prepared)
    register_cohort(find_exams(exams)[:1], tmp_path / "again", workers=1, progress=False)
    folder = prepared / "SYN-EXAM-001"
    for path in sorted(folder.iterdir()):
        twin = tmp_path / "again" / "SYN-EXAM-001" / path.name
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_labels_go_to_the_original_grid_of_a_modality(exams, prepared, tmp_path):
    import SimpleITK as sitk  # noqa: N813 - its customary name

    folder = prepared / "SYN-EXAM-001"
    source = exams / "SYN-EXAM-001"
    for modality in MODALITIES:
        out = tmp_path / f"{modality}.nii.gz"
        labels_on_modality(file(folder, "seg"), folder, modality, out)
        written, original = sitk.ReadImage(str(out)), sitk.ReadImage(str(file(source, modality)))
        assert written.GetSize() == original.GetSize()
        np.testing.assert_allclose(written.GetOrigin(), original.GetOrigin(), atol=1e-3)
        truth = source / f"true_{modality}_to_t2.tfm"
        back = sitk.ReadTransform(str(truth)).GetInverse() if truth.is_file() else sitk.Transform()
        expected = sitk.Resample(
            sitk.ReadImage(str(file(source, "seg"))), original, back, sitk.sitkNearestNeighbor
        )
        a, b = (sitk.GetArrayFromImage(image) > 0 for image in (written, expected))
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.93
    with pytest.raises(InputError, match="holds no swi"):
        labels_on_modality(file(folder, "seg"), folder, "swi", tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match="give a label map on T2's grid"):
        labels_on_modality(file(source, "t1ce"), folder, "t1", tmp_path / "x.nii.gz")


def test_a_label_drawn_on_another_modality_comes_along(exams, prepared, exam):
    """Drawn on FLAIR it lands, through the registration, where the one drawn on T2 lies."""
    on_flair = exam / "P1_seg_flair.nii.gz"
    labels_on_modality(file(exam, "seg"), prepared / "SYN-EXAM-001", "flair", on_flair)
    for kind in ("seg", "t1", "t1ce"):
        (exam / f"SYN-EXAM-001_{kind}.nii.gz").unlink()
    (case,), problems = register_cohort(
        find_exams(exam.parent), exam.parent.parent / "out", missing="zero", progress=False
    )
    assert not problems
    a = np.asanyarray(nib.load(case.label).dataobj) > 0
    b = np.asanyarray(nib.load(file(exams / "SYN-EXAM-001", "seg")).dataobj) > 0
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8


def test_the_rest_finishes_and_the_command_tells(exams, tmp_path, capsys):
    root = tmp_path / "exams"
    for name in ("A", "B"):
        (root / name).mkdir(parents=True)
        for kind in ("t1", "t2"):
            shutil.copy(file(exams / "SYN-EXAM-002", kind), root / name)
    edit(file(root / "A", "t1"), lambda a, m: (a[:, :, 0], m))
    words = ["--data.root", str(root), "--out", str(tmp_path / "out"), "--data.missing", "zero"]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "t1 is a 2-D image" in printed
    assert "1 of 2 patients registered" in printed
    assert is_registered(tmp_path / "out")
    assert [case.case_id for case in find_registered(tmp_path / "out")] == ["B"]
    assert not list((tmp_path / "out").glob(".[!l]*"))  # nothing half done is left
    shutil.rmtree(root / "A")
    assert main(words) == 0
    assert "nothing was to be done" in capsys.readouterr().out


def test_a_flagged_patient_waits_for_a_person(exam):
    """A sequence far away in scanner coordinates is found, but a person must look."""

    def far(array, affine):
        affine[0, 3] += 300
        return array, affine

    edit(file(exam, "t1ce"), far)
    file(exam, "t1").unlink()
    file(exam, "flair").unlink()
    problem = attempt(exam, missing="zero")
    out = exam.parent.parent / "out"
    assert "t1ce moved by" in problem
    assert str(out / "P1" / "sheet.png") in problem
    assert "go on with --data.accept_flagged true" in problem
    with pytest.raises(InputError, match="P1: registration flagged"):
        find_registered(out)
    words = ["--data.root", str(exam.parent), "--out", str(out), "--data.missing", "zero"]
    assert main([*words, "--data.accept_flagged", "true"]) == 0
    assert [case.case_id for case in find_registered(out)] == ["P1"]


def test_unknown_label_values_are_kept_and_mean_the_whole_tumour_alone(exam):
    """A 4 may be enhancing tumour, so such a label does not tell three regions apart."""
    edit(file(exam, "seg"), lambda a, m: (np.where(a == 3, 4, a).astype(np.uint8), m))
    out = exam.parent.parent / "out"
    (case,), _ = register_cohort(find_exams(exam.parent), out, progress=False)
    assert case.convention.regions == ("WT",)
    assert 4 in np.unique(nib.load(case.label).dataobj)
    assert any("the label holds 4, so its values are read as whole" in n for n in case.notices)
    assert find_registered(out)[0].convention == case.convention
    with pytest.raises(InputError, match=r"give data\.labels a meaning"):
        refuse_whole_tumours([case], "three regions are asked for", "take one")
    report = json.loads((out / "P1" / "registration.json").read_text())
    report["convention"] = CANONICAL.to_dict()  # as an earlier version wrote
    (out / "P1" / "registration.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match="wrote unknown label values as oedema"):
        find_registered(out)
    (case,), _ = register_cohort(find_exams(exam.parent), out, progress=False)
    assert case.convention.regions == ("WT",)


def test_masks_of_an_exam_that_was_registered_before_mean_what_is_asked_for_now(exam):
    file(exam, "seg").unlink()
    out = exam.parent.parent / "out"
    for labels, name in ((None, "unstated"), ("brats2021", "brats2021")):
        (case,), _ = register_cohort(find_exams(exam.parent, labels), out, progress=False)
        assert case.convention.name == name
        assert find_registered(out)[0].convention == case.convention


def nan(array, affine):
    array = array.astype(np.float32)
    array[5, 5, 5] = np.nan
    return array, affine


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a, m: (a[..., 9], m), "t1 is a 2-D image"),
        (lambda a, m: (a[..., 9:10], m), "t1 has a single slice"),
        (lambda a, m: (np.stack([a, a], -1), m), "t1 is 4-D"),
        (nan, "t1 holds NaN or Inf in 1 voxels"),
        (lambda a, m: (a * 0 + 3, m), r"t1 is empty \(all voxels 3\)"),
        (lambda a, m: (a[..., :9], m), "t1 shows only .* misses the brain"),
    ],
)
def test_a_bad_sequence_is_one_sentence(exam, change, sentence):
    edit(file(exam, "t1"), change)
    assert re.search(sentence, attempt(exam))


def test_a_damaged_or_missing_file_is_one_sentence(exam):
    flair = file(exam, "flair")
    whole = flair.read_bytes()
    flair.write_bytes(whole[:-4000])
    assert "truncated or damaged gzip" in attempt(exam)
    flair.write_bytes(b"no image" * 99)
    assert "not a readable NIfTI image" in attempt(exam)
    flair.unlink()
    assert "flair is missing: add the file, or go on without" in attempt(exam)
    flair.write_bytes(whole)
    file(exam, "t2").unlink()
    assert "T2 is missing" in attempt(exam)


def test_a_missing_modality_may_be_left_out(exam):
    file(exam, "t1ce").unlink()
    file(exam, "flair").unlink()
    (case,), problems = register_cohort(
        find_exams(exam.parent), exam.parent.parent / "out", missing="zero", progress=False
    )
    assert not problems
    assert set(case.images) == {"t1", "t2"}
    assert any("t1ce and flair missing" in notice for notice in case.notices)


def test_a_label_that_fits_no_grid_or_two_is_refused(exam):
    edit(file(exam, "seg"), lambda a, m: (a[:-2], m))
    assert "no modality shares the grid of the label" in attempt(exam)
    shutil.copy(file(exam, "t2"), file(exam, "t1"))
    shutil.copy(file(exam, "t2"), file(exam, "seg"))
    assert "t1 and t2 share the grid of the label" in attempt(exam)


def test_a_label_on_the_grid_of_all_four_images_is_taken(exam):
    for kind in ("t1", "t1ce", "flair", "seg"):
        shutil.copy(file(exam, "t2"), file(exam, kind))
    (case,) = find_exams(exam.parent)
    assert label_drawn_on(case) == "t2"
    assert not exam_problems(case, "error")


@pytest.mark.parametrize("copy", ["same", "floats in another order"])
def test_one_image_given_as_two_sequences_is_refused_before_registration(exam, copy, monkeypatch):
    monkeypatch.setattr("datamodules.registration.patient.align", lambda *_: pytest.fail("aligned"))
    shutil.copy(file(exam, "t1"), file(exam, "t1ce"))
    if copy != "same":
        image = nib.as_closest_canonical(nib.load(file(exam, "t1")))
        floats = np.asanyarray(image.dataobj).astype(np.float32)
        nib.save(nib.Nifti1Image(floats[::-1, :, ::-1], turned(image, floats)), file(exam, "t1ce"))
    assert "t1 and t1ce hold the same image: give each modality its own file" in attempt(exam)


def turned(image, array) -> np.ndarray:
    """The affine of the same voxels with the first and the last axis turned over."""
    back = np.diag([-1.0, 1.0, -1.0, 1.0])
    back[[0, 2], 3] = np.array(array.shape)[[0, 2]] - 1
    return image.affine @ back


def test_headers_are_read_by_content_and_files_may_vanish(exam, monkeypatch):
    from datamodules.registration.patient import exam_problems

    for kind in ("t1", "seg"):  # one plain under the name of the other, as some tools write
        file(exam, kind).write_bytes(gzip.decompress(file(exam, kind).read_bytes()))
    (found,) = find_exams(exam.parent)
    assert exam_problems(found, "error") == []
    monkeypatch.setattr("datamodules.registration.cohort.exam_problems", lambda *_: [])
    file(exam, "flair").unlink()
    cases, problems = register_cohort([found], exam.parent.parent / "out", progress=False)
    assert not cases
    assert "flair.nii.gz cannot be read (No such file or directory)" in problems["P1"]


def test_a_folder_of_somebody_else_is_not_overwritten(exam):
    strange = exam.parent.parent / "out" / "P1"
    strange.mkdir(parents=True)
    (strange / "precious.txt").write_text("mine")
    assert "was not written by lightning prepare" in attempt(exam)
    assert (strange / "precious.txt").read_text() == "mine"
