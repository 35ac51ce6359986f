"""Prepared cases on disk: cropped, normalised, float16, memory-mapped, one folder a case.

A folder is named after the content of the case and the settings that shaped it, and appears whole
or not at all. An index by path, size and modification time spares reading files that did not
change. Two processes may prepare the same cohort at once: each case is prepared by one of them.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from datamodules import huge_pages
from datamodules.cases.case import PreparedCase
from datamodules.cases.checks import EXAMINATION_VERSION, duplicates, examine
from datamodules.cases.intensity import (
    BACKGROUND,
    NORMALISATION_VERSION,
    Normalisation,
    identified,
    normalise,
    scored_voxels,
)
from datamodules.cases.patch_centres import region_samples
from datamodules.cases.reading import Reading, combine
from datamodules.cases.settings import Preparation, from_slices, to_slices
from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.layouts.conventions import CANONICAL
from datamodules.nifti.geometry import (
    Geometry,
    bounding_box,
    canonical_spacing,
    canonical_view,
    orientation_of,
)
from datamodules.nifti.headers import blanked, is_synthetic
from errors import InputError
from files import cores, shared_lock, whole_folder, write_atomically
from progress import Bar

Array = npt.NDArray[Any]
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)  # raised where the folder is another user's


def default_cache() -> Path:
    """The cache folder: ``GLIOFUSE_CACHE``, else ``~/.cache/gliofuse``."""
    return Path(os.environ.get("GLIOFUSE_CACHE") or Path.home() / ".cache" / "gliofuse")


@contextmanager
def exclusively(folder: Path) -> Iterator[Path]:
    """Work on a folder of the cache in one process at a time; yields its mark of completion.

    A folder that another user completed can be read without permission to write.

    Raises:
        InputError: The cache cannot be written, and something has to be.
    """
    _make_folder(folder.parent)
    with writing(folder.parent.parent), ExitStack() as stack:
        try:
            stack.enter_context(shared_lock(folder.parent / f"{folder.name}.lock"))
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
        yield folder / ".complete"


@contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turn permission errors within the context into one sentence about the cache."""
    try:
        yield
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        raise unwritable(cache, error) from error


