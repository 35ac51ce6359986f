"""The sbatch file, with an `srun` that records its arguments."""

import os
import subprocess

from studies.settings.command_line import CommandLine
from tests.conftest import ROOT

FILE = ROOT / "experiments" / "cluster" / "slurm.sbatch"


def test_sbatch_starts_one_task_a_gpu_and_goes_on_where_it_was(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$WRITTEN"\n')
    srun.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "WRITTEN": str(tmp_path / "words"),
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "4",
    }
    words = ["--config", "experiments/scale/slices2d.yaml", "--data.root", "/data/two words"]
    subprocess.run(["bash", str(FILE), *words], env=environment, check=True)
    program, command, *given = (tmp_path / "words").read_text().splitlines()
    assert (program, command) == ("lightning", "fit")
    line = CommandLine.parse(given)
    assert line.configs == ["experiments/scale/slices2d.yaml"]
    assert line.pop("data.root") == ["/data/two words"]
    assert not line.has("data.batch_size")  # it would win over the 24 of the file
    assert line.pop("trainer.num_nodes") == ["2"]
    assert line.pop("trainer.devices") == ["4"]
    assert line.pop("trainer.strategy") == ["ddp"]
    assert line.has("resume")


def test_sbatch_asks_for_as_many_tasks_as_gpus():
    asked = dict(
        row.removeprefix("#SBATCH --").split("=")
        for row in FILE.read_text().splitlines()
        if row.startswith("#SBATCH")
    )
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]  # what Lightning expects
