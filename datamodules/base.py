"""Base class of the data modules: a cohort prepared once, checked as a whole, split by patient."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from datamodules.batches import BatchDataModule
from datamodules.cases.cache import default_cache, describe
from datamodules.cases.case import PreparedCase
from datamodules.cases.intensity import BACKGROUND
from datamodules.cases.reading import combine
from datamodules.layouts.case_files import MODALITIES, check_dropped
from datamodules.layouts.label_values import misread, remarks
from datamodules.nifti.geometry import spacing_mark
from datamodules.patients.grouping import check_pattern, one_person, regroup
from datamodules.phantom_cohort import phantom_cohort
from datamodules.splits import Protocol, Split, evaluation_split, make_split, read_aliases
from datamodules.training.mixture import keep_first
from errors import InputError
from outputs import some

Case = TypeVar("Case", bound=PreparedCase)


class CohortDataModule(BatchDataModule, Generic[Case]):
    """A cohort that is prepared once, split by patient, and whose bad cases are refused together.

    A subclass finds the patients (`_prepare`) and makes the batches (its data loaders).

    Args:
        root: Folder of the cohort; unset: phantoms.
        batch_size: Items a step over all devices together.
        phantom_patients: Number of phantom patients.
        images: Files of one unlabelled patient by modality, for `predict` only; on one grid, or
            raw for the 2D study.
        n_folds: Cross-validation: the fold is the test set, validation is cut from the rest.
        fold: Which fold of `n_folds` or of `split_file`, from 0.
        protocol: `default` splits 70/10/20 by patient; `paper` 8:2, selected on the tested ones.
        split_file: JSON with train, val, test, nnU-Net's splits_final.json, or a MONAI data list.
        split_seed: Seed of the split.
        seed: Seed of what is drawn for training: patches or slices, their order, augmentation.
        num_workers: Loader processes of each device; unset: by the cores and by shared memory.
        cache_dir: Where prepared cases are kept; unset: GLIOFUSE_CACHE or ~/.cache/gliofuse.
        phantom_seed: Seed of the phantom patients.
        phantom_spacing: Voxel edge in mm that phantoms are generated at.
        train_patients: Train on so many patients of the training part only, drawn by split_seed;
            a smaller number takes a subset of those of a larger one. Unset: on all.
        allow_seen_patients: Score patients that the checkpoint was trained or selected on.
        drop: Modalities blanked in every patient, as [t1, t2]: filled with 0, the brain's mean.
        patient: Regular expression whose one group finds the patient in a case's path below `root`,
            so that its exams stay together; unset: by the names of folders and files.

    Attributes:
        augmentation: Whether training images change from epoch to epoch, or the name of a way.
        modality_dropout: Probability of each modality to be blanked in a training image.
        stored_split: Split of the checkpoint that is validated or tested; None: without one.
        failures: Error of every case that cannot be used, by its id.
        notices: Remarks about the data for the user.
    """

    augmentation: Any  # of each study its own kinds
    modality_dropout: float
    fewest_patients = 1  # to train on

    def __init__(
        self,
        *,
        root: str | None,
        batch_size: int,
        phantom_patients: int,
        images: dict[str, str] | None = None,
        n_folds: int | None = None,
        fold: int = 0,
        protocol: Protocol = "default",
        split_file: str | None = None,
        split_seed: int = 0,
        seed: int = 0,
        num_workers: int | None = None,
        cache_dir: str | None = None,
        phantom_seed: int = 0,
        phantom_spacing: float = 2.0,
        train_patients: int | None = None,
        allow_seen_patients: bool = False,
        drop: list[str] | None = None,
        patient: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_dropped(drop or [])
        if patient is not None:
            check_pattern(patient)
        if batch_size < 1:
            raise InputError(f"data.batch_size is {batch_size}: expected 1 or more.")
        given = {"num_workers": num_workers, "seed": seed, "train_patients": train_patients}
        for name, value in given.items():
            least = self.fewest_patients if name == "train_patients" else 0
            if value is not None and value < least:
                raise InputError(f"data.{name} is {value}: expected {least} or more.")
        self.root = root
        self.images = images
        self.n_folds = n_folds
        self.fold = fold
        self.protocol = protocol
        self.split_file = split_file
        self.split_seed = split_seed
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()
        self.phantom_patients = phantom_patients
        self.phantom_seed = phantom_seed
        self.phantom_spacing = phantom_spacing
        self.train_patients = train_patients
        self.allow_seen_patients = allow_seen_patients
        self.drop = [name for name in MODALITIES if name in (drop or [])]
        self.patient = patient
        self.stored_split: dict[str, Any] | None = None
        self.failures: dict[str, str] = {}
        self.grouping = ""  # a sentence on how exams are grouped by patient; may be empty
        self._cases: dict[str, Case] | None = None
        self._split: Split | None = None

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Every setting that changes results; not paths, workers or cache."""

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
            # Other phantoms may have been trained on, so only the test set is predicted.
            self._split = self._decide_split("test")
        else:
            ids = sorted(cases)
            self._split = Split([], [], ids, "predict", "every case", **self._identities(ids))
        self._report(stage)
        for notice in self.notices:
            rank_zero_info(notice)

    @property
    def split(self) -> Split:
        """The split in force; complete after `setup`."""
        if self._split is None:
            self._split = self._decide_split("fit")
        return self._split

    @property
    def cases(self) -> dict[str, Case]:
        """Every usable case by its id."""
        return self._load(progress=False)

    def split_cases(self) -> dict[str, Case]:
        """Every case that the split may name, by its id."""
        return self.cases

    def case_hashes(self) -> dict[str, str]:
        """Content hash of every case that the split may name."""
        return {case_id: case.content_hash for case_id, case in self.split_cases().items()}

    def fingerprint(self) -> str:
        """Digest of the whole cohort: names, images, labels, their meaning, and voxel sizes.

        Voxel values are taken in canonical order, so orientation is part of it however a file is
        stored. Where the grid lies in the scanner changes no result and is left out.
        """
        return combine(f"{line}|{spacing_mark(edges)}\n" for line, edges in self._described())

    def voxel_fingerprint(self) -> str:
        """Digest of the cohort without voxel sizes, part of the ids of runs of schema 1."""
        return combine(f"{line}\n" for line, _ in self._described())

    def _described(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        """Every case in a line, and its voxel edges in canonical order."""
        for _, c in sorted(self.cases.items()):
            line = f"{c.case_id}|{c.patient_id}|{c.content_hash}|{c.label_hash}|{c.convention}"
            yield line, c.geometry.native_spacing

    def _dropping(self) -> dict[str, list[str]]:
        """Entry of `drop` in the identity; empty where it is unused, so that old ids stay."""
        return {"drop": self.drop} if self.drop else {}

    def conventions(self) -> dict[str, dict[str, Any]]:
        """Meaning of the label values by the name of the convention, in plain types."""
        return {c.convention.name: c.convention.to_dict() for c in self.cases.values()}

    @abstractmethod
    def _prepare(self, progress: bool) -> tuple[list[Case], dict[str, str]]:
        """Return every usable case, and the problem of each other case by its id."""

    def _report(self, stage: str) -> None:
        """Add notices about what `setup` decided."""

    def _parts(self) -> dict[str, list[str]] | None:
        """Cases of each part; None for a cohort that can be predicted or tested, not trained on."""
        try:
            split = self.split
        except InputError:  # raised again by `setup` where a split is needed
            return None
        return {"train": split.train, "val": split.val, "test": split.test}

    def _load(self, progress: bool) -> dict[str, Case]:
        if self._cases is None:
            prepared, self.failures = self._prepare(progress)
            if not prepared:
                raise InputError(describe(self.failures, len(self.failures)))
            self._group(prepared)
            for case in prepared:
                case.dropped = tuple(self.drop)
            self._cases = {case.case_id: case for case in prepared}
            self.notices += [f"{c.case_id}: {note}" for c in prepared for note in c.notices]
            if self.drop:
                self._note(
                    f"dropped in every patient: {', '.join(self.drop)}, filled with the background "
                    f"({BACKGROUND:g}, the mean of the brain)"
                )
        return self._cases

    def _group(self, prepared: list[Case]) -> None:
        """Assign each case to its patient, and note how exams were grouped."""
        if self.root is None:
            return
        # Predictions need no patients, and a checkpoint's pattern fits its training data only.
        pattern = None if self._predicting() else self.patient
        found, notices = regroup([case.files for case in prepared], pattern)
        patients = {case.case_id: case.patient_id for case in found}
        digests = {case.case_id: case.modality_hashes for case in prepared}
        patients, same = one_person(patients, digests)
        for case in prepared:
            case.patient_id = patients[case.case_id]
        if not self._predicting():
            self.grouping = "; ".join([*notices, *same])
            self.notices += [*notices, *same]

    def _phantoms(self, layout: str) -> Path:
        """Folder of the phantom cohort, generated once, by one process.

        Args:
            layout: A layout of `generate_cohort`.
        """
        return phantom_cohort(
            self.cache_dir, layout, self.phantom_patients, self.phantom_seed, self.phantom_spacing
        )

    def _predicting(self) -> bool:
        state = getattr(self.trainer, "state", None)
        return self.images is not None or getattr(state, "fn", None) == "predict"

    def _refuse_bad(self) -> None:
        if self.failures:
            raise InputError(describe(self.failures, len(self.failures) + len(self.cases)))

    def _labelled(self) -> list[str]:
        """Ids of the cases with a label; the others are left out with a notice."""
        labelled = sorted(case_id for case_id, case in self.cases.items() if case.labelled)
        unlabelled = sorted(set(self.cases) - set(labelled))
        if not labelled:
            raise InputError(
                f"no case below data.root {self.root} has a label ({some(unlabelled)}): "
                "expected a label map for each, or use predict."
            )
        if unlabelled:
            self._note(f"left out, having no label: {', '.join(unlabelled)}")
        if len(self.regions) > 1:
            self._check_meanings(labelled)
        return labelled

    def _check_meanings(self, labelled: list[str]) -> None:
        """Refuse label values that contradict their meaning, and note doubtful ones."""
        labels = {i: (self.cases[i].convention, self.cases[i].label_values) for i in labelled}
        for case_id, sentence in remarks(labels).items():
            self._note(f"{case_id}: {sentence}")
        problems = misread(labels)
        if problems:
            first, sentence = next(iter(problems.items()))
            others = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise InputError(f"{first}{others}: {sentence}.")

    def _note_meanings(self) -> None:
        """Note the label values of predicted masks."""
        meanings = sorted({case.convention.describe() for case in self.cases.values()})
        self._note(f"masks are written as {' or '.join(meanings)}")

    def _decide_split(self, stage: str) -> Split:
        identities = self._identities(self._labelled())
        if self.stored_split is not None and stage in ("validate", "test"):
            return self._evaluation_split(self.stored_split, identities, stage)
        try:
            made = make_split(
                identities["patients"],
                protocol=self.protocol,
                n_folds=self.n_folds,
                fold=self.fold,
                split_file=self.split_file,
                seed=self.split_seed,
            )
        except InputError as error:
            unlabelled = sorted(set(self.cases) - set(identities["patients"]))
            without = f"left out, having no label: {some(unlabelled)}" if unlabelled else ""
            reasons = "; ".join(filter(None, [self.grouping, without]))
            if not reasons:
                raise
            raise InputError(f"{str(error).rstrip('.')} ({reasons}).") from error
        if self.train_patients is not None:
            made = keep_first(made, identities["patients"], self.train_patients, self.split_seed)
        return replace(made, **identities)

    def _evaluation_split(
        self, stored: dict[str, Any], identities: dict[str, Any], stage: str
    ) -> Split:
        """Return the cases that a checkpoint with the split `stored` may be scored on."""
        root = Path(self.root) if self.root else None
        split, notices = evaluation_split(
            stored,
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

    def _identities(self, case_ids: Sequence[str]) -> dict[str, Any]:
        chosen = [self.cases[case_id] for case_id in case_ids]
        return {
            "patients": {case.case_id: case.patient_id for case in chosen},
            "hashes": {case.case_id: case.content_hash for case in chosen},
            "layouts": sorted({case.layout for case in chosen}),
        }


CohortData = CohortDataModule[PreparedCase]  # any data module of this project
