import json

import numpy as np
import pytest
import torch

from datamodules import BraTSPatchDataModule
from datamodules.cases.case import PreparedCase
from datamodules.cases.patch_centres import draw_centre
from datamodules.layouts.case_files import MODALITIES
from datamodules.loading import GlobalOrderSampler
from datamodules.volumes.dataset import PatchDataset
from errors import InputError
from tests.datamodules.deliveries import delivered
from tests.datamodules.tiny_patients import SHAPE


@pytest.fixture
def module(cohort, tmp_path):
    """`module(**changes)`: a data module on the six tiny cases."""

    def make(**changes):
        options = {"root": str(cohort), "patch_size": [16, 16, 16], "num_workers": 0}
        data = BraTSPatchDataModule(cache_dir=str(tmp_path / "cache"), **{**options, **changes})
        data.prepare_data()
        return data

    return make


def batches(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return delivered(data, loader)


def same(one, other):
    return all(
        torch.equal(a["image"], b["image"])
        and torch.equal(a["mask"], b["mask"])
        and a["case_id"] == b["case_id"]
        for a, b in zip(one, other, strict=True)
    )


def test_training_batch(module):
    data = module(batch_size=2, patches_per_epoch=6)
    data.setup("fit")
    found = batches(data)
    assert len(found) == 3
    for batch in found:
        assert batch["image"].shape == (2, 4, 16, 16, 16)
        assert batch["mask"].shape == (2, 3, 16, 16, 16)
        assert batch["image"].dtype == batch["mask"].dtype == torch.float32
        assert batch["spacing"].tolist() == [[1.0] * 3] * 2
        assert set(batch["case_id"]) <= set(data.split.train)
        wt, tc, et = batch["mask"].unbind(1)
        assert (tc <= wt).all()
        assert (et <= tc).all()


def test_whole_volumes_for_validation_and_test(module):
    data = module()
    data.setup("fit")
    for loader, ids in (
        (data.val_dataloader(), data.split.val),
        (data.test_dataloader(), data.split.test),
    ):
        found = delivered(data, loader)
        assert [batch["case_id"] for batch in found] == [[i] for i in ids]
        for batch in found:
            (case,) = batch["case"]
            assert isinstance(case, PreparedCase)
            assert batch["image"].shape == (1, 4, *case.shape)
            np.testing.assert_array_equal(batch["mask"][0], case.mask())


def test_randomness_is_a_function_of_seed_epoch_and_number(module):
    data = module(patches_per_epoch=6)
    data.setup("fit")
    first = batches(data)
    assert same(first, batches(data))
    assert not same(first, batches(data, epoch=1))
    other = module(patches_per_epoch=6, seed=1)
    other.setup("fit")
    assert not same(first, batches(other))
    workers = module(patches_per_epoch=6, num_workers=2)
    workers.setup("fit")
    assert same(first, batches(workers))


def test_two_ranks_of_batch_1_see_what_one_rank_of_batch_2_sees():
    patches = PatchDataset([], [8, 8, 8], 6, 0, True)
    for epoch in (0, 3):
        ranks = [GlobalOrderSampler(patches, 2, rank) for rank in range(2)]
        one = GlobalOrderSampler(patches, 1, 0)
        for sampler in (*ranks, one):
            sampler.set_epoch(epoch)
        both = [number for step in zip(*ranks, strict=True) for number in step]
        assert both == list(one) == list(range(6 * epoch, 6 * epoch + 6))


def test_every_case_comes_once_an_epoch_by_default(module):
    data = module()
    data.setup("fit")
    ids = [i for batch in batches(data) for i in batch["case_id"]]
    assert sorted(ids) == data.split.train


def test_fingerprint_and_identity_follow_content_not_place(module, tmp_path):
    data = module()
    again = module(num_workers=1)
    assert data.fingerprint() == again.fingerprint()
    assert data.identity() == again.identity()
    assert json.loads(json.dumps(data.identity())) == data.identity()
    assert str(tmp_path) not in json.dumps(data.identity())
    assert data.identity() != module(augmentation=False).identity()
    assert data.identity() != module(n_folds=3, fold=1).identity()
    assert set(data.case_hashes()) == set(data.split.patients)
    assert data.conventions()["brats2021"]["enhancing"] == 4


def test_bad_cases_stop_before_training_all_at_once(cohort, module):
    for number, modality in ((1, "t1"), (4, "t2")):
        (cohort / f"BraTS2021_0000{number}/BraTS2021_0000{number}_{modality}.nii.gz").unlink()
    with pytest.raises(InputError, match="2 of 6") as error:
        module()
    assert "t1 is missing" in str(error.value)
    assert "t2 is missing" in str(error.value)


def test_prediction_needs_no_label_and_goes_on_past_a_bad_case(cohort, tmp_path, write_case):
    write_case(cohort, 7, labelled=False)
    (cohort / "BraTS2021_00001/BraTS2021_00001_t1.nii.gz").unlink()
    data = BraTSPatchDataModule(root=str(cohort), cache_dir=str(tmp_path / "c"), num_workers=0)
    data.setup("predict")
    found = list(data.predict_dataloader())
    assert len(found) == 6
    assert "label" not in next(b for b in found if b["case_id"] == ["BraTS2021_00007"])
    assert list(data.failures) == ["BraTS2021_00001"]


def test_unlabelled_cases_are_left_out_of_training_with_a_notice(cohort, module, write_case):
    write_case(cohort, 7, labelled=False)
    data = module()
    data.setup("fit")
    split = data.split
    assert "BraTS2021_00007" not in split.train + split.val + split.test
    assert any("BraTS2021_00007" in notice for notice in data.notices)


def test_a_cohort_without_any_label_cannot_be_trained_on(tmp_path, write_case):
    for number in range(3):
        write_case(tmp_path / "data", number, labelled=False)
    data = BraTSPatchDataModule(root=str(tmp_path / "data"), cache_dir=str(tmp_path / "c"))
    assert data.identity()["split"] is None
    with pytest.raises(InputError, match="BraTS2021_00000"):
        data.setup("fit")


def test_one_patient_given_as_four_files(tmp_path, write_case):
    folder = write_case(tmp_path / "data", 3)
    images = {m: str(folder / f"BraTS2021_00003_{m}.nii.gz") for m in MODALITIES}
    data = BraTSPatchDataModule(images=images, cache_dir=str(tmp_path / "c"), num_workers=0)
    data.prepare_data()
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["case_id"] == ["BraTS2021_00003"]
    assert batch["case"][0].native_shape == SHAPE
    with pytest.raises(InputError, match="only be predicted"):
        data.setup("fit")


def test_a_stored_split_decides_what_is_tested(module, tmp_path, write_case):
    stored = module(split_seed=5)
    stored.setup("fit")
    data = module()
    data.stored_split = stored.split.to_dict()
    data.setup("test")
    assert data.split.test == stored.split.test
    for number in range(20, 24):
        write_case(tmp_path / "other", number)
    external = module(root=str(tmp_path / "other"))
    external.stored_split = stored.split.to_dict()
    external.setup("test")
    assert external.split.protocol == "external"
    assert len(external.split.test) == 4
    write_case(tmp_path / "other", 25, seed=int(stored.split.train[0][-5:]))
    mixed = module(root=str(tmp_path / "other"))
    mixed.stored_split = stored.split.to_dict()
    with pytest.raises(InputError, match="BraTS2021_00025"):
        mixed.setup("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": [64, 64]}, "patch_size"),
        ({"patch_size": [64, 64, 0]}, "patch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"patches_per_epoch": 0}, "patches_per_epoch"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"seed": -1}, "data.seed is -1"),
    ],
)
def test_settings_without_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        BraTSPatchDataModule(**options)


