"""One real step of the paper's scale on this machine: time and peak memory.

    python -m speed.commands.paper_scale_step --data DIR [--experiments NAME ...]
        [--precision 32-true] [--out speed/results/paper_scale_step.json]

``lightning fit`` with experiments/scale/brats3d.yaml on a folder of BraTS patients, rehearsed
(fast_dev_run): the base networks, one training step on a 128^3 patch at 1 mm, then one validation
patient by sliding window. Nothing is kept. Figures in the file that are not measured again stay.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speed.memory import peak_memory_until_end
from speed.record import write_record
from studies.settings.command_line import ROOT

EXPERIMENTS = (
    *("dynunet", "segresnet", "fusion"),
    *("zhang2021_transition", "zhang2021", "zhou2022", "akbar2022"),
)


def write(figures: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the figures measured so far."""
    content = {
        "what": "start-up, preparing the patients (first experiment only), one step, one patient",
        "figures": figures,
    }
    write_record(path, content)


def main() -> None:
    """Rehearse every stage at the paper's scale and write its time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/paper_scale_step.json")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    if arguments.out.is_file():
        figures = json.loads(arguments.out.read_text())["figures"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "WANDB_MODE": "offline", "GLIOFUSE_CACHE": f"{folder}/cache"}
        for name in arguments.experiments:
            config = ["--config", f"experiments/{name}.yaml"]
            scale = ["--config", "experiments/scale/brats3d.yaml"]
            data = ["--data.root", str(arguments.data.resolve())]
            command = [sys.executable, str(ROOT / "cli.py"), "fit", *config, *scale, *data]
            began = time.monotonic()
            process = subprocess.Popen(
                [
                    *command,
                    "--trainer.fast_dev_run",
                    "1",
                    "--trainer.precision",
                    arguments.precision,
                ],
                cwd=folder,
                env=environment,
            )
            peak = peak_memory_until_end(process)
            if process.wait():
                sys.exit(f"{name} stopped with status {process.returncode}")
            seconds = time.monotonic() - began
            entry = name if arguments.precision == "bf16-mixed" else f"{name} {arguments.precision}"
            figures[entry] = {
                "seconds_in_all": round(seconds, 1),
                "peak_memory_gb": round(peak, 2),
                "load_average": round(os.getloadavg()[0], 1),  # of all processes on the machine
            }
            print(f"{name}: {seconds:.0f} s in all, {peak:.1f} GB", flush=True)
            write(figures, arguments.out)


if __name__ == "__main__":
    main()
