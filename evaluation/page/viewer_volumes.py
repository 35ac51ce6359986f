"""Volumes of patients, packed into the report for its viewer in the browser."""

import base64
import gzip
from typing import Any

import numpy as np

from datamodules.layouts.conventions import REGIONS
from evaluation.figures.overlay import MODALITY_NAMES, grey_window
from evaluation.figures.viewed_case import ViewedCase

MOST_VOXELS = 4_000_000  # of one volume: the brain of a BraTS patient at 1 mm fits
MARGIN = 3  # voxels around the brain


def packed(case: ViewedCase) -> dict[str, Any]:
    """Return a patient as plain types for ``viewer.js``.

    Volumes are cropped to the brain, turned to R, A, S, and stored x fastest as gzipped bytes in
    base64: grey 1 to 255 with 0 outside the brain; masks with bit 0 for WT, 1 for TC, 2 for ET.
    """
    case = case.turned()
    inside = np.logical_or.reduce([image != 0 for image in case.images.values()])
    for masks in (case.reference, *case.predictions.values()):
        inside |= masks[0]
    box = _box(inside)
    kept, spacing = _thinned(box, case.spacing)
    reference = np.asarray(case.reference[0][kept])
    shown = reference if reference.any() else inside[kept]
    start = [
        int(np.argmax(shown.sum(axis=tuple(other for other in range(3) if other != axis))))
        for axis in range(3)
    ]
    thinned = any(new > old for new, old in zip(spacing, case.spacing, strict=True))
    return {
        "id": case.case_id,
        "place": case.place,
        "synthetic": case.synthetic,
        "shape": list(shown.shape),
        "spacing": [round(float(mm), 4) for mm in spacing],
        "start": start,
        "regions": list(REGIONS[: len(case.reference)]),
        "note": "shown at a coarser grid than scored" if thinned else "",
        "images": [
            {"name": MODALITY_NAMES.get(name, name), "bytes": _encoded(_grey(image)[kept])}
            for name, image in case.images.items()
        ],
        "reference": _encoded(_bits(case.reference)[kept]),
        "predictions": [
            {
                "system": name,
                "bytes": _encoded(_bits(found)[kept]),
                "scores": {
                    region: round(value, 3) for region, value in case.scores.get(name, {}).items()
                },
            }
            for name, found in case.predictions.items()
        ],
    }


def _box(inside: np.ndarray) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        places = np.flatnonzero(inside.any(axis=tuple(o for o in range(3) if o != axis)))
        first, last = (places[0], places[-1]) if len(places) else (0, inside.shape[axis] - 1)
        stop = min(inside.shape[axis], int(last) + 1 + MARGIN)
        box.append(slice(max(0, int(first) - MARGIN), stop))
    return tuple(box)


def _thinned(
    box: tuple[slice, ...], spacing: tuple[float, ...]
) -> tuple[tuple[slice, ...], tuple[float, ...]]:
    """Return the box with steps, and the spacing they give: the finest axis is thinned first."""
    lengths = [part.stop - part.start for part in box]
    steps = [1, 1, 1]
    while np.prod([-(-n // step) for n, step in zip(lengths, steps, strict=True)]) > MOST_VOXELS:
        finest = int(np.argmin([mm * step for mm, step in zip(spacing, steps, strict=True)]))
        steps[finest] += 1
    kept = tuple(slice(p.start, p.stop, step) for p, step in zip(box, steps, strict=True))
    return kept, tuple(mm * step for mm, step in zip(spacing, steps, strict=True))


def _grey(image: np.ndarray) -> np.ndarray:
    low, high = grey_window(image)
    grey = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    return np.where(image != 0, 1 + np.round(254 * grey), 0).astype(np.uint8)


def _bits(masks: np.ndarray) -> np.ndarray:
    total = np.zeros(masks.shape[1:], np.uint8)
    for bit, mask in enumerate(masks):
        total |= np.asarray(mask, dtype=np.uint8) << bit
    return total


def _encoded(volume: np.ndarray) -> str:
    raw = np.asarray(volume, dtype=np.uint8).tobytes(order="F")
    return base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode()
