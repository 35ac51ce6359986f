"""Nothing that a header says about a person goes along into what is written."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from datamodules.cases.cache import prepare_cases
from datamodules.cases.case import PreparedCase
from datamodules.exams.sequence_names import sort_exams
from datamodules.layouts.case_files import MODALITIES
from datamodules.nifti.headers import (
    MARK,
    SYNTHETIC_TRAINING,
    blanked,
    image_like,
    is_synthetic,
    trained_on_synthetic,
    without_text,
)
from datamodules.patients.find import find_cases
from datamodules.registration.folder import labels_on_modality, registered_case, sort_registered
from datamodules.registration.patient import register_patient
from tests.datamodules.tiny_patients import LPS, make_volumes

NAME = b"Erika Mustermann"
FIELDS = {
    "descrip": NAME + b" 1961-02-03",
    "aux_file": NAME,
    "intent_name": NAME[:15],
    "db_name": NAME,
    "data_type": b"Mustermann",
}
TILTED = LPS @ np.array([[0.98, 0.199, 0, 1], [-0.199, 0.98, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])


def write_named(path, array, version=1, endian="<", affine=TILTED):
    """Write a NIfTI file that says whose it is wherever a header can."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = kind.header_class(endianness=endian)
    image = kind(array, affine, header)
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    for field, value in FIELDS.items():
        if field in image.header.template_dtype.names:
            image.header[field] = value
    image.header["intent_code"], image.header["intent_p1"] = 1001, 1961
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return image


def says_nothing(path):
    raw = path.read_bytes()
    whole = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    assert b"Musterm" not in whole[:2000]
    assert b"Musterm" not in raw[:200]  # nor the name of a temporary file in gzip's own header
    image = nib.load(path)
    assert not image.header.extensions
    assert not image.header["intent_code"]
    return image


@pytest.fixture
def named(tmp_path):
    """A patient of BraTS 2021 whose every file carries a name."""
    images, label = make_volumes(3)
    for modality, array in {**images, "seg": label}.items():
        name = f"BraTS2021_00003_{modality}.nii.gz"
        write_named(tmp_path / "data" / "BraTS2021_00003" / name, array)
    return find_cases(tmp_path / "data")


def test_masks_and_the_cache_say_nothing_and_keep_the_grid_to_the_last_bit(named, tmp_path):
    (case,) = prepare_cases(named, tmp_path / "cache", 1.0, progress=False)
    source = nib.load(case.files.images["t1"].path).header
    for name, values in (
        ("mask.nii.gz", np.zeros(case.native_shape, np.uint8)),
        ("mask.nii", np.zeros(case.native_shape, np.uint8)),
        ("probabilities.nii.gz", np.zeros((*case.native_shape, 3), np.float32)),
    ):
        case.save_native(values, tmp_path / "out" / name, values.dtype)
        written = says_nothing(tmp_path / "out" / name).header
        for field in ("sform_code", "qform_code", "quatern_b", "qoffset_x", "xyzt_units"):
            assert written[field] == source[field]
        for field in ("srow_x", "srow_y", "srow_z"):
            np.testing.assert_array_equal(written[field], source[field])
        np.testing.assert_array_equal(written["pixdim"][:4], source["pixdim"][:4])
    kept = "".join(path.read_text() for path in (tmp_path / "cache").rglob("case.json"))
    assert NAME.hex() not in kept
    assert not case.synthetic


def test_an_entry_of_an_earlier_version_is_read_and_its_text_is_not_passed_on(named, tmp_path):
    (case,) = prepare_cases(named, tmp_path / "cache", 1.0, progress=False)
    file = case.folder / "case.json"
    described = json.loads(file.read_text())
    raw = gzip.decompress(case.files.images["t1"].path.read_bytes())[:348]
    described["header"] = raw.hex()
    del described["synthetic"]
    file.write_text(json.dumps(described))
    old = PreparedCase(case.files, case.folder)
    assert not old.synthetic
    old.save_native(np.zeros(old.native_shape), tmp_path / "mask.nii.gz", np.uint8)
    says_nothing(tmp_path / "mask.nii.gz")
    text = b"SYNTHETIC Mustermann"
    described["header"] = raw.replace(FIELDS["descrip"], text.ljust(27, b"\0")).hex()
    file.write_text(json.dumps(described))
    old = PreparedCase(case.files, case.folder)
    assert old.synthetic
    old.save_native(np.zeros(old.native_shape), tmp_path / "mask.nii.gz", np.uint8)
    assert b"SYNTHETIC" in bytes(says_nothing(tmp_path / "mask.nii.gz").header["descrip"])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("name", ["t2.nii", "t2.nii.gz"])
