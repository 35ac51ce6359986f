"""The digital glioma phantom: a cohort of simulated patients, and the `lightning phantom` command.

ICBM152 anatomy, deformed patient by patient (`anatomy`), a lesion grown in it
(`phantom_lesion`), what else a scan shows (`phantom_confounders`), four signal equations
(`phantom_signal`), four scanners (`phantom_scanner`), files (`phantom_files`, `phantom_exam`).
Patient i of a seed depends on nothing but the seed, i and the spacing.
"""

import json
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from command_parser import CommandParser, at_home
from datamodules.layouts.case_files import MODALITIES
from datamodules.phantom.anatomy import Anatomy, brain_grid, draw_anatomy, draw_pose
from datamodules.phantom.exam import write_exam
from datamodules.phantom.fields import Field, Grid
from datamodules.phantom.files import LAYOUTS, write_brats_case, write_cohort_note
from datamodules.phantom.lesion import WITHOUT_ENHANCEMENT, grow_lesion, mass_effect, plan_lesion
from datamodules.phantom.scanner import acquire
from datamodules.phantom.signal import simulate_signals
from datamodules.phantom.variety import PIECES, Pieces, check_pieces, noise_factors
from errors import InputError
from files import cores, end_with_parent, whole_folder
from progress import Bar

PHANTOM_VERSION = 8  # part of every cache key: raise it whenever one byte of a phantom changes
EXAM = "exam"
FINEST_MM, COARSEST_MM = 0.8, 5.0
MOST_PATIENTS = 9999  # the case ids have four digits
_STREAMS = ("kind", "pose", "plan", "anatomy", "lesion", "signal", *MODALITIES)


@dataclass
class PhantomPatient:
    """One simulated patient on its own grid, (right, anterior, superior) order."""

    grid: Grid
    images: dict[str, np.ndarray]  # int16, background 0
    label: np.ndarray  # uint8: 1 necrosis, 2 oedema, 3 enhancing
    enhancing: bool


@dataclass(frozen=True)
class _Job:
    """The arguments with which a worker process makes and writes one patient."""

    out: str
    index: int
    seed: int
    layout: str
    spacing: float
    taken: tuple[str, ...]


def random_stream(seed: int, index: int, name: str) -> np.random.Generator:
    """A generator of its own for every part of every patient."""
    return np.random.default_rng([seed, index, _STREAMS.index(name)])


def enhances(seed: int, index: int) -> bool:
    """Whether a patient's tumour takes up contrast agent; known before anything is simulated."""
    return bool(random_stream(seed, index, "kind").random() >= WITHOUT_ENHANCEMENT)


def _simulate(
    seed: int, index: int, spacing: float, taken: Collection[str]
) -> tuple[Grid, Anatomy, np.ndarray, dict[str, Field], dict[str, float]]:
    """Grid, brain, label, noise-free signals and noise factors of one patient."""
    grid, pieces = brain_grid(spacing), Pieces(seed, index, taken)
    pose = draw_pose(random_stream(seed, index, "pose"))
    plan = plan_lesion(random_stream(seed, index, "plan"), pose, enhances(seed, index), pieces)
    push = mass_effect(plan, grid)
    brain = draw_anatomy(random_stream(seed, index, "anatomy"), grid, pose, push)
    lesion = grow_lesion(random_stream(seed, index, "lesion"), plan, brain, grid)
    signals = simulate_signals(random_stream(seed, index, "signal"), brain, lesion, grid, pieces)
    return grid, brain, lesion.label, signals, noise_factors(pieces)


def generate_patient(
    seed: int, index: int, spacing: float, taken: Collection[str] = PIECES
) -> PhantomPatient:
    """Simulate one co-registered, skull-stripped patient.

    Args:
        seed: the cohort's seed.
        index: the patient's number, from 0.
        spacing: voxel size, mm.
        taken: pieces of `variety` that the phantoms have.
    """
    grid, brain, label, signals, noise = _simulate(seed, index, spacing, taken)
    images = {
        modality: acquire(
            random_stream(seed, index, modality), signals[modality], brain, grid, noise[modality]
        )
        for modality in MODALITIES
    }
    return PhantomPatient(grid, images, label, enhances(seed, index))


def _folder(layout: str, seed: int, index: int) -> Path:
    """A patient's folder below the cohort's root."""
    if layout == EXAM:
        return Path(f"SYN-EXAM-{index + 1:03d}")
    return LAYOUTS[layout].folder(index, enhances(seed, index))


def _write_patient(job: _Job) -> None:
    """Make one patient and put its folder into place in one step; runs in a worker process."""
    final = Path(job.out) / _folder(job.layout, job.seed, job.index)
    if final.is_dir():
        return
    note = f"SYNTHETIC gliofuse phantom v{PHANTOM_VERSION} seed {job.seed} patient {job.index}"
    with whole_folder(final) as temporary:
        if job.layout == EXAM:
            grid, brain, label, signals, noise = _simulate(
                job.seed, job.index, job.spacing, job.taken
            )
            streams = {m: random_stream(job.seed, job.index, m) for m in MODALITIES}
            write_exam(temporary, final.name, signals, brain, label, grid, streams, note, noise)
        else:
            patient = generate_patient(job.seed, job.index, job.spacing, job.taken)
            layout = LAYOUTS[job.layout]
            write_brats_case(
                temporary, final.name, layout, patient.images, patient.label, patient.grid, note
            )


