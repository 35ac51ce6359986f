"""Global attention against the plain formula: seconds and additional memory, forward and backward.

    python -m speed.networks.global_attention                   all rows and ratios
    python -m speed.networks.global_attention --only exact 32   one row as JSON

Every row runs in a fresh process, whose peak resident memory is then that row's own.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from fusion import GlobalFusionAttention
from studies.settings.command_line import ROOT

CHANNELS = 16
THREADS = 2
# Attention, side in voxels, repeats; the quickest counts, being disturbed least by other programs.
ROWS = [
    ("naive", 16, 25),
    ("exact", 16, 25),
    ("naive", 24, 5),
    ("exact", 24, 5),
    ("exact", 32, 2),
    ("pooled", 48, 5),
]
RESULTS = ROOT / "speed/results/global_attention.json"

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return (softmax(Q K^T / sqrt(d)) V) * V as written, matrix and all; (B, C, D, H, W)."""
    queries, keys, values = (one.flatten(2).transpose(1, 2) for one in (query, key, value))
    weights = torch.softmax(queries @ keys.transpose(1, 2) / math.sqrt(query.shape[1]), dim=-1)
    return (weights @ values).transpose(1, 2).reshape(value.shape) * value


def implementation(name: str) -> Attention:
    """Return the attention of a row: `naive`, `exact` or `pooled` (to 8^3 cells)."""
    if name == "naive":
        return naive
    return GlobalFusionAttention("exact" if name == "exact" else "pooled", kv_grid=8)


def measure(name: str, side: int, repeats: int) -> dict[str, Any]:
    """Return one row: quickest forward and backward in seconds, peak additional megabytes."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    attend = implementation(name)
    shape = (1, CHANNELS, side, side, side)
    query, key, value = (torch.randn(shape, requires_grad=True) for _ in range(3))
    weight = torch.randn(shape)
    before = psutil.Process().memory_info().rss
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        (attend(query, key, value) * weight).sum().backward()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            peak = peak_memory()
    return {
        "attention": name,
        "side": side,
        "tokens": side**3,
        "seconds": min(seconds),
        "additional_mb": (peak - before) / 1e6,
    }


def peak_memory() -> int:
    """Return this process's peak resident memory in bytes, as Linux counts it.

    It is not `ru_maxrss`, which a process inherits from its parent.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status: this script measures memory on Linux only")


def processor() -> str:
    """Return the processor's model name, where Linux states it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Measure all rows, print them with the ratios, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs=2, metavar=("ATTENTION", "SIDE"))
    parser.add_argument("--repeats", type=int, default=5, help="of --only")
    arguments = parser.parse_args()
    if arguments.only:
        name, side = arguments.only
        print(json.dumps(measure(name, int(side), arguments.repeats)))
        return
    rows = []
    print(f"{'attention':10}{'side':>6}{'tokens':>9}{'seconds':>10}{'additional MB':>15}")
    for name, side, repeats in ROWS:
        command = [sys.executable, __file__, "--only", name, str(side)]
        command += ["--repeats", str(repeats)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        rows.append(row)
        print(
            f"{name:10}{side:6}{row['tokens']:9}{row['seconds']:10.3f}{row['additional_mb']:15.0f}",
            flush=True,
        )
    times = {(row["attention"], row["side"]): row["seconds"] for row in rows}
    ratios = {side: times["naive", side] / times["exact", side] for side in (16, 24)}
    for side, ratio in ratios.items():
        print(
            f"fused against naive at {side}^3 tokens, forward and backward: {ratio:.1f} x as fast"
        )
    RESULTS.write_text(
        json.dumps(
            {
                "hardware": f"{processor()}, {THREADS} threads",
                "load_average": psutil.getloadavg()[0],
                "torch": torch.__version__,
                "setting": f"batch 1, {CHANNELS} channels, float32, forward and backward",
                "rows": rows,
                "naive_over_exact": {f"{side}^3": ratio for side, ratio in ratios.items()},
            },
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
