"""Headers of every kind: the place of the voxels, and the messages on files that are no image."""

import gzip
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from datamodules.nifti.position import AFFINE_TOLERANCE
from datamodules.nifti.volume import read_header, read_volume
from errors import InputError
from tests.datamodules.tiny_patients import LPS, make_volumes, save

IMAGE = make_volumes(1)[0]["t1"]


def with_header(path, **fields):
    """An image with fields of its header set, whatever nibabel thinks of them."""
    save(IMAGE, path)
    raw = gzip.decompress(path.read_bytes())
    header = nib.Nifti1Header(raw[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.binaryblock + raw[348:]))
    return path


@pytest.mark.parametrize(
    ("fields", "affine", "notice"),
    [
        ({}, LPS, ""),
        ({"srow_x": 0, "srow_y": 0, "srow_z": 0, "qform_code": 1}, LPS, "its sform describes no"),
        ({"srow_x": np.nan, "qform_code": 1}, LPS, "the qform is taken"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [0, -1, -1, -1, 0, 0, 0, 0]}, None, ""),
        ({"qform_code": 1, "qoffset_x": 40.0}, LPS, "sform and qform put its corners 30.0 mm"),
        ({"sform_code": 0, "qform_code": 0}, None, "states no orientation"),
        ({"quatern_b": 2, "sform_code": 0, "qform_code": 1}, None, "states no orientation"),
        ({"scl_slope": np.nan}, LPS, ""),
        ({"xyzt_units": 10}, LPS, ""),
        ({"xyzt_units": 3}, LPS, ""),  # micrometres of voxels as large as millimetres are none
        ({"xyzt_units": 3, "srow_x": [-1000, 0, 0, 10000], "srow_y": [0, -1000, 0, 20000],
          "srow_z": [0, 0, 1000, -5000]}, LPS, "in micrometres"),
    ],
)  # fmt: skip
def test_the_position_is_what_the_header_means(tmp_path, fields, affine, notice):
    path = with_header(tmp_path / "a.nii.gz", **fields)
    volume, header = read_volume(path), read_header(path)
    if affine is not None:
        np.testing.assert_allclose(volume.affine, affine, atol=AFFINE_TOLERANCE)
    assert notice in "; ".join(volume.notices)
    assert bool(notice) == bool(volume.notices)
    np.testing.assert_array_equal(header.affine, volume.affine)
    assert header.shape == volume.array.shape
    # Another reader of what is written with this header puts it at the same place.
    again = nib.Nifti1Header(volume.header, check=False).get_best_affine()
    np.testing.assert_allclose(again, volume.affine, atol=1e-3)


@pytest.mark.parametrize("pixdim", [0, np.nan])
def test_without_any_voxel_size_there_is_no_grid(tmp_path, pixdim):
    fields = {"sform_code": 0, "qform_code": 1, "pixdim": [1, pixdim, 1, 1, 0, 0, 0, 0]}
    with pytest.raises(InputError, match="states no voxel size"):
        read_volume(with_header(tmp_path / "a.nii.gz", **fields))


@pytest.mark.parametrize("name", ["plain.nii.gz", "packed.nii", "Upper.NII.GZ", "odd.Nii"])
def test_the_content_says_whether_a_file_is_compressed(tmp_path, name):
    save(IMAGE, tmp_path / "a.nii.gz")
    raw = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / name).write_bytes(gzip.decompress(raw) if name == "plain.nii.gz" else raw)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, IMAGE)
    assert read_header(tmp_path / name).shape == IMAGE.shape


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u4", "i8", "u8", "f4", ">f8"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_numbers_of_every_type_and_axes_of_length_one(tmp_path, dtype, kind):
    array = (IMAGE // 8).astype(dtype)[..., None, None]
    endian = ">" if dtype[0] == ">" else "<"
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(array.dtype)
    nib.save(kind(array, LPS, header), tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, IMAGE // 8)


def rgb(path):
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, LPS), path)


def complex_numbers(path):
    nib.save(nib.Nifti1Image(IMAGE.astype(np.complex64), LPS), path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
        (lambda p: p.symlink_to(p.with_name("nowhere")), "cannot be read (No such file"),
        (lambda p: p.mkdir(), "cannot be read (Is a directory)"),
        (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda p: p.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 400), "dcm2niix -z y"),
        (rgb, "holds colours: expected a grey value a voxel"),
        (complex_numbers, "holds complex numbers: expected a grey value a voxel"),
        (lambda p: with_header(p, datatype=1536), "voxel type 1536 is unknown"),
        (lambda p: with_header(p, dim=[7] + [32767] * 7), "its header says shape (32767,"),
    ],
)
def test_what_is_no_image_of_grey_values_is_one_sentence(tmp_path, write, words):
    path = tmp_path / "a b\u00e9.nii.gz"
    write(path)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.hdr", "a.img"])
def test_the_command_that_converts_another_format_works(tmp_path, name):
    import SimpleITK as sitk  # noqa: N813 - its customary name

    sitk.WriteImage(sitk.GetImageFromArray(IMAGE.T), str(tmp_path / name))
    with pytest.raises(InputError, match="convert it with python") as caught:
        read_volume(tmp_path / name)
    command = str(caught.value).split("python -c ")[1].rstrip(".").strip("'")
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, IMAGE)
