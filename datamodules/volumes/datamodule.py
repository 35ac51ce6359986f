"""Patients of a BraTS-like cohort as batches of 3-D patches and volumes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from datamodules.base import CohortDataModule
from datamodules.cases.cache import prepare_cohort
from datamodules.cases.case import PreparedCase
from datamodules.cases.intensity import BACKGROUND, NORMALISATION_VERSION
from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.label_files import refuse_labels_of_phantoms
from datamodules.layouts.label_values import misread, remarks
from datamodules.modality_dropout import check_probability, recorded
from datamodules.patients.find import find_cases, single_case
from datamodules.patients.left_out import left_out
from datamodules.randomisation import Kind, check_kind
from datamodules.volumes.dataset import PatchDataset, VolumeDataset
from errors import InputError


class BraTSPatchDataModule(CohortDataModule[PreparedCase]):
    """Glioma patients with T1, T1ce, T2 and FLAIR: random patches to train, volumes to score.

    Without `root` it is the digital glioma phantom, generated once into the cache.

    Args:
        root: Folder of the cohort, in the layout of any BraTS year, MSD Task01, nnU-Net
            raw or BIDS.
        layout: Name of the layout or a YAML file that describes it; unset: by the file names.
        labels: What label values mean, whatever the names: a BraTS layout, msd or a YAML file;
            unset: as the layout says. Masks of `predict` are written with these values.
        spacing: Voxel edge in mm that the cohort is resampled to.
        patch_size: Patch in voxels, for training and for the sliding window.
        batch_size: Patches a step over all devices together, so that their number changes nothing.
        patches_per_epoch: Patches an epoch over all devices; unset: one for each training case.
        augmentation: Rotation, flips and intensity changes of training patches; `randomised` adds
            bias fields, drift, gamma, blobs, blur, sharpening and noise.
        modality_dropout: Probability of each modality to be blanked in a training patch, never all.
        phantom_patients: Size of the phantom cohort.
        cohort: Arguments of `CohortDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: str | None = None,
        labels: str | None = None,
        spacing: float = 1.0,
        patch_size: list[int] = [128, 128, 128],  # noqa: B006 - never changed, shown in --help
        batch_size: int = 1,
        patches_per_epoch: int | None = None,
        augmentation: Kind = True,
        modality_dropout: float = 0.0,
        phantom_patients: int = 40,
        **cohort: Any,
    ) -> None:
        super().__init__(
            root=root,
            batch_size=batch_size,
            phantom_patients=phantom_patients,
            **cohort,
        )
        _check_sizes(patch_size, patches_per_epoch)
        check_kind(augmentation)
        check_probability(modality_dropout)
        self.layout = layout
        self.labels = labels
        self.spacing = spacing
        self._patch_size = list(patch_size)
        self.patches_per_epoch = patches_per_epoch
        self.augmentation = augmentation
        self.modality_dropout = modality_dropout

    @property
    def patch_size(self) -> list[int]:
        """Voxels of a patch along every axis."""
        return self._patch_size

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
            **recorded(self.modality_dropout),
        }

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Random patches in one global order, the same for any number of ranks and workers."""
        share = self._share()
        wanted = self.patches_per_epoch or len(self.split.train)
        patches = PatchDataset(
            [self.cases[case_id] for case_id in self.split.train],
            self.patch_size,
            -(-wanted // self.batch_size) * self.batch_size,
            self.seed,
            self.augmentation,
            self.modality_dropout,
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

    def _labelled(self) -> list[str]:
        labelled = super()._labelled()
        labels = {i: (self.cases[i].convention, self.cases[i].label_values) for i in labelled}
        for case_id, sentence in remarks(labels).items():
            self._note(f"{case_id}: {sentence}")
        problems = misread(labels)
        if problems:
            first, sentence = next(iter(problems.items()))
            others = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise InputError(f"{first}{others}: {sentence}.")
        return labelled

    def _report(self, stage: str) -> None:
        """Note the label values of predicted masks."""
        if stage == "predict":
            meanings = sorted({case.convention.describe() for case in self.cases.values()})
            self._note(f"masks are written as {' or '.join(meanings)}")

    def _find(self) -> list[CaseFiles]:
        cases = self._found()
        whole = next((case for case in cases if len(case.convention.regions) == 1), None)
        if whole is not None:
            raise InputError(
                f"the labels of {whole.case_id} are read as {whole.convention.describe()}, but the "
                "3D study trains on, scores and writes three regions: use the 2D study, or give "
                "data.labels a meaning with necrosis, oedema and enhancing."
            )
        return cases

    def _found(self) -> list[CaseFiles]:
        if self.images is not None:
            return [single_case(self.images, self.layout, self.labels)]
        if self.root is not None:
            return find_cases(self.root, self.layout, self.labels)
        refuse_labels_of_phantoms(self.labels)
        # Phantoms of another seed are other patients, so their names hold the seed.
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
