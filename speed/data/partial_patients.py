"""Dice on real patients of whom two modalities exist, for networks with and without dropout.

    python -m speed.data.partial_patients --run NAME=CHECKPOINT [...] \
        [--flair_t1 DIR] [--flair_t1ce DIR] [--complete DIR [--layout FILE]] [--out FILE]

Every checkpoint is tested with ``lightning test`` and ``--data.drop`` of the two modalities that
are missing. The folders are those of public collections: BraTS 2018 patients with FLAIR, T1 and a
mask of the whole tumour, and BraTS 2015 patients with z-scored FLAIR, T1ce and all labels.
Patients with all four modalities show what dropout costs where none is missing. Rows of other runs
that the file has are kept.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from datamodules.layouts.case_files import MODALITIES
from evaluation.metrics.means import column, nan_mean
from speed.data.phantom_transfer import score
from speed.record import named_paths, write_record
from studies.settings.command_line import ROOT


@dataclass(frozen=True)
class Collection:
    """File names of the two modalities and the label, the label's values, and scored regions."""

    images: dict[str, str]
    label: str
    labels: dict[str, Any]
    regions: tuple[str, ...]


COLLECTIONS = {
    "flair_t1": Collection(
        {"flair": "FLAIR.nii.gz", "t1": "T1.nii.gz"},
        "GT_W.nii.gz",
        {"oedema": 1, "necrosis": 2, "enhancing": 3},  # a mask of 1 alone
        ("WT",),
    ),
    "flair_t1ce": Collection(
        {"flair": "Flair_subtrMeanDivStd.nii.gz", "t1ce": "T1c_subtrMeanDivStd.nii.gz"},
        "OTMultiClass.nii.gz",
        {"necrosis": [1, 3], "oedema": 2, "enhancing": 4},
        ("WT", "TC", "ET"),
    ),
}


def laid_out(folder: Path, collection: Collection, place: Path) -> tuple[str, ...]:
    """Give every patient four modalities in `place`; return the options that read them.

    FLAIR turned upside down stands for a missing modality: it passes the checks of the data, and
    ``--data.drop`` keeps it from the network.
    """
    missing = [name for name in MODALITIES if name not in collection.images]
    for patient in sorted(path for path in folder.iterdir() if path.is_dir()):
        case = place / "patients" / patient.name
        case.mkdir(parents=True)
        for name, file in {**collection.images, "seg": collection.label}.items():
            (case / f"{name}.nii.gz").symlink_to((patient / file).resolve())
        if collection.regions == ("WT",):
            _split_whole_tumour(case / "seg.nii.gz")
        flair = nib.load(patient / collection.images["flair"])
        for power, name in enumerate(missing, start=1):
            values = -(flair.get_fdata(dtype=np.float32) ** power)
            nib.save(nib.Nifti1Image(values, flair.affine), case / f"{name}.nii.gz")
    layout = {
        "images": {name: "{case}/" + name + ".nii.gz" for name in MODALITIES},
        "label": "{case}/seg.nii.gz",
        "labels": collection.labels,
    }
    (place / "layout.yaml").write_text(yaml.safe_dump(layout))
    return (
        *("--data.root", str(place / "patients"), "--data.layout", str(place / "layout.yaml")),
        *("--data.drop", f"[{','.join(missing)}]"),
    )


def _split_whole_tumour(mask: Path) -> None:
    """Give two voxels of a mask of 1 the classes 2 and 3: WT, which alone is scored, stays.

    The 3D study takes no label of fewer than three classes.
    """
    image = nib.load(mask)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    labels[tuple(np.argwhere(labels)[:2].T)] = (2, 3)
    mask.unlink()
    nib.save(nib.Nifti1Image(labels, image.affine), mask)


def main() -> None:
    """Score every checkpoint on every collection and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=CHECKPOINT")
    for name in COLLECTIONS:
        parser.add_argument(f"--{name}", type=Path, metavar="DIR")
    parser.add_argument("--complete", type=Path, metavar="DIR")
    parser.add_argument("--layout", type=Path, metavar="FILE", help="of --complete")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/partial_patients.json")
    arguments = vars(parser.parse_args())
    runs = named_paths(arguments["run"])
    out = arguments["out"]
    table = json.loads(out.read_text())["dice"] if out.is_file() else {}
    table |= {run: {} for run, _ in runs}
    with tempfile.TemporaryDirectory() as place:
        groups = {
            name: (one.regions, laid_out(arguments[name], one, Path(place) / name))
            for name, one in COLLECTIONS.items()
            if arguments[name] is not None
        }
        if arguments["complete"] is not None:
            layout = arguments["layout"]
            named = () if layout is None else ("--data.layout", str(layout.resolve()))
            root = ("--data.root", str(arguments["complete"].resolve()))
            groups["complete"] = ("WT", "TC", "ET"), (*root, *named)
        for name, (regions, options) in groups.items():
            for run, checkpoint in runs:
                table[run][name] = dice_of(score(checkpoint, *options), regions)
                print(name, run, table[run][name]["mean"], flush=True)
    write_record(out, {"dice": table})


def dice_of(rows: list[dict[str, Any]], regions: tuple[str, ...]) -> dict[str, Any]:
    """Return the mean Dice of every region, and that of every patient."""
    dice = {
        row["case_id"]: {region: round(row[f"dice/{region}"], 4) for region in regions}
        for row in rows
    }
    mean = {region: round(nan_mean(column(rows, f"dice/{region}")), 4) for region in regions}
    return {"mean": mean, "patients": dice}


if __name__ == "__main__":
    main()
