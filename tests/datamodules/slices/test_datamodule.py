import json

import nibabel as nib
import numpy as np
import pytest
import torch

from datamodules import RegisteredSliceDataModule
from datamodules.layouts.case_files import MODALITIES
from datamodules.loading import GlobalOrderSampler
from datamodules.slices.dataset import SliceDataset
from datamodules.slices.slice_case import SliceCase
from errors import InputError
from tests.datamodules.deliveries import delivered
from tests.datamodules.tiny_patients import make_volumes, save


def batches(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return delivered(data, loader)


def same(one, other):
    return all(
        torch.equal(a["image"], b["image"])
        and torch.equal(a["mask"], b["mask"])
        and torch.equal(a["slice_index"], b["slice_index"])
        and (a["case_id"], a["slice_key"]) == (b["case_id"], b["slice_key"])
        for a, b in zip(one, other, strict=True)
    )


def test_training_batch_and_what_an_epoch_holds(module):
    data = module(batch_size=4, augmentation=False, empty_fraction=0.2)
    data.setup("fit")
    found = batches(data)
    places = data.training_slices()
    assert len(found) == -(-len(places) // 4)
    seen = set()
    for batch in found:
        assert batch["image"].shape == (4, 4, 32, 32)
        assert batch["mask"].shape == (4, 1, 32, 32)
        assert batch["image"].dtype == batch["mask"].dtype == torch.float32
        assert batch["slice_index"].dtype == torch.int64
        for n in range(4):
            case = data.cases[batch["case_id"][n]]
            index = int(batch["slice_index"][n])
            seen.add((case.case_id, index))
            assert torch.equal(batch["image"][n], case.padded_images(index, index + 1)[0].float())
            tumour = case.padded_labels(index, index + 1) != 0
            assert torch.equal(batch["mask"][n], tumour.float())
            assert batch["slice_key"][n] == case.slice_key(index)
    assert seen == set(places)
    empty = [index for case_id, index in places if not data.cases[case_id].tumour_area[index]]
    assert len(empty) / len(places) == pytest.approx(0.2, abs=0.02)


def test_a_patient_comes_whole_for_validation_and_test(module):
    data = module(selection="n_per_patient", slices_per_patient=3)
    data.setup("fit")
    for loader, ids in (
        (data.val_dataloader(), data.split.val),
        (data.test_dataloader(), data.split.test),
    ):
        found = delivered(data, loader)
        assert [batch["case_id"] for batch in found] == [[i] for i in ids]
        for batch in found:
            (case,) = batch["case"]
            assert isinstance(case, SliceCase)
            assert batch["image"].shape == (1, case.slices, 4, 32, 32)
            assert batch["mask"].shape == (1, case.slices, 1, 32, 32)
            assert batch["selected"].shape == (1, case.slices)
            assert batch["selected"][0].nonzero()[:, 0].tolist() == data.selected(case.case_id)
            assert int(batch["selected"].sum()) == 3
            assert len(set(batch["slice_key"][0])) == case.slices
            assert batch["whole"] == [True]
            assert batch["spacing"].tolist() == [[1.0, 1.0, 1.0]]


def test_randomness_is_a_function_of_seed_epoch_and_number(module):
    data = module()
    data.setup("fit")
    first = batches(data)
    assert same(first, batches(data))
    assert not same(first, batches(data, epoch=1))
    other = module(seed=1)
    other.setup("fit")
    assert not same(first, batches(other))
    workers = module(num_workers=2)
    workers.setup("fit")
    assert same(first, batches(workers))


def test_augmentation_moves_image_and_mask_together(module):
    data = module(batch_size=1)
    data.setup("fit")
    plain = module(batch_size=1, augmentation=False)
    plain.setup("fit")
    pairs = list(zip(batches(data), batches(plain), strict=True))
    changed = [not torch.equal(a["mask"], b["mask"]) for a, b in pairs if b["mask"].any()]
    assert sum(changed) > len(changed) / 3
    for augmented, whole in pairs:
        assert augmented["slice_key"] == whole["slice_key"]
        assert set(augmented["mask"].unique().tolist()) <= {0.0, 1.0}
        assert float(augmented["mask"].sum()) == pytest.approx(float(whole["mask"].sum()), abs=12)
        inside = (augmented["image"] != 0).any(1)
        assert not (augmented["mask"][:, 0].bool() & ~inside).any()
        border = torch.ones(32, 32, dtype=torch.bool)
        border[3:-3, 3:-3] = False
        assert not augmented["image"][0][:, border].any()


def test_two_ranks_of_batch_1_see_what_one_rank_of_batch_2_sees():
    slices = SliceDataset([], 6, 0, True)
    for epoch in (0, 3):
        ranks = [GlobalOrderSampler(slices, 2, rank) for rank in range(2)]
        one = GlobalOrderSampler(slices, 1, 0)
        for sampler in (*ranks, one):
            sampler.set_epoch(epoch)
        both = [number for step in zip(*ranks, strict=True) for number in step]
        assert both == list(one) == list(range(6 * epoch, 6 * epoch + 6))


def test_a_batch_that_devices_cannot_share_is_refused(module, monkeypatch):
    data = module(batch_size=3)
    data.setup("fit")
    monkeypatch.setattr(data, "ranks", lambda: (2, 0))
    with pytest.raises(InputError, match="shared by 2 devices"):
        data.train_dataloader()
    data.batch_size = 4
    assert len(batches(data)[0]["case_id"]) == 2


def test_the_report_counts_what_the_loaders_give(module):
    data = module(selection="all_tumour")
    data.setup("fit")
    (report,) = (notice for notice in data.notices if notice.startswith("training"))
    places = data.training_slices()
    tumour = sum(data.cases[i].tumour_area[s] > 0 for i, s in places)
    assert f"training 4 patients, {len(places)} slices ({tumour} with tumour" in report
    (batch,) = data.test_dataloader()
    chosen, every = int(batch["selected"].sum()), batch["selected"].numel()
    assert f"test 1 patient, {chosen} selected of {every} slices" in report
    data.setup("fit")
    assert data.notices.count(report) == 1
    tested = module(selection="all_tumour")
    tested.setup("test")
    assert any(notice == report.split("; ")[-1] for notice in tested.notices)


def test_identity_names_what_changes_results_and_no_place(module, tmp_path):
    data = module()
    assert json.loads(json.dumps(data.identity())) == data.identity()
    assert str(tmp_path) not in json.dumps(data.identity())
    assert data.identity() == module(num_workers=1).identity()
    assert data.identity()["patch_size"] == data.patch_size == [32, 32]
    for change in (
        {"slice_size": 48},
        {"selection": "largest"},
        {"empty_fraction": 0.0},
        {"augmentation": False},
        {"split_by": "slice"},
        {"missing": "zero"},
        {"n_folds": 3, "fold": 1},
    ):
        assert data.identity() != module(**change).identity(), change
    assert set(data.case_hashes()) == set(data.split.patients)


def test_a_missing_modality_is_refused_or_filled_and_recorded(cohort, module):
    for number, modality in ((1, "t1"), (4, "flair")):
        (cohort / f"BraTS2021_0000{number}/BraTS2021_0000{number}_{modality}.nii.gz").unlink()
    with pytest.raises(InputError, match="2 of 6") as error:
        module()
    assert "t1 is missing" in str(error.value)
    assert "flair is missing" in str(error.value)
    data = module(missing="zero")
    data.setup("fit")
    assert data.identity()["filled"] == {"BraTS2021_00001": ["t1"], "BraTS2021_00004": ["flair"]}
    assert sum("filled with the background" in notice for notice in data.notices) == 2
    assert not data.cases["BraTS2021_00001"].padded_images()[:, MODALITIES.index("t1")].any()


def test_brains_that_do_not_fit_are_listed_all_at_once(module):
    with pytest.raises(InputError, match="6 of 6") as error:
        module(slice_size=16)
    assert str(error.value).count("set data.slice_size to 32") == 6


def test_one_patient_given_as_files_on_one_grid(tmp_path, write_case):
    folder = write_case(tmp_path / "data", 3)
    images = {m: str(folder / f"BraTS2021_00003_{m}.nii.gz") for m in MODALITIES}
    data = RegisteredSliceDataModule(
        images=images, slice_size=32, cache_dir=str(tmp_path / "c"), num_workers=0
    )
    data.prepare_data()
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["case_id"] == ["BraTS2021_00003"]
    assert "label" not in batch
    assert "selected" not in batch
    with pytest.raises(InputError, match="only be predicted"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice_size": 250}, "multiple of 4, at least 16"),
        ({"slice_size": 12}, "multiple of 4, at least 16"),
        ({"slice_size": 0}, "multiple of 4, at least 16"),
        ({"batch_size": 0}, "batch_size"),
        ({"empty_fraction": 1.0}, "empty_fraction"),
        ({"slices_per_patient": 0}, "slices_per_patient"),
    ],
)
def test_settings_without_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RegisteredSliceDataModule(**options)


def test_folders_without_sense_are_refused(module, tmp_path, write_case):
    with pytest.raises(InputError, match="not a folder"):
        module(root=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="7 for 6 patients"):
        module(n_folds=7).setup("fit")
    for number in range(3):
        write_case(tmp_path / "unlabelled", number, labelled=False)
    data = module(root=str(tmp_path / "unlabelled"))
    assert data.identity()["split"] is None
    with pytest.raises(InputError, match="has a label"):
        data.setup("fit")


def test_labels_without_any_tumour_cannot_be_trained_on(module, tmp_path, write_case):
    for number in range(3):
        folder = write_case(tmp_path / "healthy", number)
        empty = np.zeros_like(make_volumes(number)[1])
        save(empty, folder / f"BraTS2021_0000{number}_seg.nii.gz")
    with pytest.raises(InputError, match="none of the 3 labels"):
        module(root=str(tmp_path / "healthy")).setup("fit")


def test_a_part_without_any_tumour_cannot_be_scored(module, cohort):
    data = module(root=str(cohort))
    data.setup("fit")
    (case_id,) = data.split.val
    files = data.cases[case_id].files
    save(np.zeros_like(make_volumes(0)[1]), files.label)
    with pytest.raises(InputError, match="1 patient in validation holds a tumour"):
        module(root=str(cohort)).setup("fit")


def test_a_whole_head_is_refused_or_taken_inside_the_head(tmp_path, write_case, module):
    rng = np.random.default_rng(0)
    for number in range(3):
        folder = write_case(tmp_path / "heads", number)
        for modality, array in make_volumes(number)[0].items():
            air = rng.integers(1, 20, array.shape).astype(np.int16)
            save(array + air, folder / f"BraTS2021_0000{number}_{modality}.nii.gz")
    with pytest.raises(InputError, match="whole head"):
        module(root=str(tmp_path / "heads"))
    data = module(root=str(tmp_path / "heads"), whole_head=True)
    plain = module()
    for number in range(3):
        case_id = f"BraTS2021_0000{number}"
        head, brain = data.cases[case_id], plain.cases[case_id]
        assert head.brain_ml == pytest.approx(brain.brain_ml, rel=0.15)
        assert any("whole head" in notice for notice in head.notices)
        image = np.asarray(head.image, np.float32)
        inside = (image != 0).any(0)
        np.testing.assert_allclose([m[inside].mean() for m in image], 0, atol=0.05)


def test_real_cases_give_slices_of_the_papers_size(tmp_path, real_data):
    data = RegisteredSliceDataModule(
        root=str(real_data / "brats2021"), cache_dir=str(tmp_path), num_workers=0
    )
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 4, 256, 256)
    assert torch.isfinite(batch["image"]).all()
    (batch,) = delivered(data, data.test_dataloader())
    (case,) = batch["case"]
    native = case.to_native(batch["mask"][0]) > 0.5
    np.testing.assert_array_equal(native, case.native_regions())
    assert case.native_slices(native[0]).shape == (case.slices, 240, 240)


