"""Patients of a BraTS-like cohort as batches of 3-D patches and volumes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from datamodules.cache import default_cache, describe, prepare_cohort
from datamodules.integrity import combine
from datamodules.intensity import BACKGROUND, NORMALISATION_VERSION
from datamodules.layouts import CaseFiles, find_cases, single_case
from datamodules.loading import GlobalOrderSampler, PatchDataset, VolumeDataset, collate
from datamodules.prepared import PreparedCase
from datamodules.splits import Split, evaluation_split, make_split, read_aliases
from errors import InputError


class BraTSPatchDataModule(LightningDataModule):
    """Glioma patients with T1, T1ce, T2 and FLAIR: random patches to train, volumes to score.

    Without `root` it is the digital glioma phantom, generated once into the cache.

    Args:
        root: Folder of the cohort, in the layout of any BraTS year, MSD Task01 or nnU-Net raw.
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
    ) -> None:
        super().__init__()
        _check_sizes(patch_size, batch_size, patches_per_epoch)
        self.root = root
        self.layout = layout
        self.images = images
        self.spacing = spacing
        self.patch_size = list(patch_size)
        self.batch_size = batch_size
        self.patches_per_epoch = patches_per_epoch
        self.augmentation = augmentation
        self.n_folds = n_folds
        self.fold = fold
        self.protocol = protocol
        self.split_file = split_file
        self.split_seed = split_seed
        self.seed = seed
        self.num_workers = num_workers
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()
        self.phantom_patients = phantom_patients
        self.phantom_seed = phantom_seed
        self.phantom_spacing = phantom_spacing
        self.allow_seen_patients = allow_seen_patients
        self.stored_split: dict[str, Any] | None = None
        self.failures: dict[str, str] = {}
        self.notices: list[str] = []
        self._cases: dict[str, PreparedCase] | None = None
        self._split: Split | None = None

    def prepare_data(self) -> None:
        """Check and prepare every case; safe to call in any number of processes at once.

        Raises:
            InputError: Bad cases, all at once. With images to predict only when none is left.
        """
        self._load(progress=True)
        if not self._predicting():
            self._refuse_bad()

    def setup(self, stage: str) -> None:
        """Open the cache and decide the split.

        Args:
            stage: fit, validate, test or predict.
        """
        cases = self._load(progress=False)
        if stage != "predict":
            self._refuse_bad()
            if self.images is not None:
                raise InputError("data.images is one unlabelled patient: it can only be predicted.")
            self._split = self._decide_split(stage)
        elif self.root is None and self.images is None:
            # The phantoms exist to train on; only those kept for testing say anything.
            self._split = self._decide_split("test")
        else:
            ids = sorted(cases)
            self._split = Split([], [], ids, "predict", "every case", **self._identities(ids))
        for notice in self.notices:
            rank_zero_info(notice)

    @property
    def split(self) -> Split:
        """The split in force; complete after `setup`."""
        if self._split is None:
            self._split = self._decide_split("fit")
        return self._split

    @property
    def cases(self) -> dict[str, PreparedCase]:
        """Every usable case by its id."""
        return self._load(progress=False)

    def case_hashes(self) -> dict[str, str]:
        """Content hash of every case."""
        return {case_id: case.content_hash for case_id, case in self.cases.items()}

    def fingerprint(self) -> str:
        """Digest of the whole cohort: names, images, labels and what the labels mean."""
        return combine(
            f"{c.case_id}|{c.patient_id}|{c.content_hash}|{c.label_hash}|{c.convention}\n"
            for _, c in sorted(self.cases.items())
        )

    def conventions(self) -> dict[str, dict[str, Any]]:
        """Meaning of the label values by the name of the convention, in plain types."""
        return {c.convention.name: c.convention.to_dict() for c in self.cases.values()}

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
        }

    def _parts(self) -> dict[str, list[str]] | None:
        """Cases of each part; None for a cohort that can be predicted or tested, not trained on."""
        try:
            split = self.split
        except InputError:  # `setup` says why where it matters
            return None
        return {"train": split.train, "val": split.val, "test": split.test}

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Random patches in one global order, whatever the number of ranks and workers."""
        world, rank = self._ranks()
        share, left = divmod(self.batch_size, world)
        if left:
            raise InputError(
                f"data.batch_size is {self.batch_size} and cannot be shared by {world} devices: "
                f"set it to a multiple of {world}."
            )
        wanted = self.patches_per_epoch or len(self.split.train)
        patches = PatchDataset(
            [self.cases[case_id] for case_id in self.split.train],
            self.patch_size,
            -(-wanted // self.batch_size) * self.batch_size,
            self.seed,
            self.augmentation,
        )
        sampler = GlobalOrderSampler(patches, world, rank)
        return self._loader(patches, sampler, share)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole validation volumes."""
        return self._volumes(self.split.val)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole test volumes."""
        return self._volumes(self.split.test)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole volumes of every case, or of the phantoms kept for testing."""
        return self._volumes(self.split.test)

    def _load(self, progress: bool) -> dict[str, PreparedCase]:
        if self._cases is None:
            found = self._find()
            prepared, self.failures = prepare_cohort(
                found, self.cache_dir, self.spacing, progress=progress
            )
            if not prepared:
                raise InputError(describe(self.failures, len(found)))
            self._cases = {case.case_id: case for case in prepared}
            self.notices += [f"{c.case_id}: {note}" for c in prepared for note in c.notices]
        return self._cases

    def _find(self) -> list[CaseFiles]:
        if self.images is not None:
            return [single_case(self.images, self.layout)]
        if self.root is not None:
            return find_cases(self.root, self.layout)
        # Phantoms of another seed are other patients, so their names say the seed.
        return [
            replace(case, case_id=name, patient_id=name)
            for case in find_cases(self._phantoms(), "brats2021")
            for name in [f"phantom-{self.phantom_seed}-{case.case_id[-4:]}"]
        ]

    def _phantoms(self) -> Path:
        """Folder of the phantom cohort, generated once, by one process."""
        from datamodules.phantom import PHANTOM_VERSION, generate_cohort

        name = (
            f"v{PHANTOM_VERSION}-{self.phantom_patients}x{self.phantom_spacing:g}mm"
            f"-seed{self.phantom_seed}"
        )
        folder = self.cache_dir / "phantoms" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = folder / ".complete"
        with FileLock(folder.parent / f"{name}.lock"):
            if not done.is_file():
                rank_zero_info(f"no data.root: generating {self.phantom_patients} phantoms, once")
                generate_cohort(
                    folder,
                    self.phantom_patients,
                    seed=self.phantom_seed,
                    layout="brats2021",
                    spacing=self.phantom_spacing,
                )
                done.touch()
        return folder

    def _predicting(self) -> bool:
        state = getattr(self.trainer, "state", None)
        return self.images is not None or getattr(state, "fn", None) == "predict"

    def _refuse_bad(self) -> None:
        if self.failures:
            raise InputError(describe(self.failures, len(self.failures) + len(self.cases)))

    def _decide_split(self, stage: str) -> Split:
        labelled = sorted(case_id for case_id, case in self.cases.items() if case.labelled)
        unlabelled = sorted(set(self.cases) - set(labelled))
        if not labelled:
            raise InputError(
                f"no case below data.root {self.root} has a label ({', '.join(unlabelled[:5])}): "
                "expected a label map for each, or use predict."
            )
        if unlabelled:
            self._note(f"left out, having no label: {', '.join(unlabelled)}")
        identities = self._identities(labelled)
        if self.stored_split is not None and stage in ("validate", "test"):
            root = Path(self.root) if self.root else None
            split, notices = evaluation_split(
                self.stored_split,
                identities["patients"],
                identities["hashes"],
                layouts=identities["layouts"],
                aliases=read_aliases(root) if root else None,
                stage="validate" if stage == "validate" else "test",
                allow_seen=self.allow_seen_patients,
            )
            for notice in notices:
                self._note(notice)
            return split
        made = make_split(
            identities["patients"],
            protocol=self.protocol,
            n_folds=self.n_folds,
            fold=self.fold,
            split_file=self.split_file,
            seed=self.split_seed,
        )
        return Split(made.train, made.val, made.test, made.protocol, made.source, **identities)

    def _identities(self, case_ids: Sequence[str]) -> dict[str, Any]:
        chosen = [self.cases[case_id] for case_id in case_ids]
        return {
            "patients": {case.case_id: case.patient_id for case in chosen},
            "hashes": {case.case_id: case.content_hash for case in chosen},
            "layouts": sorted({case.layout for case in chosen}),
        }

    def _note(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def _ranks(self) -> tuple[int, int]:
        """(world size, rank) of the trainer, or of one process without it."""
        if self.trainer is None:
            return 1, 0
        return int(self.trainer.world_size), int(self.trainer.global_rank)

    def _volumes(self, case_ids: Sequence[str]) -> DataLoader[dict[str, Any]]:
        volumes = VolumeDataset([self.cases[case_id] for case_id in case_ids])
        world, rank = self._ranks()
        # Pads so that all ranks take part equally often; metrics aggregate by case id.
        sampler: DistributedSampler[Any] = DistributedSampler(volumes, world, rank, shuffle=False)
        return self._loader(volumes, sampler, 1)

    def _loader(
        self, dataset: Any, sampler: "DistributedSampler[Any]", batch_size: int
    ) -> DataLoader[dict[str, Any]]:
        workers = self.num_workers
        if workers is None:
            workers = min(8, max(0, (os.cpu_count() or 1) - 2) // max(1, self._ranks()[0]))
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )


def _check_sizes(patch_size: Sequence[int], batch_size: int, patches_per_epoch: int | None) -> None:
    if len(patch_size) != 3 or any(n < 1 for n in patch_size):
        raise InputError(
            f"data.patch_size is {list(patch_size)}: expected three positive numbers of voxels, "
            "such as [128, 128, 128]."
        )
    if batch_size < 1:
        raise InputError(f"data.batch_size is {batch_size}: expected 1 or more.")
    if patches_per_epoch is not None and patches_per_epoch < 1:
        raise InputError(f"data.patches_per_epoch is {patches_per_epoch}: expected 1 or more.")
