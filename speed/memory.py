"""Peak memory of a command with everything it starts."""

import subprocess
import time

import psutil


def peak_memory_until_end(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process to end; return the largest memory of it and its children together, in GB.

    The proportional set size counts a page that several processes share once, not once a process.
    """
    peak = 0.0
    while process.poll() is None:
        total = 0
        try:
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in family:
            try:
                total += member.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak = max(peak, total / 1e9)
        time.sleep(1.0)
    return peak