def test_t2_is_copied_without_its_text(tmp_path, version, endian, name):
    array = np.random.default_rng(0).integers(0, 999, (5, 6, 7)).astype(np.int16)
    write_named(tmp_path / name, array, version, endian)
    (tmp_path / "copy.nii.gz").write_bytes(without_text(tmp_path / name))
    copy, source = says_nothing(tmp_path / "copy.nii.gz"), nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asanyarray(copy.dataobj), array)
    np.testing.assert_array_equal(copy.affine, source.affine)
    assert copy.get_data_dtype() == source.get_data_dtype()
    again = without_text(tmp_path / "copy.nii.gz")
    assert again == (tmp_path / "copy.nii.gz").read_bytes()  # nothing is left to be changed


def test_a_phantom_says_so_in_fixed_words(tmp_path):
    note = b"SYNTHETIC gliofuse phantom v7 seed 0 patient 3"
    header = nib.Nifti1Header()
    for text, kept in ((note, note), (note + b" of Erika", b"SYNTHETIC: simulated, no patient")):
        header["descrip"] = text
        found = nib.Nifti1Header(blanked(header.binaryblock))
        assert found["descrip"].tobytes().rstrip(b"\0") == kept
        assert is_synthetic(found.binaryblock)
    assert blanked(b"") == b""
    image = image_like(b"", np.eye(4), np.zeros((2, 2, 2), np.uint8), synthetic=False)
    assert not any(image.header["descrip"].tobytes())


def test_a_registered_exam_says_nothing(tmp_path):
    images, label = make_volumes(1, (40, 44, 30))
    folder = tmp_path / "exam" / "p1"
    for modality, array in {**images, "seg_t1": label}.items():
        write_named(folder / f"p1_{modality}.nii.gz", array, affine=TILTED @ np.diag([4, 4, 4, 1]))
    (exam,), _ = sort_exams(tmp_path / "exam", None)
    out = tmp_path / "out" / "p1"
    out.parent.mkdir()
    register_patient(exam, out, "error", 2)
    for file in out.glob("*.nii.gz"):
        says_nothing(file)
    for file in (*out.glob("*.json"), *out.glob("*.tfm"), *out.glob("*.png")):
        assert b"Musterm" not in file.read_bytes()
    report = json.loads((out / "registration.json").read_text())
    case = registered_case(out, report)
    assert set(case.images) == set(MODALITIES)
    (out / "notes.txt").write_text("mine")  # a folder in which the user works is kept
    register_patient(exam, out, "error", 2)
    (kept,) = (out.parent / ".replaced").iterdir()
    assert (kept / "notes.txt").read_text() == "mine"
    register_patient(exam, out, "error", 2)
    assert list((out.parent / ".replaced").iterdir()) == [kept]
    found, flagged = sort_registered(out.parent)
    assert [*(one.case_id for one in found), *flagged] == ["p1"]
    labels_on_modality(case.label, out, "flair", tmp_path / "on_flair.nii.gz")
    says_nothing(tmp_path / "on_flair.nii.gz")


def test_a_remark_takes_the_place_of_other_words_and_fits_beside_the_mark_of_a_phantom():
    zeros = np.zeros((2, 2, 2), np.uint8)
    texts = []
    for synthetic in (False, True):
        marks = {"synthetic": synthetic, "remark": SYNTHETIC_TRAINING}
        image = image_like(b"", np.eye(4), zeros, **marks)
        texts.append(image.header["descrip"].tobytes().rstrip(b"\0").decode())
        assert trained_on_synthetic(image.header.binaryblock)
        assert is_synthetic(image.header.binaryblock) is synthetic
    assert texts == [SYNTHETIC_TRAINING, f"{MARK.decode()}; {SYNTHETIC_TRAINING}"]
