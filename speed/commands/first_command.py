"""An experiment's command from nothing: wall time, peak memory, Dice on held-out phantoms.

    python -m speed.commands.first_command [--out speed/results/first_command.json] [FIT OPTIONS]
    python -m speed.commands.first_command --config experiments/sam_adapter.yaml --out FILE

Without --config it is the README's first command. Cohort generation, registration and the download
of published weights where there are any, and every upstream stage are included; installation is
not. Runs, cache and weights go to a temporary folder, so nothing made before is reused.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed.memory import peak_memory_until_end
from speed.record import CLI, write_record
from studies.settings.command_line import ROOT

LIMITS = {"minutes": 8.0, "peak_memory_gb": 6.0}
OWN_LIMITS = {  # Dice is that of the whole tumour, at least
    "experiments/fusion.yaml": {"dice_WT": 0.80},
    "experiments/sam_adapter.yaml": {"minutes": 6.0},
}


def main() -> None:
    """Run fit and test in a fresh folder and write their time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/first_command.json")
    parser.add_argument("--config", default="experiments/fusion.yaml")
    arguments, extra = parser.parse_known_args()
    extra = [word for word in extra if word != "--"]
    with tempfile.TemporaryDirectory() as folder:
        places = {"GLIOFUSE_CACHE": f"{folder}/cache", "TORCH_HOME": f"{folder}/torch"}
        environment = {**os.environ, **places, "WANDB_MODE": "offline"}
        command = [*CLI, "fit", "--config", arguments.config, *extra]
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=environment)
        peak = peak_memory_until_end(process)
        status = process.wait()
        minutes = (time.monotonic() - began) / 60
        if status:
            sys.exit(f"the command stopped with status {status}")
        subprocess.run(
            [*CLI, "test", "--config", arguments.config], cwd=folder, env=environment, check=True
        )
        (table,) = Path(folder).glob(f"runs/{Path(arguments.config).stem}/*/per_case.csv")
        with table.open(newline="") as handle:
            rows = list(csv.DictReader(handle))
    regions = [name for name in ("WT", "TC", "ET") if f"dice/{name}" in rows[0]]
    means = {name: sum(float(row[f"dice/{name}"]) for row in rows) / len(rows) for name in regions}
    limits = {**LIMITS, **OWN_LIMITS.get(arguments.config, {})}
    goal = limits.get("dice_WT")
    result = {
        "command": ["lightning", *command[2:]],
        "minutes": round(minutes, 2),
        "peak_memory_gb": round(peak, 2),
        "held_out_phantoms": len(rows),
        "dice": {name: round(value, 4) for name, value in means.items()},
        "limits": limits,
    }
    write_record(arguments.out, result)
    print(
        f"{minutes:.1f} min (limit {limits['minutes']:.0f}), {peak:.1f} GB (limit "
        f"{limits['peak_memory_gb']:.0f}), whole-tumour Dice {means['WT']:.3f}"
        + ("" if goal is None else f" (at least {goal:.2f})")
    )


if __name__ == "__main__":
    main()
