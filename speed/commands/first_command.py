"""An experiment's command from nothing: wall time, peak memory, Dice on held-out phantoms.

    python -m speed.commands.first_command [--out speed/results/first_command.json] [FIT OPTIONS]
    python -m speed.commands.first_command --config experiments/sam_adapter.yaml --out FILE

Without --config it is the README's first command. Cohort generation, registration where there is
some, and every upstream stage are included; installation is not. Runs and cache go to a temporary
folder, so nothing made before is reused.
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
DICE = {"experiments/fusion.yaml": 0.80}  # of the whole tumour, at least


def main() -> None:
    """Run fit and test in a fresh folder and write their time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/first_command.json")
    parser.add_argument("--config", default="experiments/fusion.yaml")
    arguments, extra = parser.parse_known_args()
    extra = [word for word in extra if word != "--"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GLIOFUSE_CACHE": f"{folder}/cache", "WANDB_MODE": "offline"}
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
    goal = DICE.get(arguments.config)
    limits = LIMITS if goal is None else {**LIMITS, "dice_WT": goal}
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
        f"{minutes:.1f} min (limit {LIMITS['minutes']:.0f}), {peak:.1f} GB (limit "
        f"{LIMITS['peak_memory_gb']:.0f}), whole-tumour Dice {means['WT']:.3f}"
        + ("" if goal is None else f" (at least {goal:.2f})")
    )


if __name__ == "__main__":
    main()
