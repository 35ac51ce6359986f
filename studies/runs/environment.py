"""Environment of a run: versions, git revision, hardware, memory."""

import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from files import cores
from studies.settings.command_line import ROOT

PACKAGES = ("torch", "lightning", "monai", "torchmetrics", "numpy", "nibabel", "scipy", "gliofuse")
PREPARING = ("simpleitk",)  # registers raw exams; absent where they come registered


def is_main_process() -> bool:
    """Whether this process is rank zero, before any process group exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect the result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    for package in PREPARING:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_revision() -> dict[str, Any]:
    """Return the commit and whether files are changed; empty outside of git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def hardware() -> dict[str, Any]:
    """Return processor, cores, threads and accelerators of this machine."""
    import psutil
    import torch

    cuda = range(torch.cuda.device_count())
    return {
        "processor": _processor_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "accelerators": [torch.cuda.get_device_name(index) for index in cuda],
    }


def other_hardware(before: Mapping[str, Any]) -> list[str]:
    """Return what of earlier `hardware` is other on this machine and may change last digits."""
    now = hardware()
    return [
        f"{name} {before[name]} then, {now[name]} now"
        for name in ("processor", "threads", "accelerators")
        if name in before and before[name] != now[name]
    ]


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_gb() -> dict[str, float]:
    """Return the peak resident memory of this process, and of each accelerator, in GB."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    for index in range(torch.cuda.device_count()):
        peak[f"cuda:{index}"] = torch.cuda.max_memory_allocated(index) / 1e9
    return {name: round(value, 2) for name, value in peak.items()}
