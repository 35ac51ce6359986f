"""Batches between loader processes and device: types, region masks, number of processes."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision

import files
from datamodules import BraTSPatchDataModule, RegisteredSliceDataModule
from datamodules import loading as processes
from datamodules.batches import BYTES_A_VOXEL, on_device, region_masks
from datamodules.layouts.conventions import CANONICAL, REGIONS
from datamodules.loading import count_processes
from errors import InputError
from tests.datamodules.deliveries import delivered

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
KINDS = [BraTSPatchDataModule, RegisteredSliceDataModule]


@pytest.fixture
def module(cohort, tmp_path):
    """`module(kind, **changes)`: a data module on the six tiny cases, set up to be trained on."""

    def make(kind=BraTSPatchDataModule, **changes):
        size = {"slice_size": 32} if kind is RegisteredSliceDataModule else {"patch_size": [16] * 3}
        data = kind(root=str(cohort), cache_dir=str(tmp_path / "c"), **size, **changes)
        data.prepare_data()
        data.setup("fit")
        return data

    return make


@pytest.fixture
def machine(monkeypatch):
    """`machine(cores, free)`: a machine with so many cores and bytes of shared memory."""

    def make(cores, free=1 << 40):
        monkeypatch.setattr(processes, "cores_each", lambda devices: max(1, cores // devices))
        found = SimpleNamespace(free=free)
        monkeypatch.setattr(processes, "shutil", SimpleNamespace(disk_usage=lambda _: found))

    return make


def trainer(devices=1, world=1, device="cpu", precision=None):
    """What a data module asks a trainer for."""
    return SimpleNamespace(
        num_devices=devices,
        world_size=world,
        global_rank=0,
        state=SimpleNamespace(fn="fit"),
        strategy=SimpleNamespace(root_device=torch.device(device)),
        fit_loop=SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0))),
        precision_plugin=precision,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augmentation", [True, False, "randomised"])
def test_nine_bytes_a_voxel_cross_and_the_device_makes_float_and_regions(
    kind, augmentation, module
):
    data = module(kind, augmentation=augmentation, num_workers=0)
    (crossing, *_), (arrived, *_) = (list(data.train_dataloader()) for _ in range(2))
    size = sum(crossing[name].nbytes for name in ("image", "label"))
    assert size == BYTES_A_VOXEL * crossing["label"].numel() == 9 * crossing["label"].numel()
    assert "mask" not in crossing
    arrived = data.on_after_batch_transfer(arrived, 0)
    assert arrived["image"].dtype == arrived["mask"].dtype == torch.float32
    assert torch.equal(arrived["image"], crossing["image"].float())
    for label, mask in zip(crossing["label"], arrived["mask"], strict=True):
        expected = CANONICAL.to_regions(label.numpy())[: len(data.regions)]
        np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_patients_cross_the_same_way_and_lose_nothing(kind, module):
    data = module(kind, num_workers=0)
    for batch in delivered(data, data.val_dataloader()):
        (case,) = batch["case"]
        back = (lambda one: one) if kind is BraTSPatchDataModule else case.from_slices
        np.testing.assert_array_equal(back(batch["image"][0]), np.asarray(case.image, np.float32))
        np.testing.assert_array_equal(back(batch["mask"][0]), case.mask())


def test_regions_lie_before_the_axes_of_space():
    label = torch.arange(4, dtype=torch.uint8).view(1, 2, 2)
    whole = region_masks(label, REGIONS)
    assert whole.shape == (3, 1, 2, 2)
    assert whole.flatten(1).tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    sliced = region_masks(label[None], REGIONS[:1], axes=2)  # a patient's slices
    assert sliced.shape == (1, 1, 1, 2, 2)
    unlabelled = on_device({"image": torch.zeros(1, 4, 2, 2).half(), "case": "x"}, REGIONS, 3)
    assert set(unlabelled) == {"image", "case"}


def test_a_batch_arrives_in_the_precision_of_the_trainer(module):
    data = module(num_workers=0)
    (batch,) = [data.train_dataloader().collate_fn([data.train_dataloader().dataset[0]])]
    for precision, expected in (
        (MixedPrecision("bf16-mixed", "cpu"), torch.float32),
        (HalfPrecision("bf16-true"), torch.bfloat16),
        (HalfPrecision("16-true"), torch.float16),
    ):
        data.trainer = trainer(precision=precision)
        arrived = data.on_after_batch_transfer(precision.convert_input(batch), 0)
        assert arrived["image"].dtype == arrived["mask"].dtype == expected
        data.trainer = None


def test_processes_share_the_cores_of_their_machine_not_of_all(module, machine):
    data = module(patches_per_epoch=800, batch_size=8)
    machine(64)
    for devices, world, expected in ((1, 1, 62), (4, 4, 14), (4, 8, 14), (8, 8, 6)):
        data.trainer = trainer(devices, world)
        assert data.train_dataloader().num_workers == expected
    data.num_workers = 3
    data._processes.clear()
    assert data.train_dataloader().num_workers == 3
    for few in (1, 2):
        machine(few)
        assert count_processes(None, 1, 1)[0] == 0


def test_there_are_no_more_processes_than_batches_unless_typed(module, machine):
    data = module(patches_per_epoch=6, batch_size=2)
    machine(64)
    assert data.train_dataloader().num_workers == 3
    assert data.val_dataloader().num_workers == len(data.split.val)
    data = module(patches_per_epoch=6, batch_size=2, num_workers=5)
    assert data.train_dataloader().num_workers == 5


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_pages_are_pinned_where_the_trainer_copies_to_a_gpu(module, device):
    data = module(num_workers=0)
    assert not data.train_dataloader().pin_memory
    data.trainer = trainer(device=device)
    assert data.train_dataloader().pin_memory == (device == "cuda")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [1, 2])
def test_too_little_shared_memory_is_refused_with_a_number_that_works(
    kind, devices, module, machine
):
    data = module(kind, batch_size=2, num_workers=6)
    patches, volume = 2 * math.prod(data.patch_size), data.largest_volume()
    # of a node: its batch, and a volume for every device, two of each prefetched by a process
    each = 2 * (patches + devices * volume) * 9
    machine(64, free=6 * each - 1)
    with pytest.raises(InputError, match=r"^data\.num_workers is 6, but /dev/shm has") as error:
        data.loader_processes(devices, devices)
    typed = re.search(r"--data\.num_workers (\d+)", str(error.value))
    data = module(kind, batch_size=2, num_workers=int(typed[1]))
    assert data.loader_processes(devices, devices) == 5
    assert not any("/dev/shm" in notice for notice in data.notices)
    machine(64, free=6 * each)
    assert module(kind, batch_size=2, num_workers=6).loader_processes(devices, devices) == 6


def test_too_little_shared_memory_takes_fewer_processes_where_none_were_typed(module, machine):
    machine(64, free=1000)
    data = module()
    assert data.loader_processes(1, 1) == 0
    (notice,) = (one for one in data.notices if "/dev/shm" in one)
    assert "62 loader processes need: 0 are used" in notice
    assert "--shm-size" in notice
    assert data.train_dataloader().num_workers == 0
    assert data.notices.count(notice) == 1


def test_without_shared_memory_as_a_folder_there_is_no_limit(machine, monkeypatch, tmp_path):
    machine(64, free=0)
    monkeypatch.setattr(processes, "SHARED_MEMORY", tmp_path / "none")  # macOS
    assert count_processes(7, 1, 1 << 30) == (7, "")
    assert files.cores_each(1) >= 1
