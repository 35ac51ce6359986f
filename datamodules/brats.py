"""Patients of a BraTS-like cohort as batches of 3-D patches and volumes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch.utils.data import DataLoader

from datamodules.cache import prepare_cohort
from datamodules.cohort import CohortDataModule
from datamodules.intensity import BACKGROUND, NORMALISATION_VERSION
from datamodules.layouts import CaseFiles, find_cases, single_case
from datamodules.left_out import left_out
from datamodules.loading import PatchDataset, VolumeDataset
from datamodules.prepared import PreparedCase
from errors import InputError


class BraTSPatchDataModule(CohortDataModule[PreparedCase]):
    """Glioma patients with T1, T1ce, T2 and FLAIR: random patches to train, volumes to score.

    Without `root` it is the digital glioma phantom, generated once into the cache.

    Args:
        root: Folder of the cohort, in the layout of any BraTS year, MSD Task01, nnU-Net
            raw or BIDS.
        layout: Name of the layout or a YAML file that describes it; unset: by the file names.
        images: The four files of one unlabelled patient by modality, for `predict` only.
        spacing: Voxel edge in mm that the cohort is resampled to.
        patch_size: Patch in voxels, for training and for the sliding window.
        batch_size: Patches a step over all devices together, so that their number changes nothing.
        patches_per_epoch: Patches an epoch over all devices; unset: one for each training case.
        augmentation: Rotation, flips and intensity changes of training patches.
        n_folds: Cross-validation: the fold is the test set, validation is cut from the rest.
        fold: Which fold of `n_folds` or of `split_file`, from 0.
        protocol: `default` splits 70/10/20 by patient; `paper` 8:2, selected on the tested ones.
        split_file: JSON with train, val, test, or nnU-Net's splits_final.json.
        split_seed: Seed of the split.
        seed: Seed of patches and augmentation.
        num_workers: Loader processes; unset: by the cores.
        cache_dir: Where prepared cases are kept; unset: GLIOFUSE_CACHE or ~/.cache/gliofuse.
        phantom_patients: Size of the phantom cohort.
        phantom_seed: Seed of the phantom cohort.
        phantom_spacing: Voxel edge in mm that phantoms are generated at.
        allow_seen_patients: Score patients that the checkpoint was trained or selected on.
        drop: Modalities blanked in every patient, as [t1, t2]: filled with the background, which is
            0, the mean of the brain.
        patient: Regular expression whose one group finds the patient in a case's path below `root`,
            so that its exams stay together; unset: by the names of folders and files.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: str | None = None,
        images: dict[str, str] | None = None,
        spacing: float = 1.0,
        patch_size: list[int] = [128, 128, 128],  # noqa: B006 - never changed, shown in --help
        batch_size: int = 1,
        patches_per_epoch: int | None = None,
        augmentation: bool = True,
        n_folds: int | None = None,
        fold: int = 0,
        protocol: Literal["default", "paper"] = "default",
        split_file: str | None = None,
        split_seed: int = 0,
        seed: int = 0,
        num_workers: int | None = None,
        cache_dir: str | None = None,
        phantom_patients: int = 40,
        phantom_seed: int = 0,
        phantom_spacing: float = 2.0,
        allow_seen_patients: bool = False,
        drop: list[str] | None = None,
        patient: str | None = None,
    ) -> None:
        super().__init__(
            root=root,
            images=images,
            batch_size=batch_size,
            n_folds=n_folds,
            fold=fold,
            protocol=protocol,
            split_file=split_file,
            split_seed=split_seed,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
            phantom_patients=phantom_patients,
            phantom_seed=phantom_seed,
            phantom_spacing=phantom_spacing,
            allow_seen_patients=allow_seen_patients,
            drop=drop,
            patient=patient,
        )
        _check_sizes(patch_size, patches_per_epoch)
        self.layout = layout
        self.spacing = spacing
        self.patch_size = list(patch_size)
        self.patches_per_epoch = patches_per_epoch
        self.augmentation = augmentation

    def identity(self) -> dict[str, Any]:
        """Every setting that changes results; not paths, workers or cache."""
        return {
            "spacing": self.spacing,
            "patch_size": list(self.patch_size),
            "batch_size": self.batch_size,
            "patches_per_epoch": self.patches_per_epoch,
            "augmentation": self.augmentation,
            "seed": self.seed,
            "split": self._parts(),
            "protocol": self.protocol,
            "normalisation": NORMALISATION_VERSION,
            "background": BACKGROUND,
            **self._dropping(),
        }

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Random patches in one global order, whatever the number of ranks and workers."""
        share = self._share()
        wanted = self.patches_per_epoch or len(self.split.train)
        patches = PatchDataset(
            [self.cases[case_id] for case_id in self.split.train],
            self.patch_size,
            -(-wanted // self.batch_size) * self.batch_size,
            self.seed,
            self.augmentation,
        )
        return self._loader(patches, self._global_order(patches), share)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole validation volumes."""
        return self._volumes(self.split.val)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole test volumes."""
        return self._volumes(self.split.test)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole volumes of every case, or of the phantoms kept for testing."""
        return self._volumes(self.split.test)

    def _volumes(self, case_ids: Sequence[str]) -> DataLoader[dict[str, Any]]:
        return self._one_by_one(VolumeDataset([self.cases[case_id] for case_id in case_ids]))

    def _prepare(self, progress: bool) -> tuple[list[PreparedCase], dict[str, str]]:
        cases = self._find()
        for notice in left_out(self.root, cases) if self.root else ():
            self._note(notice)
        return prepare_cohort(cases, self.cache_dir, self.spacing, progress=progress)

    def _find(self) -> list[CaseFiles]:
        if self.images is not None:
            return [single_case(self.images, self.layout)]
        if self.root is not None:
            return find_cases(self.root, self.layout)
        # Phantoms of another seed are other patients, so their names say the seed.
        return [
            replace(case, case_id=name, patient_id=name, place="")
            for case in find_cases(self._phantoms("brats2021"), "brats2021")
            for name in [f"phantom-{self.phantom_seed}-{case.case_id[-4:]}"]
        ]


def _check_sizes(patch_size: Sequence[int], patches_per_epoch: int | None) -> None:
    if len(patch_size) != 3 or any(n < 1 for n in patch_size):
        raise InputError(
            f"data.patch_size is {list(patch_size)}: expected three positive numbers of voxels, "
            "such as [128, 128, 128]."
        )
    if patches_per_epoch is not None and patches_per_epoch < 1:
        raise InputError(f"data.patches_per_epoch is {patches_per_epoch}: expected 1 or more.")
