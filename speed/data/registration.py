"""Registration of hospital exams: error against known motion, and seconds of one core a pair.

    python -m speed.data.registration [--exam DIR] [--patients 12] [--out FILE.json]

Phantom exams whose true motion is known (2 mm and 1 mm simulations), and one exam of real scans
where there is one: registered to T2, and again from where known motions of up to 20 degrees and
20 mm put it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its customary name

from datamodules.exams.sequence_names import find_exams
from datamodules.layouts.case_files import CaseFiles
from datamodules.nifti.volume import Volume
from datamodules.phantom.simulation import generate_cohort
from datamodules.registration.align import align
from datamodules.registration.scan import Scan, read_scan
from speed.timing import hardware

GOAL_MM, GOAL_SHARE, GOAL_SECONDS = 1.0, 0.95, 4.0
_LPS = np.diag([-1.0, -1.0, 1.0])


def phantom_errors(spacing: float, patients: int, seed: int) -> list[dict[str, Any]]:
    """Error of every pair of a phantom cohort, mean over T2's brain, mm."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "exams")
        generate_cohort(root, patients, seed=seed, layout="exam", spacing=spacing, progress=False)
        for exam in find_exams(root):
            fixed = read_scan("t2", exam.images["t2"].path)
            for modality in ("t1", "t1ce", "flair"):
                start = time.process_time()
                path = exam.images[modality].path
                result = align(fixed, read_scan(modality, path))
                seconds = time.process_time() - start
                truth = sitk.ReadTransform(str(path.parent / f"true_{modality}_to_t2.tfm"))
                error = distance(result.transform, truth, fixed.points)
                pairs.append(
                    {"modality": modality, "error_mm": error, "seconds": seconds}
                    | {"degrees": result.degrees, "shift_mm": result.shift_mm}
                    | {"flagged": bool(result.flags)}
                )
    return pairs


def real_consistency(exam: CaseFiles, motions: int) -> list[dict[str, Any]]:
    """Registration of a real exam, and how far apart the results lie after known motions."""
    rng = np.random.default_rng(0)
    fixed = read_scan("t2", exam.images["t2"].path)
    pairs = []
    for modality in ("t1", "t1ce", "flair"):
        start = time.process_time()
        scan = read_scan(modality, exam.images[modality].path)
        base = align(fixed, scan)
        seconds = time.process_time() - start
        errors = []
        for _ in range(motions):
            motion = sitk.Euler3DTransform()
            motion.SetCenter(fixed.centre.tolist())
            axis, way = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
            motion.SetRotation(*(np.deg2rad(rng.uniform(5, 20)) * axis).tolist())
            motion.SetTranslation((rng.uniform(5, 20) * way).tolist())
            found = align(fixed, Scan(modality, moved(scan.volume, motion)))
            expected = sitk.CompositeTransform([motion, base.transform])
            errors.append(distance(found.transform, expected, fixed.points))
        pairs.append(
            {"modality": modality, "seconds": seconds, "apart_mm": max(errors)}
            | {"degrees": base.degrees, "shift_mm": base.shift_mm, "flagged": bool(base.flags)}
        )
    return pairs


def distance(first: Any, second: Any, points: np.ndarray) -> float:
    """Mean mm between where two transforms put the points."""
    apart = [
        np.subtract(first.TransformPoint(p.tolist()), second.TransformPoint(p.tolist()))
        for p in points[::10]
    ]
    return float(np.linalg.norm(apart, axis=1).mean())


def moved(volume: Volume, motion: Any) -> Volume:
    """The same voxels with the head elsewhere: the motion is applied to the header."""
    matrix = np.eye(4)
    matrix[:3, :3] = _LPS @ np.reshape(motion.GetMatrix(), (3, 3)) @ _LPS
    matrix[:3, 3] = _LPS @ np.asarray(motion.TransformPoint((0.0, 0.0, 0.0)))
    return Volume(volume.array, matrix @ volume.affine, volume.header)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exam", type=Path, help="folder of one real exam")
    parser.add_argument("--patients", type=int, default=12, help="phantoms at 2 mm; a third at 1")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    content: dict[str, Any] = {
        "title": "registration of exams to T2",
        "hardware": hardware(),
        "versions": {"SimpleITK": sitk.Version_VersionString(), "numpy": np.__version__},
        "goals": {"error_mm": GOAL_MM, "share": GOAL_SHARE, "seconds_a_pair": GOAL_SECONDS},
        "figures": {},
    }
    print(f"{content['title']} ({content['hardware']}), one core")
    for spacing, patients in ((2.0, options.patients), (1.0, max(1, options.patients // 3))):
        pairs = phantom_errors(spacing, patients, seed=31)
        errors = [pair["error_mm"] for pair in pairs]
        share = float(np.mean(np.array(errors) <= GOAL_MM))
        seconds = float(np.median([pair["seconds"] for pair in pairs]))
        median, high, most = np.percentile(errors, [50, 95, 100])
        print(
            f"  phantoms at {spacing:g} mm, {len(pairs)} pairs: median {median:.2f} mm, 95 % "
            f"{high:.2f}, largest {most:.2f}; {share:.0%} within {GOAL_MM:g} mm (goal "
            f"{GOAL_SHARE:.0%}); {seconds:.2f} s a pair; "
            f"{sum(pair['flagged'] for pair in pairs)} flagged"
        )
        content["figures"][f"phantom_{spacing:g}mm"] = {
            "median_mm": median, "p95_mm": high, "largest_mm": most, "share": share,
            "seconds_a_pair": seconds, "pairs": pairs,
        }  # fmt: skip
    if options.exam is not None:
        pairs = real_consistency(find_exams(options.exam)[0], motions=4)
        for pair in pairs:
            print(
                f"  real {pair['modality']}: {pair['seconds']:.2f} s (goal {GOAL_SECONDS:g}), "
                f"{pair['degrees']:.1f} degrees and {pair['shift_mm']:.1f} mm; after known motions "
                f"the results lie at most {pair['apart_mm']:.2f} mm apart"
            )
        content["figures"]["real"] = {"pairs": pairs}
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
