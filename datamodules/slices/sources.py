"""Sources of the 2-D study's patients: a registered folder, a BraTS cohort, or raw exams."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datamodules.cases.cache import exclusively
from datamodules.cases.settings import Missing
from datamodules.layouts.bids import is_bids
from datamodules.layouts.brats import LAYOUTS
from datamodules.layouts.case_files import MODALITIES, NIFTI, CaseFiles, nifti_files
from datamodules.layouts.label_files import named_convention
from datamodules.patients.find import find_cases, single_case
from errors import InputError

Source = Literal["auto", "brats", "registered", "exams"]
ONE_GRID = "its images and its label lie on one grid and are taken as registered"
Found = tuple[list[CaseFiles], dict[str, str]]


@dataclass(frozen=True)
class SliceSources:
    """Finder of patients whose modalities lie on one grid; others are registered first.

    Every method returns the patients, with T2 first because its grid is the case's, and the
    problems of the others by case id.

    Args:
        registered: Folder of the cache for exams that are registered on the fly.
        source: What a root holds; auto: by its names.
        layout: Name or description of a BraTS-like layout.
        labels: What label values mean, where the source does not state it or is wrong.
        missing: Whether a missing modality is refused.
        accept_flagged: Whether registrations flagged as failed are used.
        progress: Show progress bars.
    """

    registered: Path
    source: Source
    layout: str | None
    labels: str | None
    missing: Missing
    accept_flagged: bool
    progress: bool

    def of_root(self, root: Path) -> Found:
        """The patients below a folder.

        Raises:
            InputError: It is no folder, or holds no patient.
        """
        if not root.is_dir():
            raise InputError(
                f"data.root {root} is not a folder: give the folder that holds patients."
            )
        source = self.source if self.source != "auto" else recognise(root, self.layout)
        if source == "brats":
            return [on_t2(case) for case in find_cases(root, self.layout, self.labels)], {}
        if source == "registered":
            from datamodules.registration.folder import sort_registered

            found, problems = sort_registered(root)
            if self.labels is not None:
                stated = named_convention(self.labels, "data.labels")
                found = [replace(case, convention=stated) for case in found]
            return [on_t2(case) for case in found], problems
        from datamodules.exams.sequence_names import sort_exams

        exams, ambiguous = sort_exams(root, self.labels)
        # Where all images share the label's grid, it does not matter which one it was drawn on:
        # published collections are registered.
        together = [exam for exam in exams if exam.label is not None and _lies_together(exam)]
        others = [exam for exam in exams if exam not in together]
        found, problems = self._register(others, _digest(str(root.resolve())))
        found += [on_t2(replace(exam, notices=(*exam.notices, ONE_GRID))) for exam in together]
        return sorted(found, key=lambda case: case.case_id), {**problems, **ambiguous}

    def of_images(self, images: Mapping[str, str]) -> Found:
        """Return one patient, registered unless its files share a grid."""
        together = self.source in ("brats", "registered")
        if together or (self.source == "auto" and on_one_grid(images)):
            return [on_t2(single_case(images, self.layout, self.labels))], {}
        from datamodules.exams.sequence_names import single_exam

        places = sorted((m, str(Path(path).resolve())) for m, path in images.items())
        return self._register([single_exam(images, self.labels)], _digest(repr(places)))

    def of_phantoms(self, folder: Path, seed: int) -> Found:
        """The phantom's exams, under the names the same patients have in the first study."""
        from datamodules.exams.sequence_names import find_exams

        found, problems = self._register(find_exams(folder, None), folder.name)
        return [named_phantom(case, seed) for case in found], problems

    def _register(self, exams: list[CaseFiles], name: str) -> Found:
        """Register exams to T2 below the cache; finished ones are reused."""
        from datamodules.registration.cohort import register_cohort

        folder = self.registered / name
        with exclusively(folder):
            found, problems = register_cohort(
                exams,
                folder,
                missing=self.missing,
                accept_flagged=self.accept_flagged,
                progress=self.progress,
            )
        return [on_t2(case) for case in found], problems


def recognise(root: Path, layout: str | None) -> Source:
    """Return the kind of source that a folder is, by its names.

    Args:
        root: Folder of the cohort.
        layout: Name or description of a BraTS-like layout, which settles it.
    """
    from datamodules.registration.folder import is_registered

    if layout is not None:
        return "brats"
    if is_registered(root):
        return "registered"
    files = list(nifti_files(root))
    if is_bids(files):  # sequences of one session seldom lie on one grid
        return "exams"
    collection = root.parent if root.name in ("imagesTr", "imagesTs") else root
    if (collection / "imagesTr").is_dir() or (collection / "imagesTs").is_dir():
        return "brats"
    return "brats" if any(map(_named_as_brats, files)) else "exams"


def _named_as_brats(path: Path) -> bool:
    stem = NIFTI.sub("", path.name)
    parts = ((years, *stem.rpartition(years.separator)) for years in LAYOUTS.values())
    return any(
        suffix.lower() in years.suffixes and re.match(years.prefix, case_id, re.IGNORECASE)
        for years, case_id, _, suffix in parts
    )


def on_one_grid(images: Mapping[str, str]) -> bool:
    """Whether the four files of a patient lie on one grid already, by their headers."""
    if set(images) != set(MODALITIES):
        return False
    from datamodules.registration.scan import same_grid

    first, *others = (Path(images[m]).expanduser() for m in MODALITIES)
    try:
        return all(same_grid(other, first) for other in others)
    except InputError:
        return False  # reported when the whole files are read


def _lies_together(exam: CaseFiles) -> bool:
    """Whether the four images and the label of an exam lie on one grid already."""
    images = {modality: str(image.path) for modality, image in exam.images.items()}
    return on_one_grid(images) and on_one_grid({**images, "t1": str(exam.label)})


def on_t2(case: CaseFiles) -> CaseFiles:
    """Return the case with T2 first, whose grid and header are then the case's."""
    first = [modality for modality in ("t2", *MODALITIES) if modality in case.images]
    return replace(case, images={modality: case.images[modality] for modality in first})


def named_phantom(case: CaseFiles, seed: int) -> CaseFiles:
    """A phantom's exam under the name that the same patient has in the first study's cohort."""
    name = f"phantom-{seed}-{int(case.case_id[-3:]):04d}"
    return replace(case, case_id=name, patient_id=name, place="")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