def _check(
    out: Path,
    patients: int,
    seed: int,
    layout: str,
    spacing: float,
    workers: int | None,
) -> None:
    """Refuse settings out of range, and a folder with other content."""
    if layout not in (*LAYOUTS, EXAM):
        names = ", ".join((*LAYOUTS, EXAM))
        raise InputError(f"Unknown phantom layout '{layout}': choose one of {names}.")
    if not 1 <= patients <= MOST_PATIENTS:
        raise InputError(
            f"The number of phantom patients is {patients}; give one from 1 to {MOST_PATIENTS}."
        )
    if seed < 0:
        raise InputError(f"The phantom seed is {seed}; give 0 or a positive integer.")
    if not FINEST_MM <= spacing <= COARSEST_MM:
        raise InputError(
            f"The phantom spacing is {spacing:g} mm; give one from {FINEST_MM} to {COARSEST_MM} mm."
        )
    if workers is not None and workers < 1:
        raise InputError(f"The number of processes is {workers}; give 1 or more.")
    if out.exists() and not out.is_dir():
        raise InputError(f"The phantom output {out} is a file; name a folder that is new or empty.")
    if not out.is_dir():
        return
    expected = {_folder(layout, seed, index) for index in range(patients)}
    tops = {"SYNTHETIC.txt", "phantom.json", *(folder.parts[0] for folder in expected)}
    found = {p.relative_to(out) for p in out.iterdir() if not p.name.startswith(".")}
    strange = sorted(str(p) for p in found if str(p) not in tops)
    for grade in ("HGG", "LGG"):
        if layout == "brats2018" and (out / grade).is_dir():
            inside = {p.relative_to(out) for p in (out / grade).iterdir()}
            strange += sorted(str(p) for p in inside - expected)
    if strange:
        raise InputError(
            f"The phantom output {out} holds other content ({strange[0]}); "
            f"name a folder that is new or empty."
        )


def _check_settings(out: Path, settings: dict[str, object]) -> None:
    """Refuse to complete a cohort that was begun with other settings."""
    stored_file = out / "phantom.json"
    if not stored_file.is_file():
        return
    try:
        stored = json.loads(stored_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{stored_file} is not readable JSON; name a folder that is new or empty."
        ) from error
    for key, value in settings.items():
        if stored.get(key) != value:
            raise InputError(
                f"The phantom cohort in {out} was made with {key} {stored.get(key)}, not {value}; "
                f"name a folder that is new or empty."
            )


def generate_cohort(
    out: Path,
    patients: int,
    seed: int = 0,
    layout: str = "brats2021",
    spacing: float = 1.0,
    *,
    progress: bool = True,
    workers: int | None = None,
    taken: Collection[str] = PIECES,
) -> None:
    """Write a cohort; patients that are complete already are kept, so it can be interrupted.

    Args:
        out: folder to write, created if needed.
        patients: number of patients.
        seed: another seed, other patients; the same seed, the same bytes on one kind of processor
            (another kind rounds single voxels otherwise).
        layout: `brats2018`, `brats2021`, `brats2023` or `exam`.
        spacing: voxel size, mm.
        progress: show a bar.
        workers: processes; by default one a usable processor core.
        taken: pieces of `variety` that the phantoms have.

    Raises:
        InputError: a setting out of range, or a folder that holds something else.
    """
    pieces = check_pieces(taken)
    _check(out, patients, seed, layout, spacing, workers)
    settings: dict[str, object] = {
        "version": PHANTOM_VERSION,
        "seed": seed,
        "layout": layout,
        "spacing": float(spacing),
        "pieces": pieces,
    }
    _check_settings(out, settings)
    out.mkdir(parents=True, exist_ok=True)
    write_cohort_note(out, settings)
    jobs = [_Job(str(out), i, seed, layout, float(spacing), tuple(pieces)) for i in range(patients)]
    missing = [job for job in jobs if not (out / _folder(layout, seed, job.index)).is_dir()]
    workers = min(workers or cores(), len(missing))
    with Bar(
        total=len(jobs),
        initial=len(jobs) - len(missing),
        desc="phantom cohort (SYNTHETIC)",
        disable=not progress,
    ) as bar:
        if workers < 2 or len(missing) < 4:  # starting processes would take longer
            for job in missing:
                _write_patient(job)
                bar.update()
            return
        pool = ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent)
        try:
            for done in as_completed([pool.submit(_write_patient, job) for job in missing]):
                done.result()
                bar.update()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def main(argv: Sequence[str]) -> int:
    """Write the cohort that `lightning phantom` describes; return the exit status."""
    parser = CommandParser(
        prog="lightning phantom",
        description="Write a cohort of simulated (SYNTHETIC) glioma patients.",
        examples=["lightning phantom --out phantoms --patients 20 --layout brats2023"],
    )
    parser.add_argument("--out", type=at_home, required=True, help="folder to write")
    parser.add_argument("--patients", type=int, default=40, help="how many (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other patients")
    parser.add_argument(
        "--layout", default="brats2021", help=f"{', '.join((*LAYOUTS, EXAM))} (default brats2021)"
    )
    parser.add_argument("--spacing", type=float, default=1.0, help="voxel size in mm (default 1)")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    given = parser.parse_args(list(argv))
    generate_cohort(
        given.out,
        given.patients,
        given.seed,
        given.layout,
        given.spacing,
        workers=given.workers,
    )
    print(f"{given.patients} SYNTHETIC patients, layout {given.layout}: {given.out}")
    return 0
