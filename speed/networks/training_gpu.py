"""Training volumes a second on one GPU, through the trainer that `lightning fit` builds.

    python -m speed.networks.training_gpu [--data DIR] [--minutes 10] [--out FILE.json]

Every row is a rehearsal of `fit` (``fast_dev_run``) in a process of its own: the paper's scale of
128^3 voxels at batch 2, augmented patches from the loader processes, validation of one patient at
the end. Counted are the steps after the first ones, with the waits for their batches. Rows for
which no time is left are left out. Without `--data` the patients are phantoms. The peer is the best
published figure for a 3D U-Net of this family on BraTS: 27.5 volumes/s on one A100, on that
author's own network and input pipeline.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from speed.record import CLI, write_record
from studies.settings.command_line import ROOT

BATCH = 2
WARM_UP, STEPS = 10, 40  # the first ones build memory, try out kernels, and compile
MINUTES = 10.0
PEER = 27.5
SCALE = ("--config", "experiments/scale/brats3d.yaml", "--data.batch_size", str(BATCH))
ROWS = {
    "DynUNet": ("dynunet",),
    "fusion stage": ("fusion",),
    "DynUNet, augmented as nnU-Net": ("dynunet", "--data.augmentation", "nnunet"),
    "DynUNet, deterministic": ("dynunet", "--trainer.deterministic", "warn"),
    "DynUNet, compiled": ("dynunet", "--trainer.compile", "true"),
}


def measure(
    name: str, words: Sequence[str], warm_up: int, steps: int, seconds: float
) -> dict[str, Any]:
    """Return what a rehearsal of `fit` found, or why it found nothing, as ``fault``.

    Args:
        name: experiment.
        words: further words of its command.
        warm_up: steps that are not counted.
        steps: steps that are.
        seconds: after which it is stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        found, overlay = Path(folder, "steps.json"), Path(folder, "overlay.yaml")
        times = {
            "class_path": "speed.networks.step_times.StepTimes",
            "init_args": {"out": str(found)},
        }
        settings = {"fast_dev_run": warm_up + steps, "logger": False, "callbacks+": [times]}
        overlay.write_text(yaml.safe_dump({"trainer": settings}))
        files = ["--config", f"experiments/{name}.yaml"]
        command = [*CLI, "fit", *files, *words, "--config", str(overlay)]
        try:
            done = subprocess.run(
                [*command, "--runs_dir", folder],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"fault": f"not done in {seconds:.0f} s"}
        if done.returncode or not found.is_file():
            return {"fault": (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]}
        return summarise(json.loads(found.read_text()), warm_up)


def summarise(found: dict[str, Any], warm_up: int) -> dict[str, Any]:
    """Return volumes a second, and the share of the time that was a wait for batches."""
    waits = found["waits"][warm_up:]
    whole = sum(found["steps"][warm_up:]) + sum(waits)
    return {
        "volumes_per_second": BATCH * len(waits) / whole,
        "waiting": sum(waits) / whole,
        "peak_gb": found["peak_gb"],
        "loader_processes": found["loaders"],
    }


def main() -> int:
    """Measure every row that there is time for, print the ratio to the peer, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder of labelled BraTS cases; default phantoms"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all rows together")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/training_gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "speed/networks/training_gpu.py measures training on an NVIDIA GPU and found none: "
            "run it on a machine with CUDA.",
            file=sys.stderr,
        )
        return 1
    began, rows = time.monotonic(), {}
    patients = ["--data.phantom_patients", "10"]
    if options.data:
        patients = ["--data.root", str(options.data.resolve())]
    for row, (name, *words) in ROWS.items():
        left = 60 * options.minutes - (time.monotonic() - began)
        rows[row] = measure(name, [*SCALE, *words, *patients], WARM_UP, STEPS, max(left, 1.0))
        print(f"{row}: {rows[row]}", flush=True)
    content = {"what": f"training at the paper's scale, batch {BATCH}, {STEPS} steps", "rows": rows}
    if best := rows["DynUNet"].get("volumes_per_second"):
        print(f"DynUNet against {PEER} volumes/s published for one A100: {best / PEER:.2f} x")
        content["dynunet_over_peer"] = best / PEER
    write_record(options.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
