"""Patients as axial slices of four registered modalities, with the masks of their regions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader

from datamodules.base import CohortDataModule
from datamodules.cases.cache import prepare_cohort
from datamodules.cases.intensity import BACKGROUND, NORMALISATION_VERSION
from datamodules.cases.settings import Preparation
from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.conventions import REGIONS, read_regions
from datamodules.layouts.label_files import refuse_labels_of_phantoms
from datamodules.layouts.label_values import refuse_whole_tumours
from datamodules.patients.left_out import left_out
from datamodules.registration.folder import REGISTERED
from datamodules.slices.dataset import SliceDataset, SlicePatientDataset
from datamodules.slices.random_split import (
    as_cases,
    by_case,
    draw_slices,
    is_by_slice,
    stored_slices,
)
from datamodules.slices.selection import Rule, check_selection, draw_empty, select
from datamodules.slices.slice_case import SliceCase
from datamodules.slices.sources import SliceSources, Source
from datamodules.splits import Split
from datamodules.training.modality_dropout import check_probability, recorded
from datamodules.training.randomisation import Kind, check_kind
from errors import InputError


class RegisteredSliceDataModule(CohortDataModule[SliceCase]):
    """Glioma patients as axial slices: single slices to train, every slice of a patient to score.

    Without `root` it is the digital glioma phantom's exams, generated and registered once into the
    cache. Raw exams are registered to T2 on the fly.

    Args:
        root: Folder that `lightning prepare` wrote, of a BraTS cohort, or of raw exams or BIDS.
        source: What `root` holds; auto: by its names.
        layout: Name of a BraTS layout or a YAML file that describes one; unset: by the file names.
        labels: What label values mean, whatever the names: a BraTS layout, msd or a YAML file;
            unset: as the layout says, and of exams 1 necrosis, 2 oedema, 3 enhancing.
        missing: `error` refuses a patient that lacks a modality; `zero` fills it with the
            background.
        whole_head: Accept heads with skull and skin.
        accept_flagged: Use patients whose registration is flagged as failed.
        spacing: Pixel edge in mm; the distance of slices stays as it is.
        slice_size: Pixels along either side of a slice, a multiple of 4. Most networks need a
            larger multiple, such as 16, and name it.
        selection: Slices of a patient: the largest tumour, n_per_patient or all_tumour.
        slices_per_patient: For n_per_patient, spread evenly over the tumour.
        empty_fraction: Share of tumour-free slices among those trained on; the paper's is 0.
        slices_per_epoch: Training slices an epoch, so that few patients are trained on in as many
            steps as many; unset: each slice once.
        batch_size: Slices a step over all devices together, so that their number changes nothing.
        augmentation: Rotation, flips and intensity changes of training slices; `randomised` adds
            bias fields, drift, gamma, blobs, blur, sharpening and noise.
        modality_dropout: Probability of each modality to be blanked in a training slice, never all.
        split_by: `slice` draws single slices as the paper does, so that patients leak.
        phantom_patients: Number of phantom exams.
        regions: What is segmented: WT alone, the whole tumour, or WT,TC,ET as in the 3D study; the
            network takes it over.
        cohort: Arguments of `CohortDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        source: Source = "auto",
        layout: str | None = None,
        labels: str | None = None,
        missing: Literal["error", "zero"] = "error",
        whole_head: bool = False,
        accept_flagged: bool = False,
        spacing: float = 1.0,
        slice_size: int = 256,
        selection: Rule = "all_tumour",
        slices_per_patient: int = 3,
        empty_fraction: float = 0.2,
        slices_per_epoch: int | None = None,
        batch_size: int = 4,
        augmentation: Kind = True,
        modality_dropout: float = 0.0,
        split_by: Literal["patient", "slice"] = "patient",
        phantom_patients: int = 12,
        regions: list[str] | str = REGIONS[0],
        **cohort: Any,
    ) -> None:
        super().__init__(
            root=root,
            batch_size=batch_size,
            phantom_patients=phantom_patients,
            **cohort,
        )
        if slice_size < 16 or slice_size % 4:
            raise InputError(
                f"data.slice_size is {slice_size}: expected a multiple of 4, at least 16."
            )
        check_selection(slices_per_patient, empty_fraction, slices_per_epoch)
        check_kind(augmentation)
        check_probability(modality_dropout)
        if split_by == "slice" and self.train_patients is not None:
            raise InputError(
                f"data.train_patients is {self.train_patients}, a number of patients, and "
                "data.split_by slice draws single slices: leave one of them out."
            )
        self.regions = read_regions(regions, "data.regions")
        self.source = source
        self.layout = layout
        self.labels = labels
        self.missing = missing
        self.whole_head = whole_head
        self.accept_flagged = accept_flagged
        self.spacing = spacing
        self.slice_size = slice_size
        self.selection = selection
        self.slices_per_patient = slices_per_patient
        self.empty_fraction = empty_fraction
        self.slices_per_epoch = slices_per_epoch
        self.augmentation = augmentation
        self.modality_dropout = modality_dropout
        self.split_by = split_by

    @property
    def patch_size(self) -> list[int]:
        """Pixels of a slice, rows and columns: the input size of a network."""
        return [self.slice_size, self.slice_size]

    def largest_volume(self) -> int:
        """Pixels of all padded slices of the patient with the most."""
        return max(case.slices for case in self.cases.values()) * self.slice_size**2

    def case_hashes(self) -> dict[str, str]:
        """Content hash of every case and, in a split by slice, of every slice in it."""
        hashes = super().case_hashes()
        if self.split_by == "slice" and self._parts() is not None and self._by_slice():
            hashes |= self.split.hashes
        return hashes

    def identity(self) -> dict[str, Any]:
        """Every setting that changes results; not paths, workers or cache.

        `regions` is not here but among the settings of the network, which takes it over.
        """
        cases = self.cases.values()
        version = None
        if any(case.layout == REGISTERED for case in cases):
            from datamodules.registration.align import REGISTRATION_VERSION

            version = REGISTRATION_VERSION
        return {
            "spacing": self.spacing,
            "patch_size": self.patch_size,
            "selection": self.selection,
            "slices_per_patient": (
                self.slices_per_patient if self.selection == "n_per_patient" else None
            ),
            "empty_fraction": self.empty_fraction,
            "batch_size": self.batch_size,
            "augmentation": self.augmentation,
            "seed": self.seed,
            "split_by": self.split_by,
            "split": self._parts(),
            "protocol": self.protocol,
            "missing": self.missing,
            "filled": {case.case_id: list(case.missing) for case in cases if case.missing},
            "whole_head": self.whole_head,
            "registration": version,
            "normalisation": NORMALISATION_VERSION,
            "background": BACKGROUND,
            **self._dropping(),
            **recorded(self.modality_dropout),
            # absent where unset, so that earlier ids stay
            **({"slices_per_epoch": self.slices_per_epoch} if self.slices_per_epoch else {}),
        }

    def selected(self, case_id: str) -> list[int]:
        """Slices of a case that the rule chooses; none without a label or a tumour."""
        return select(self.cases[case_id].tumour_area, self.selection, self.slices_per_patient)

    def training_slices(self) -> list[tuple[str, int]]:
        """Return an epoch's slices as (case id, slice): those with tumour, and tumour-free ones.

        Raises:
            InputError: No training patient has a tumour.
        """
        if self._by_slice():
            chosen = by_case(self.split.train)
        else:
            chosen = {case_id: self.selected(case_id) for case_id in self.split.train}
        tumour = [(case_id, index) for case_id, indices in chosen.items() for index in indices]
        if not tumour:
            raise InputError(
                f"no label of the {len(chosen)} training patients holds a tumour: set "
                "data.split_seed so that one of them does, or give a larger data.root."
            )
        cases = [self.cases[case_id] for case_id in chosen]
        empty = draw_empty(
            {case.case_id: case.tumour_area for case in cases},
            {case.case_id: case.brain_area for case in cases},
            len(tumour),
            self.empty_fraction,
            self.seed,
        )
        return sorted(tumour + empty)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Single slices in one global order, the same for any number of ranks and workers."""
        share = self._share()
        places = self.training_slices()
        slices = SliceDataset(
            [(self.cases[case_id], index) for case_id, index in places],
            -(-(self.slices_per_epoch or len(places)) // self.batch_size) * self.batch_size,
            self.seed,
            self.augmentation,
            self.modality_dropout,
        )
        return self._loader(slices, self._global_order(slices), share)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All slices of each validation patient, one patient a batch."""
        return self._patients(self.split.val)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All slices of each test patient, one patient a batch."""
        return self._patients(self.split.test)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All slices of every patient, or of the phantoms kept for testing."""
        return self._patients(self.split.test)

    def _by_slice(self) -> bool:
        """Whether the units of the split in force are slices."""
        return is_by_slice(self.split.test, self.split.hashes)

    def _chosen(self, part: Sequence[str]) -> dict[str, list[int]]:
        """Slices of each case of a part that count as selected in the scores."""
        if self._by_slice():
            return by_case(part)
        return {case_id: self.selected(case_id) for case_id in part}

    def _patients(self, part: Sequence[str]) -> DataLoader[dict[str, Any]]:
        chosen = self._chosen(part)
        return self._one_by_one(
            SlicePatientDataset(
                [self.cases[case_id] for case_id in chosen],
                list(chosen.values()),
                whole=not self._by_slice(),
            )
        )

    def _prepare(self, progress: bool) -> tuple[list[SliceCase], dict[str, str]]:
        found, problems = self._find(progress)
        if len(self.regions) > 1:
            refuse_whole_tumours(
                found,
                f"data.regions is {','.join(self.regions)}",
                "set data.regions to WT, in a training of its own",
            )
        if self.root and found and not any(case.layout == REGISTERED for case in found):
            for notice in left_out(self.root, found):
                self._note(notice)
        wanted = Preparation(self.spacing, True, self.missing, self.whole_head)
        prepared, bad = prepare_cohort(found, self.cache_dir, wanted, progress=progress)
        cases = [
            SliceCase(case.files, case.folder, self.slice_size, self.regions) for case in prepared
        ]
        unfit = {case.case_id: case.problem() for case in cases if case.problem()}
        return [case for case in cases if case.case_id not in unfit], problems | bad | unfit

    def _find(self, progress: bool) -> tuple[list[CaseFiles], dict[str, str]]:
        """Return patients on one grid each, and the problems of the others by case id."""
        sources = SliceSources(
            self.cache_dir / "registered",
            source=self.source,
            layout=self.layout,
            labels=self.labels,
            missing=self.missing,
            accept_flagged=self.accept_flagged,
            progress=progress,
        )
        if self.images is not None:
            return sources.of_images(self.images)
        if self.root is not None:
            return sources.of_root(Path(self.root).expanduser())
        refuse_labels_of_phantoms(self.labels)
        return sources.of_phantoms(self._phantoms("exam"), self.phantom_seed)

    def _labelled(self) -> list[str]:
        labelled = super()._labelled()
        if not any(any(self.cases[case_id].tumour_area) for case_id in labelled):
            raise InputError(
                f"none of the {len(labelled)} labels below data.root {self.root} holds a tumour: "
                "expected values other than 0, check the labels."
            )
        return labelled

    def _decide_split(self, stage: str) -> Split:
        stored = self.stored_split is not None and stage in ("validate", "test")
        if stored or self.split_by == "patient":
            return super()._decide_split(stage)
        labelled = self._labelled()
        return draw_slices(
            [self.cases[case_id] for case_id in labelled],
            {case_id: self.selected(case_id) for case_id in labelled},
            protocol=self.protocol,
            n_folds=self.n_folds,
            fold=self.fold,
            split_file=self.split_file,
            seed=self.split_seed,
        )

    def _evaluation_split(
        self, stored: dict[str, Any], identities: dict[str, Any], stage: str
    ) -> Split:
        if not is_by_slice(stored["test"], stored["hashes"]):
            return super()._evaluation_split(stored, identities, stage)
        own = stored_slices(stored, identities["hashes"], allow_seen=self.allow_seen_patients)
        if own is not None:
            if own.selected_on_test:
                self._note("the checkpoint was selected on these slices")
            return own
        return super()._evaluation_split(as_cases(stored), identities, stage)

    def _report(self, stage: str) -> None:
        """Note how many patients and slices each part has, and the leak of a split by slice."""
        if stage == "predict":
            if len(self.regions) > 1:
                self._note_meanings()
            return
        split = self.split
        if self._by_slice():
            sides = [set(by_case(part)) for part in (split.train, split.test)]
            self._note(
                f"split_by slice, as in the paper: {len(sides[0] & sides[1])} of "
                f"{len(sides[1])} tested patients were also trained on, so the scores are too good "
                "and whole volumes cannot be scored"
            )
        sentences = [self._training_report()] if stage == "fit" else []
        for name, part, scored_by in (
            ("validation", split.val, ("fit", "validate")),
            ("test", split.test, ("fit", "test")),
        ):
            if stage not in scored_by:
                continue
            chosen = self._chosen(part)
            count = sum(map(len, chosen.values()))
            every = sum(self.cases[case_id].slices for case_id in chosen)
            if not count:
                raise InputError(
                    f"no label of the {self._people(chosen)} in {name} holds a tumour, so there is "
                    "no slice to score: set another data.split_seed, or give a larger data.root."
                )
            sentences.append(f"{name} {self._people(chosen)}, {count} selected of {every} slices")
        self._note("; ".join(sentences))

    def _training_report(self) -> str:
        places = self.training_slices()
        tumour = sum(bool(self.cases[case_id].tumour_area[index]) for case_id, index in places)
        return (
            f"training {self._people({case_id for case_id, _ in places})}, {len(places)} slices "
            f"({tumour} with tumour, {len(places) - tumour} without)"
        )

    def _people(self, case_ids: Any) -> str:
        count = len({self.cases[case_id].patient_id for case_id in case_ids})
        return f"{count} patient{'' if count == 1 else 's'}"
