"""Patients of a BraTS-like cohort as batches of 3-D patches and volumes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from datamodules.base import CohortDataModule
from datamodules.cases.cache import prepare_cases, prepare_cohort
from datamodules.cases.case import PreparedCase
from datamodules.cases.intensity import BACKGROUND, Normalisation, identified
from datamodules.cases.settings import Preparation
from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.label_files import refuse_labels_of_phantoms
from datamodules.layouts.label_values import refuse_whole_tumours
from datamodules.patients.find import find_cases, single_case
from datamodules.patients.left_out import left_out
from datamodules.splits import Split
from datamodules.training.mixture import add_phantoms
from datamodules.training.modality_dropout import check_probability, recorded
from datamodules.training.randomisation import check_kind
from datamodules.volumes.augmentation import VolumeKind
from datamodules.volumes.dataset import PatchDataset, VolumeDataset
from errors import InputError


class BraTSPatchDataModule(CohortDataModule[PreparedCase]):
    """Glioma patients with T1, T1ce, T2 and FLAIR: random patches to train, volumes to score.

    Without `root` it is the digital glioma phantom, generated once into the cache. With `root`,
    `phantoms` mixes it into the training.

    Args:
        root: Folder of the cohort, in the layout of any BraTS year, MSD Task01, nnU-Net
            raw or BIDS.
        layout: Name of the layout or a YAML file that describes it; unset: by the file names.
        labels: What label values mean, whatever the names: a BraTS layout, msd or a YAML file;
            unset: as the layout says. Masks of `predict` are written with these values.
        spacing: Voxel edge in mm that the cohort is resampled to.
        normalisation: z-scores inside the brain: clipped, without the outliers of each modality;
            or for networks trained elsewhere without clipping: brain, nnU-Net's, or nonzero,
            MONAI's over each modality's own non-zero voxels.
        patch_size: Patch in voxels, for training and for the sliding window.
        batch_size: Patches a step over all devices together, so that their number changes nothing.
        patches_per_epoch: Patches an epoch over all devices; unset: one for each training case.
        augmentation: Rotation, flips and intensity changes of training patches; `randomised` adds
            bias fields, drift, gamma, blobs, blur, sharpening and noise; `nnunet` is that of
            nnU-Net instead.
        modality_dropout: Probability of each modality to be blanked in a training patch, never all.
        healthy_share: Share of training patches centred on tumour-free brain, from 0 to 1; the
            others centre on WT, TC and ET, equally often. Unset: a quarter.
        phantom_patients: Size of the phantom cohort.
        phantoms: With `root`, the share of training patches that come from the phantom cohort, 0 to
            1; validation and test are of the patients below `root` alone. 1 trains on phantoms
            alone and validates on patients. Unset: no phantoms.
        cohort: Arguments of `CohortDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: str | None = None,
        labels: str | None = None,
        spacing: float = 1.0,
        normalisation: Normalisation = "clipped",
        patch_size: list[int] = [128, 128, 128],  # noqa: B006 - never changed, shown in --help
        batch_size: int = 1,
        patches_per_epoch: int | None = None,
        augmentation: VolumeKind = True,
        modality_dropout: float = 0.0,
        healthy_share: float | None = None,
        phantom_patients: int = 40,
        phantoms: float | None = None,
        **cohort: Any,
    ) -> None:
        _check_share(phantoms, cohort.get("train_patients"))
        super().__init__(
            root=root,
            batch_size=batch_size,
            phantom_patients=phantom_patients,
            **cohort,
        )
        _check_sizes(patch_size, patches_per_epoch)
        check_kind(augmentation, ("randomised", "nnunet"))
        check_probability(modality_dropout)
        if healthy_share is not None and not 0 <= healthy_share <= 1:
            raise InputError(
                f"data.healthy_share is {healthy_share}: expected a share from 0 to 1."
            )
        self.phantoms = phantoms or None
        if self.phantoms == 1:
            self.train_patients = 0
        self._phantom_cases: dict[str, PreparedCase] | None = None
        self.layout = layout
        self.labels = labels
        self.spacing = spacing
        self.normalisation: Normalisation = normalisation
        self._patch_size = list(patch_size)
        self.patches_per_epoch = patches_per_epoch
        self.augmentation = augmentation
        self.modality_dropout = modality_dropout
        self.healthy_share = healthy_share

    fewest_patients = 0  # with phantoms alone, see `_check_share`

    @property
    def patch_size(self) -> list[int]:
        """Voxels of a patch along every axis."""
        return self._patch_size

    def largest_volume(self) -> int:
        """Voxels of the largest patient."""
        return max(math.prod(case.shape) for case in self.cases.values())

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
            "normalisation": identified(self.normalisation),
            "background": BACKGROUND,
            **self._dropping(),
            **recorded(self.modality_dropout),
            **({} if self.healthy_share is None else {"healthy_share": self.healthy_share}),
            **self._mixture(),
        }

    def prepare_data(self) -> None:
        """Check and prepare every case, and the phantoms that are trained on beside them.

        Raises:
            InputError: As the base class; or phantoms are to be mixed with no patients, or with
                patients who are the same phantoms.
        """
        if self._fitting():
            self._check_mixed()
        super().prepare_data()
        if self._fitting() and self.phantoms:
            super()._decide_split("fit")  # refused before phantoms are generated
            self._mixed(progress=True)

    def setup(self, stage: str) -> None:
        """Open the cache and decide the split.

        Args:
            stage: fit, validate, test or predict.
        """
        if stage == "fit":
            self._check_mixed()
            self._mixed()
        super().setup(stage)

    def split_cases(self) -> dict[str, PreparedCase]:
        """Every case by its id, and in a training the phantoms that are mixed in."""
        return {**self.cases, **(self._phantom_cases or {})}

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Random patches in one global order, the same for any number of ranks and workers."""
        share, patches = self._share(), self._patches()
        return self._loader(patches, self._global_order(patches), share)

    def prevalence(self) -> list[float]:
        """Share of WT, TC and ET in the voxels of the training patches, each between 0 and 1."""
        return self._patches().prevalence()

    def _patches(self) -> PatchDataset:
        wanted = self.patches_per_epoch or len(self.split.train)
        return PatchDataset(
            [self.cases[case_id] for case_id in self.split.train if case_id in self.cases],
            self.patch_size,
            -(-wanted // self.batch_size) * self.batch_size,
            self.seed,
            self.augmentation,
            modality_dropout=self.modality_dropout,
            healthy_share=self.healthy_share,
            phantoms=list(self._mixed().values()),
            share=self.phantoms or 0.0,
        )

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
        return prepare_cohort(cases, self.cache_dir, self._preparation(), progress=progress)

    def _preparation(self) -> Preparation:
        return Preparation(self.spacing, normalisation=self.normalisation)

    def _report(self, stage: str) -> None:
        """Note the label values of predicted masks, and the phantoms that are mixed in."""
        if stage == "fit" and self.phantoms:
            real = len(self.split.train) - len(self.split.phantoms)
            others = f", {real} cases below data.root the others" if real else ""
            self._note(
                f"{len(self._mixed())} phantoms (SYNTHETIC) give {self.phantoms:.0%} of the "
                f"training patches{others}; validation and test have no phantoms"
            )
        if stage == "predict":
            self._note_meanings()

    def _find(self) -> list[CaseFiles]:
        cases = self._found()
        refuse_whole_tumours(
            cases, "the 3D study trains on, scores and writes three regions", "use the 2D study"
        )
        return cases

    def _found(self) -> list[CaseFiles]:
        if self.images is not None:
            return [single_case(self.images, self.layout, self.labels)]
        if self.root is not None:
            return find_cases(self.root, self.layout, self.labels)
        refuse_labels_of_phantoms(self.labels)
        return self._phantom_files()

    def _phantom_files(self) -> list[CaseFiles]:
        return [
            replace(case, case_id=name, patient_id=name, place="")
            for case in find_cases(self._phantoms("brats2021"), "brats2021")
            for name in [self._phantom_name(case.case_id[-4:])]
        ]

    def _phantom_name(self, digits: str) -> str:
        # Phantoms of another seed are other patients.
        return f"phantom-{self.phantom_seed}-{digits}"

    def _check_mixed(self) -> None:
        if self.phantoms and self.root is None:
            raise InputError(
                f"data.phantoms is {self.phantoms:g}, a share beside patients, but there are none: "
                "give their folder as data.root, or leave data.phantoms unset to train on phantoms "
                "alone."
            )

    def _mixture(self) -> dict[str, Any]:
        """Entry of `phantoms` in the identity; empty where it is unused, so that old ids stay."""
        if not self.phantoms:
            return {}
        from datamodules.phantom.simulation import PHANTOM_VERSION

        source = {
            "share": self.phantoms,
            "version": PHANTOM_VERSION,
            "seed": self.phantom_seed,
            "patients": self.phantom_patients,
            "spacing": self.phantom_spacing,
        }
        return {"phantoms": source}

    def _mixed(self, *, progress: bool = False) -> dict[str, PreparedCase]:
        """The phantoms that are trained on beside the patients, by id; empty without.

        Raises:
            InputError: A patient below `root` is one of them.
        """
        if self._phantom_cases is None and self.phantoms:
            files = self._phantom_files()
            found = prepare_cases(files, self.cache_dir, self._preparation(), progress=progress)
            contents = {case.content_hash for case in found} | {case.case_id for case in found}
            same = [c for c in self.cases.values() if {c.case_id, c.content_hash} & contents]
            if same:
                raise InputError(
                    f"data.phantoms would train on {same[0].case_id}, which is a phantom below "
                    f"data.root {self.root}: give another data.phantom_seed, or leave "
                    "data.phantoms unset."
                )
            for case in found:
                case.dropped = tuple(self.drop)
            self._phantom_cases = {case.case_id: case for case in found}
        return self._phantom_cases or {}

    def _decide_split(self, stage: str) -> Split:
        split = super()._decide_split(stage)
        stored = self.stored_split is not None and stage in ("validate", "test")
        if stored or not self.phantoms:
            return split
        # Named before they are generated: a test needs no more of them.
        numbers = range(1, self.phantom_patients + 1)
        names = [self._phantom_name(f"{number:04d}") for number in numbers]
        known = {name: case.content_hash for name, case in (self._phantom_cases or {}).items()}
        return add_phantoms(split, names, known)


def _check_share(share: float | None, train_patients: int | None) -> None:
    if share is not None and not 0 <= share <= 1:
        raise InputError(f"data.phantoms is {share:g}: expected a share from 0 to 1.")
    if share == 1 and train_patients:
        raise InputError(
            f"data.phantoms is 1, which trains on phantoms alone, beside data.train_patients "
            f"{train_patients}: leave data.train_patients unset, or give a smaller share."
        )
    if train_patients == 0 and share != 1:
        raise InputError(
            "data.train_patients is 0, so there is no patient to train on: expected 1 or more, or "
            "data.phantoms 1 beside it to train on phantoms alone."
        )


def _check_sizes(patch_size: Sequence[int], patches_per_epoch: int | None) -> None:
    if len(patch_size) != 3 or any(n < 1 for n in patch_size):
        raise InputError(
            f"data.patch_size is {list(patch_size)}: expected three positive numbers of voxels, "
            "such as [128, 128, 128]."
        )
    if patches_per_epoch is not None and patches_per_epoch < 1:
        raise InputError(f"data.patches_per_epoch is {patches_per_epoch}: expected 1 or more.")