def test_without_a_root_the_phantom_is_generated_once(tmp_path, monkeypatch):
    from datamodules.phantom import simulation

    made = []
    real = simulation.generate_cohort
    monkeypatch.setattr(
        simulation, "generate_cohort", lambda *a, **k: made.append(a) or real(*a, **k)
    )
    options = {"phantom_patients": 3, "phantom_spacing": 5.0, "spacing": 5.0, "num_workers": 0}
    for _ in range(2):
        data = BraTSPatchDataModule(cache_dir=str(tmp_path), **options)
        data.prepare_data()
    assert len(made) == 1
    data.setup("predict")
    assert len(data.split.test) == 1
    assert data.split.test[0].startswith("phantom-0-")


def test_real_cases_give_patches_of_the_papers_size(tmp_path, real_data):
    data = BraTSPatchDataModule(
        root=str(real_data / "brats2021"), cache_dir=str(tmp_path), num_workers=0
    )
    data.prepare_data()
    data.setup("fit")
    patches = batches(data)
    assert len(patches) == len(data.split.train)
    for batch in patches:
        assert batch["image"].shape == (1, 4, 128, 128, 128)
        assert torch.isfinite(batch["image"]).all()
        assert batch["mask"][:, 0].any()


def test_the_share_of_healthy_centres_is_kept_and_unset_it_changes_nothing(module):
    data = module(patches_per_epoch=64, augmentation=False, patch_size=[1, 1, 1])
    data.setup("fit")
    plain = batches(data)
    assert "healthy_share" not in data.identity()
    samples = data.cases[data.split.train[0]].samples
    known = [draw_centre(samples, np.random.default_rng(seed)) for seed in range(200)]
    before = [  # the drawing of earlier versions
        tuple(map(int, samples[rng.integers(4), rng.integers(samples.shape[1])]))
        for rng in map(np.random.default_rng, range(200))
    ]
    assert known == before
    for share in (0.0, 0.5, 1.0):
        small = {"patches_per_epoch": 400, "augmentation": False, "patch_size": [1, 1, 1]}
        other = module(healthy_share=share, batch_size=100, **small)
        other.setup("fit")
        centres = torch.cat([batch["mask"].flatten(1) for batch in batches(other)])
        healthy = float((centres[:, 0] == 0).float().mean())
        assert healthy == pytest.approx(share, abs=0.08)
        assert other.identity()["healthy_share"] == share
        assert torch.allclose(
            torch.tensor(other.prevalence()), centres.mean(dim=0), atol=1 / len(centres)
        )
    assert same(plain, batches(data))
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"healthy_share is .*expected a share from 0 to 1"):
            BraTSPatchDataModule(healthy_share=wrong)


@pytest.mark.parametrize("size", [16, 40])  # 40 reaches beyond the volume
def test_prevalence_is_the_share_of_voxels_in_the_patches_of_the_first_epoch(module, size):
    data = module(patches_per_epoch=6, augmentation=False, patch_size=[size] * 3)
    data.setup("fit")
    masks = torch.cat([batch["mask"] for batch in batches(data)])
    counted = masks.sum(dim=(0, 2, 3, 4), dtype=torch.float64)
    expected = (counted + 1) / (masks[:, 0].numel() + 2)
    assert data.prevalence() == pytest.approx(expected.tolist())
    augmented = module(patches_per_epoch=6, patch_size=[size] * 3)
    augmented.setup("fit")
    assert augmented.prevalence() == data.prevalence()