def test_three_regions_are_those_of_the_3d_study(module, cohort, tmp_path):
    data = module(regions="WT,TC,ET", augmentation=False)
    data.setup("fit")
    one = module(augmentation=False)
    one.setup("fit")
    assert data.identity() == one.identity()  # the network's settings have the regions
    assert data.training_slices() == one.training_slices()
    batch, alone = batches(data)[0], batches(one)[0]
    assert batch["mask"].shape[1] == 3
    assert torch.equal(batch["mask"][:, :1], alone["mask"])
    assert batch["mask"].sum((0, 2, 3)).diff().lt(0).all()  # ET in TC in WT
    case = next(iter(data.cases.values()))
    assert case.mask().shape[0] == case.native_regions().shape[0] == 3
    assert np.array_equal(case.native_regions(), case.convention.to_regions(case._native_label()))
    predicted = module(regions="WT,TC,ET")
    predicted.setup("predict")
    assert predicted.notices[-1].startswith("masks are written as brats2021 (")


def test_labels_that_contradict_three_regions_are_refused(module, cohort):
    for path in cohort.rglob("*_seg.nii.gz"):
        image = nib.load(path)
        masks = (np.asanyarray(image.dataobj) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(masks, image.affine), path)
    module().setup("fit")
    with pytest.raises(InputError, match="hold only 0 and 1"):
        module(regions="WT,TC,ET").setup("fit")


def test_few_patients_are_trained_on_in_as_many_steps_as_many(module):
    few = module(train_patients=2, slices_per_epoch=30, batch_size=4, augmentation=False)
    few.setup("fit")
    many = module(slices_per_epoch=30, batch_size=4)
    many.setup("fit")
    assert set(few.split.train) < set(many.split.train)
    assert len(few.train_dataloader()) == len(many.train_dataloader()) == 8
    seen = [key for batch in batches(few) for key in batch["slice_key"]]
    counts = [seen.count(key) for key in set(seen)]
    assert len(counts) == min(len(few.training_slices()), 32)
    assert max(counts) - min(counts) <= 1  # every slice once before any comes again
    assert few.identity()["slices_per_epoch"] == 30
    assert "slices_per_epoch" not in module().identity()
    with pytest.raises(InputError, match=r"data\.slices_per_epoch is 0"):
        module(slices_per_epoch=0)
