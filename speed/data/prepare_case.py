"""Preparing one real case, against MONAI's LoadImaged and NormalizeIntensityd.

    python -m speed.data.prepare_case --data DIR [--out FILE.json]

Ours reads five gzipped NIfTI files, checks them, crops, normalises and writes the cached case;
MONAI's reads the four images and normalises them in memory, without check, label or cache.
"""

import argparse
import tempfile
from pathlib import Path

from monai.transforms import Compose, LoadImaged, NormalizeIntensityd

from datamodules.cases.cache import prepare_cases
from datamodules.layouts.case_files import MODALITIES
from datamodules.patients.find import find_cases
from speed.timing import report, take_turns


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BraTS cases")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    cases = find_cases(options.data)
    peer = Compose(
        [
            LoadImaged(MODALITIES, ensure_channel_first=True),
            NormalizeIntensityd(MODALITIES, nonzero=True),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:

        def own(i: int) -> object:
            case = cases[i % len(cases)]
            return prepare_cases([case], Path(folder, str(i)), 1.0, progress=False)

        def monai(i: int) -> object:
            images = cases[i % len(cases)].images
            return peer({m: str(images[m].path) for m in MODALITIES})

        figures = {"prepare": take_turns(own, monai, options.repeats)}
    report("one case, seconds", figures, {"prepare": 2.0}, options.out)


if __name__ == "__main__":
    main()