def unwritable(cache: Path, error: OSError) -> InputError:
    """Return the error for a cache that cannot be written."""
    where = error.filename or cache
    return InputError(
        f"data.cache_dir {cache} cannot be written ({error.strerror}: {where}): give another "
        "folder there or in GLIOFUSE_CACHE, or have its owner let you write there."
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def prepare_cases(
    cases: Sequence[CaseFiles],
    cache_dir: str | Path,
    preparation: Preparation | float,
    *,
    progress: bool = True,
    workers: int | None = None,
) -> list[PreparedCase]:
    """Check and prepare every case; of those in the cache only file sizes and times are read.

    Args:
        cases: What `find_cases` found.
        cache_dir: Where prepared cases are kept.
        preparation: Settings; a number is the spacing of volumes in mm.
        progress: Show a progress bar.
        workers: Cases prepared side by side; None: by the cores.

    Raises:
        InputError: One line for each bad case; the good ones are in the cache by then.
    """
    prepared, problems = prepare_cohort(
        cases, cache_dir, preparation, progress=progress, workers=workers
    )
    if problems:
        raise InputError(describe(problems, len(cases)))
    return prepared


def prepare_cohort(
    cases: Sequence[CaseFiles],
    cache_dir: str | Path,
    preparation: Preparation | float,
    *,
    progress: bool = True,
    workers: int | None = None,
) -> tuple[list[PreparedCase], dict[str, str]]:
    """Do as `prepare_cases`, but return the bad cases with their problems instead of raising.

    Args:
        cases: What was found.
        cache_dir: Where prepared cases are kept.
        preparation: Settings; a number is the spacing of volumes in mm.
        progress: Show a progress bar.
        workers: Cases prepared side by side; None: by the cores.
    """
    wanted = preparation if isinstance(preparation, Preparation) else Preparation(preparation)
    wanted.check()
    cache = Path(cache_dir).expanduser()
    for folder in ("cases", "index", "locks"):
        _make_folder(cache / folder)

    def attempt(case: CaseFiles) -> PreparedCase | str:
        return _prepare_one(case, cache, wanted)

    count = workers or max(1, min(8, cores() // 2))
    # Resampling is many small matrix products in threads of our own: with BLAS's threads below
    # each of them they wait for one another, ten times as long on a busy machine.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(count) as pool:
        results = pool.map(attempt, cases)
        with Bar(  # cases already in the cache take no second, and need no bar
            results, desc="preparing cases", total=len(cases), disable=not progress, delay=1
        ) as bar:
            outcomes = list(bar)
    problems = {
        case.case_id: outcome
        for case, outcome in zip(cases, outcomes, strict=True)
        if isinstance(outcome, str)
    }
    prepared = [outcome for outcome in outcomes if isinstance(outcome, PreparedCase)]
    repeated = duplicates({case.case_id: case.content_hash for case in prepared})
    problems.update(repeated)
    return [case for case in prepared if case.case_id not in repeated], problems


def describe(problems: dict[str, str], total: int) -> str:
    """All bad cases, one line each."""
    lines = "\n".join(f"  {case_id}: {what}" for case_id, what in sorted(problems.items()))
    return f"{len(problems)} of {total} cases cannot be used, mend or remove them:\n{lines}"


def _prepare_one(case: CaseFiles, cache: Path, wanted: Preparation) -> PreparedCase | str:
    """One case out of the cache, or prepared now; its problems when it has any."""
    listed = _files(case)
    places = sorted((kind, path, channel) for kind, (path, channel, *_) in listed.items())
    settings = (
        places,
        asdict(case.convention),
        wanted.spacing,
        NORMALISATION_VERSION,
        EXAMINATION_VERSION,
        *wanted.extra(),
    )
    name = hashlib.sha256(repr(settings).encode()).hexdigest()[:32]
    entry = cache / "index" / f"{name}.json"
    folder = _lookup(entry, listed, cache)  # one that is complete needs no lock
    if folder is not None:
        return PreparedCase(case, folder)
    with writing(cache), shared_lock(cache / "locks" / f"{name}.lock"):
        folder = _lookup(entry, listed, cache)
        if folder is None:
            reading = examine(case, missing=wanted.missing, whole_head=wanted.whole_head)
            if reading.problems:
                return "; ".join(reading.problems)
            folder = _store(reading, cache, wanted)
            write_atomically(entry, json.dumps({"files": listed, "folder": folder.name}))
    return PreparedCase(case, folder)


def _files(case: CaseFiles) -> dict[str, list[Any]]:
    """Size and modification time of every file of a case."""
    listed: dict[str, list[Any]] = {}
    labelled = {} if case.label is None else {"label": (case.label, None)}
    images = {m: (image.path, image.channel) for m, image in case.images.items()}
    for kind, (path, channel) in (images | labelled).items():
        try:
            stat = path.stat()
        except OSError:
            continue  # `examine` reports it
        listed[kind] = [str(path.resolve()), channel, stat.st_size, stat.st_mtime_ns]
    return listed


def _lookup(entry: Path, listed: dict[str, list[Any]], cache: Path) -> Path | None:
    try:
        found = json.loads(entry.read_text())
    except (OSError, ValueError):
        return None
    folder = cache / "cases" / str(found.get("folder"))
    if found.get("files") != listed or not (folder / "case.json").is_file():
        return None
    return folder


def _store(reading: Reading, cache: Path, wanted: Preparation) -> Path:
    """Write the prepared case under a temporary name and rename it; return its folder."""
    content, label = reading.content_hash(), reading.label_hash()
    geometry = _geometry(reading, wanted)
    reference = reading.reference
    settings = {
        "content": content,
        "label": label,
        "modalities": reading.modality_hashes,
        "noted": reading.notices,  # for these files; equal voxels may have another header
        "geometry": asdict(geometry),
        "affine": reference.affine.tolist(),
        "header": blanked(reference.header).hex(),
        "synthetic": is_synthetic(reference.header),
        "convention": reading.case.convention.to_dict() if label else None,
        "normalisation": identified(wanted.normalisation),
    }
    if wanted.by_slice:
        settings["form"] = ["by slice"] + ["whole head"] * reading.shows_head
    key = combine([json.dumps(settings, sort_keys=True)])[:32]
    folder = cache / "cases" / key
    if (folder / "case.json").is_file():
        return folder
    with whole_folder(folder) as temporary:
        _write_arrays(reading, geometry, temporary, settings, wanted.normalisation)
    return folder


def _geometry(reading: Reading, wanted: Preparation) -> Geometry:
    reference = reading.reference
    orientation = orientation_of(reference.affine)
    assert reading.brain is not None  # a case without problems has a brain
    start, box = bounding_box(canonical_view(reading.brain, orientation))
    native_spacing = canonical_spacing(reference.spacing, orientation)
    return Geometry(
        native_shape=tuple(int(n) for n in reference.array.shape),
        orientation=orientation,
        start=start,
        box=box,
        native_spacing=native_spacing,
        spacing=wanted.grid(native_spacing),
    )


def _write_arrays(
    reading: Reading,
    geometry: Geometry,
    folder: Path,
    settings: dict[str, Any],
    normalisation: Normalisation,
) -> None:
    assert reading.brain is not None
    by_slice = "form" in settings
    # Files store axes in the opposite order; after this one copy all later reads are contiguous.
    brain = scored_voxels(np.ascontiguousarray(geometry.crop(reading.brain)), normalisation)
    image, stored = _image_to_fill(geometry.shape, by_slice)
    resized = resample_mask(brain, geometry) if geometry.resamples else brain

    def write(index_modality: tuple[int, str]) -> None:
        index, modality = index_modality
        if modality not in reading.images:
            image[index] = BACKGROUND
            return
        values = np.ascontiguousarray(geometry.crop(reading.images[modality].array))
        if reading.shows_head:  # the air around a head is not 0
            values = np.where(brain, values, np.zeros((), values.dtype))
        scored = normalise(values, brain, normalisation)
        image[index] = _resample_image(scored, brain, resized, geometry)

    with ThreadPoolExecutor(len(MODALITIES)) as pool:
        list(pool.map(write, enumerate(MODALITIES)))
    np.save(folder / "image.npy", stored)
    notices = list(reading.notices)
    areas = {"brain": resized.sum((0, 1)).tolist()}
    if reading.label is not None:
        boxed = np.ascontiguousarray(geometry.crop(reading.label))
        regions = reading.case.convention.to_regions(boxed)
        outside = int(np.count_nonzero(reading.label)) - int(np.count_nonzero(boxed))
        if outside:
            notices.append(f"{outside} labelled voxels lie outside the brain box")
        if geometry.resamples:
            regions = np.stack([geometry.resample(region) > 0.5 for region in regions])
        label = CANONICAL.from_regions(regions)
        if by_slice:
            np.save(folder / "label.npy", np.ascontiguousarray(to_slices(label)))
            areas["tumour"] = np.count_nonzero(label, axis=(0, 1)).tolist()
        else:
            np.save(folder / "label.npy", label)
            seed = int(settings["content"][:8], 16)
            np.save(folder / "samples.npy", region_samples(label, resized, seed))
    brain_ml = float(np.count_nonzero(brain) * np.prod(geometry.native_spacing) / 1000)
    described = settings | {"brain_ml": brain_ml, "notices": notices, "fill": BACKGROUND}
    described |= {"areas": areas} if by_slice else {}
    described["values"] = sorted(reading.values)
    write_atomically(folder / "case.json", json.dumps(described))


def _image_to_fill(shape: tuple[int, ...], by_slice: bool) -> tuple[Array, Array]:
    """An image (4, *shape) to be written to, and the array that holds it as it is stored."""
    if not by_slice:
        image = huge_pages.empty((len(MODALITIES), *shape), np.float16)
        return image, image
    stored = huge_pages.empty((shape[2], len(MODALITIES), shape[1], shape[0]), np.float16)
    return from_slices(stored), stored


def resample_mask(mask: npt.NDArray[np.bool_], geometry: Geometry) -> npt.NDArray[np.bool_]:
    """A mask on the prepared grid, by partial volume of at least one half."""
    return geometry.resample(mask) >= 0.5


def _resample_image(
    scored: npt.NDArray[np.float16],
    brain: npt.NDArray[np.bool_],
    resized: npt.NDArray[np.bool_],
    geometry: Geometry,
) -> Array:
    """An image on the prepared grid; the fill outside the brain does not bleed into it."""
    if not geometry.resamples:
        return scored
    share = geometry.resample(brain)
    inside = geometry.resample(np.where(brain, scored, 0)) / np.maximum(share, 1e-3)
    return np.where(resized, inside, BACKGROUND).astype(np.float16)
