"""What label values mean, stated to both data modules: masks, other values, phantoms."""

import json

import nibabel as nib
import numpy as np
import pytest

from datamodules import BraTSPatchDataModule, RegisteredSliceDataModule
from datamodules.layouts.case_files import MODALITIES
from errors import InputError
from tests.datamodules.tiny_patients import LPS, save


@pytest.fixture
def volumes(cohort, tmp_path):
    """`volumes(**changes)`: the 3D data module on the six tiny cases, set up to train."""

    def make(stage="fit", **changes):
        options = {"root": str(cohort), "patch_size": [16, 16, 16], "num_workers": 0}
        data = BraTSPatchDataModule(cache_dir=str(tmp_path / "cache"), **{**options, **changes})
        data.prepare_data()
        data.setup(stage)
        return data

    return make


def relabel(cohort, change):
    for path in sorted(cohort.rglob("*_seg.nii.gz")):
        label = np.asanyarray(nib.load(path).dataobj).copy()
        save(change(label).astype(np.uint8), path, LPS)


def test_stated_values_give_the_same_regions_as_the_layouts_own(cohort, volumes):
    expected = volumes().cases["BraTS2021_00001"].mask()
    before = volumes().fingerprint()
    relabel(cohort, lambda label: np.choose(label, [0, 2, 1, 0, 3]))
    with pytest.raises(InputError, match=r"they fit .*msd"):
        volumes()
    data = volumes(labels="msd")
    np.testing.assert_array_equal(data.cases["BraTS2021_00001"].mask(), expected)
    assert data.fingerprint() != before
    assert "labels" not in data.identity()  # the fingerprint has them, old identities stay


def test_masks_of_0_and_1_train_no_three_regions(cohort, tmp_path, volumes):
    relabel(cohort, lambda label: label > 0)
    for stage in ("fit", "test"):
        with pytest.raises(InputError, match="00000 and 5 more: the labels hold only 0 and 1") as e:
            volumes(stage)
        assert "\n" not in str(e.value)
    whole = tmp_path / "whole.yaml"
    whole.write_text("whole: 1\n")
    with pytest.raises(InputError, match=r"3D study .* three regions: use the 2D study"):
        volumes(labels=str(whole))
    slices = RegisteredSliceDataModule(
        root=str(cohort), labels=str(whole), slice_size=32, cache_dir=str(tmp_path / "cache")
    )
    slices.prepare_data()
    slices.setup("fit")
    case = slices.cases["BraTS2021_00001"]
    assert case.native_regions().sum() == (case.native_regions()[0]).sum() > 0
    assert case.mask().sum() > 0
    three = {"labels": str(whole), "regions": "WT,TC,ET", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(InputError, match=r"data\.regions is WT,TC,ET: set data\.regions to WT"):
        RegisteredSliceDataModule(root=str(cohort), slice_size=32, **three).prepare_data()


def test_cases_that_an_older_version_prepared_are_refused_alike(cohort, tmp_path, volumes):
    relabel(cohort, lambda label: label > 0)
    with pytest.raises(InputError, match="only 0 and 1"):
        volumes()
    for file in (tmp_path / "cache" / "cases").glob("*/case.json"):
        described = json.loads(file.read_text())
        del described["values"]
        file.write_text(json.dumps(described))
    with pytest.raises(InputError, match="only 0 and 1"):
        volumes()


def test_one_mask_of_the_whole_tumour_is_a_notice(cohort, volumes):
    path = next(cohort.rglob("*00003_seg.nii.gz"))
    save((np.asanyarray(nib.load(path).dataobj) > 0).astype(np.uint8), path, LPS)
    assert any("00003: the label holds only 1 (necrosis)" in n for n in volumes().notices)


def test_the_values_of_predicted_masks_are_said(cohort, volumes):
    images = {m: str(next(cohort.rglob(f"*00001_{m}.nii.gz"))) for m in MODALITIES}
    data = volumes("predict", root=None, images=images, labels="msd")
    assert data.notices[-1] == "masks are written as msd (necrosis 2, oedema 1, enhancing 3)"
    assert volumes("predict").notices[-1].startswith("masks are written as brats2021 (")


@pytest.mark.parametrize("module", [BraTSPatchDataModule, RegisteredSliceDataModule])
def test_phantoms_are_told_no_meaning(module, tmp_path):
    data = module(labels="msd", cache_dir=str(tmp_path), phantom_patients=1)
    with pytest.raises(InputError, match=r"give data\.root, or leave data\.labels unset"):
        data.prepare_data()
