"""Child processes: variables that they do not inherit, and how they end."""

import os
import subprocess
import threading

from studies.settings.command_line import ROOT

FOREIGN = ("WANDB_SERVICE", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


def python_path() -> str:
    """Return the ``PYTHONPATH`` of a process that imports this project from wherever it starts."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and wait for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        process.stdin.close()


def stop_with_parent() -> None:
    """End this stage when its parent process is gone, for whatever reason."""

    def watch() -> None:
        # Read the descriptor: at exit Python aborts if a thread still holds sys.stdin's buffer.
        while os.read(0, 1):
            pass
        os._exit(70)

    threading.Thread(target=watch, daemon=True).start()
