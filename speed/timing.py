"""Timing of two implementations in turns, and the report of their ratio."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

WARM_UP = 3  # turns that fill caches and are not counted


def take_turns(
    own: Callable[[int], object], peer: Callable[[int], object], repeats: int
) -> dict[str, float]:
    """Return median and mean seconds of both, measured in turns, and the peer's over ours."""
    seconds: dict[str, list[float]] = {"own": [], "peer": []}
    for turn in range(repeats + WARM_UP):
        for name, way in (("own", own), ("peer", peer)):
            start = time.perf_counter()
            way(turn)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    means = {f"{name}_mean": statistics.fmean(values) for name, values in seconds.items()}
    return {
        **medians,
        **means,
        "ratio": medians["peer"] / medians["own"],
        "ratio_of_means": means["peer_mean"] / means["own_mean"],
        "repeats": repeats,
    }


def hardware() -> str:
    """The machine in general terms: cores, processor, accelerator."""
    model = platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = [line for line in information.read_text().splitlines() if "model name" in line]
        model = names[0].split(":", 1)[1].strip() if names else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores {model}, {gpu}"


def write_rows(out: Path | None, what: str, threads: int, rows: list[dict[str, Any]]) -> None:
    """Write rows of figures as JSON with the machine they come from, where `out` is given."""
    if out is None:
        return
    content = {
        "what": what,
        "hardware": f"{hardware()}, {threads} threads",
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=2) + "\n")


def report(
    title: str,
    figures: Mapping[str, Mapping[str, float]],
    goals: Mapping[str, float],
    out: Path | None,
    costs: Mapping[str, Mapping[str, float]] | None = None,
    peer: str = "MONAI",
) -> None:
    """Print one line a figure; write them all as JSON where `out` is given.

    Args:
        title: First line.
        figures: Measurements of `take_turns` against the peer, by name.
        goals: The ratio that is aimed at, for each of them.
        out: JSON file.
        costs: Measurements of `take_turns` against another way of this repository, by name.
        peer: Name of the peer.
    """
    print(f"{title} ({hardware()})")
    for name, figure in figures.items():
        print(
            f"  {name}: {figure['own']:.4f} against {peer} {figure['peer']:.4f}, "
            f"{figure['ratio']:.1f} times as fast (goal {goals[name]:g}; of the means "
            f"{figure['ratio_of_means']:.1f})"
        )
    for name, cost in (costs or {}).items():
        print(
            f"  {name}: {cost['own']:.4f} against {cost['peer']:.4f}, {1 / cost['ratio']:.2f} "
            f"times as long (of the means {1 / cost['ratio_of_means']:.2f})"
        )
    if out is not None:
        import monai

        content: dict[str, Any] = {
            "title": title,
            "hardware": hardware(),
            "versions": {
                "torch": torch.__version__,
                "monai": monai.__version__,
                "numpy": np.__version__,
            },
            "goals": dict(goals),
            "figures": {name: dict(figure) for name, figure in figures.items()},
            "costs": {name: dict(cost) for name, cost in (costs or {}).items()},
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=2) + "\n")
