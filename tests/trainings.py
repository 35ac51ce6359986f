"""Runs that several tests look at: each made once a session, when a test first asks for it."""

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import cli
from files import shared_lock
from tests.conftest import ROOT, SHRUNKEN, SHRUNKEN_SLICES

# With W&B, which takes seconds a run: one experiment of each kind of training and the stages of it.
LOGGED = ("dynunet", "segresnet", "fusion", "zhang2021_transition", "sam_t1")


class Trainings:
    """Experiments of the project, trained, tested and predicted with at a shrunken scale.

    Tests that run side by side in several processes share them: one makes a run, the others wait.
    What is returned is read only; a test that writes into a run takes a copy.

    Args:
        folder: working directory of the commands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def trained(self, name: str) -> Path:
        """Return the folder of an experiment's finished run; its stages are trained before it."""
        for stage in re.findall(r"experiments/(\w+)\.yaml", yaml.safe_dump(content(name)["model"])):
            self.trained(stage)
        overlay = SHRUNKEN_SLICES if has_slices(name) else SHRUNKEN
        base = ("--model.weights", "random") if name.startswith("sam_") else ()
        # --resume as an agent of a sweep gives it: there is nothing to resume yet
        self._once("fit", name, "--config", str(overlay), *base, "--resume")
        return only_run(self.folder / "runs", name)

    def tested(self, name: str) -> Path:
        """Return the folder of an experiment's finished run, with the scores of its test."""
        folder = self.trained(name)
        self._once("test", name)
        return folder

    def predicted(self, name: str) -> Path:
        """Return the folder of the masks that an experiment predicts."""
        self.trained(name)
        self._once("predict", name, "--output", f"predictions-{name}")
        return self.folder / f"predictions-{name}"

    def phantoms(self, name: str) -> Path:
        """Return the folder of the generated patients that an experiment has for data."""
        self.trained(name)
        overlay = SHRUNKEN_SLICES if has_slices(name) else SHRUNKEN
        made = yaml.safe_load(overlay.read_text())["data"]["init_args"]
        size = f"{made['phantom_patients']}x{made['phantom_spacing']:g}mm-seed0"
        (folder,) = (self.folder.parent / "cache" / "phantoms").glob(
            f"v*-{size}-exam" if has_slices(name) else f"v*-{size}"
        )
        return folder

    def printed(self, command: str, name: str) -> str:
        """Return what a command above printed for an experiment."""
        return self._printed(command, name).read_text()

    def copy(self, run: Path, home: Path) -> Path:
        """Copy a run to where a command finds it in the folder `home`; return the copy."""
        copy = home / run.relative_to(self.folder)
        with self._alone(run.parent.name):
            shutil.copytree(run, copy)
        return copy

    def _printed(self, command: str, name: str) -> Path:
        return self.folder / "printed" / f"{command}-{name}.txt"

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with shared_lock(self.folder / "printed" / f"{name}.lock"):
            yield

    def _once(self, command: str, name: str, *words: str) -> None:
        printed = self._printed(command, name)
        with self._alone(name):
            if printed.is_file():
                return
            config = ["--config", f"experiments/{name}.yaml"]
            with pytest.MonkeyPatch.context() as patched:
                patched.chdir(self.folder)
                patched.setenv("WANDB_MODE", "offline" if name in LOGGED else "disabled")
                status, text = lightning(command, *config, *words)
            assert status == 0, text
            printed.write_text(text)


def content(name: str) -> dict[str, Any]:
    """Return what the file of an experiment says."""
    return yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())


def has_slices(name: str) -> bool:
    """Whether an experiment is of the 2D study."""
    return content(name)["data"]["class_path"].endswith("RegisteredSliceDataModule")


def lightning(*words: str) -> tuple[int, str]:
    """Run a command in this process; return its exit status and all that it printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = cli.main([*words])
    return status, text.getvalue()


def only_run(runs: Path, name: str) -> Path:
    """Return the one run of an experiment in a folder of runs."""
    (folder,) = (path for path in (runs / name).iterdir() if path.is_dir())
    return folder
