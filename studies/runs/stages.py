"""Stages of a training: trained before it, in processes of their own."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from errors import InputError
from lightning_modules.callbacks.run_progress import RunBars
from studies.runs.environment import cores, is_main_process
from studies.runs.planning import Plan
from studies.runs.process import FOREIGN, stop
from studies.runs.run import Run
from studies.settings.command_line import ROOT


def begun_stage(plan: Plan) -> Run | None:
    """Return the run of a stage that was begun and interrupted, if any."""
    for stage in plan.stages.values():
        run = stage.run
        found = begun_stage(stage)
        # lock before state: a process that ends meanwhile writes "finished" before it unlocks
        if found is None and run.started and not run.is_locked() and not run.finished:
            found = run
        if found is not None:
            return found
    return None


def train_stages(plan: Plan, *, side_by_side: bool) -> None:
    """Train every upstream stage that has no finished run, in processes of their own.

    Args:
        plan: the training whose stages are wanted.
        side_by_side: train them at the same time, each with a share of the cores: on two cores
            this is about twice as fast as one after the other with both cores.

    Raises:
        InputError: when a stage fails.
    """
    for stage in plan.stages.values():
        train_stages(stage, side_by_side=side_by_side)
    wait_for_others(plan)
    pending = [stage for stage in plan.stages.values() if not stage.run.finished]
    for name, stage in plan.stages.items():
        state = "trained before" if stage.run.finished else "to be trained first"
        if is_main_process():
            print(f"Stage {name}: {state}, {stage.run.folder}", flush=True)
    if not pending:
        return
    share = max(1, cores() // len(plan.stages))  # also when only one of them is left
    groups = [pending] if side_by_side else [[stage] for stage in pending]
    for group in groups:
        _train_group(group, threads=share if side_by_side else None)
    if _alone() and not all(stage.run.finished for stage in pending):
        train_stages(plan, side_by_side=side_by_side)  # another process has just begun one


def _alone() -> bool:
    """Whether this training has one process only; ranks of one training share their stages."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) == 1


def _elsewhere(plan: Plan) -> bool:
    """Whether another process runs this training or has finished it."""
    return _alone() and (plan.run.is_locked() or plan.run.finished)


def wait_for_others(plan: Plan) -> None:
    """Wait for stages that other processes train, such as another agent of the same sweep."""
    for name, stage in plan.stages.items():
        if stage.run.finished or not _elsewhere(stage):
            continue
        print(f"Stage {name}: another process trains it, waiting: {stage.run.folder}", flush=True)
        while stage.run.is_locked():
            time.sleep(1)


def _train_group(group: list[Plan], threads: int | None) -> None:
    with ExitStack() as stack:
        processes = [start_stage(plan, index, threads, stack) for index, plan in enumerate(group)]
        bars = stack.enter_context(RunBars())
        for plan in group:
            bars.begin(plan.run.progress_file, plan.run.experiment)
        running = True
        while running:
            running = any(process.poll() is None for process in processes)
            for plan in group:
                bars.look(plan.run.progress_file, plan.run.experiment)
            failed = [
                plan
                for plan, one in zip(group, processes, strict=True)
                if one.poll() and not _elsewhere(plan)
            ]
            if failed:
                break  # the others are stopped and can be resumed
            time.sleep(0.25)
    if not failed and is_main_process():
        failed = [plan for plan in group if not plan.run.finished and not _elsewhere(plan)]
    if failed:
        raise InputError(_failure(failed[0]))


def start_stage(
    plan: Plan, index: int, threads: int | None, stack: ExitStack
) -> subprocess.Popen[bytes]:
    """Start the training of a stage as a process of its own, which ends with the stack.

    Args:
        plan: the stage.
        index: its number among those that are trained at the same time.
        threads: of the processor that it may use; None: as many as this process may.
        stack: holds its log file and ends it.
    """
    run = plan.run
    run.folder.mkdir(parents=True, exist_ok=True)
    run.progress_file.unlink(missing_ok=True)
    environment = {**os.environ, "GLIOFUSE_STAGE": "1"}
    # a W&B service of its own, as that of this process would keep a killed stage open; and a run of
    # its own where an agent of a W&B sweep started this process
    for name in FOREIGN:
        environment.pop(name, None)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    if "MASTER_PORT" in environment:  # from torchrun or SLURM: the stage needs its own rendezvous
        environment["MASTER_PORT"] = str(int(environment["MASTER_PORT"]) + 1 + index)
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    log = stack.enter_context(run.log_file.open("ab"))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "fit", *plan.line.words()],
        env=environment,
        stdin=subprocess.PIPE,  # closes when this process dies, even by SIGKILL: the stage stops
        stdout=log,
        stderr=log,
    )
    stack.callback(stop, process)
    return process


def _failure(plan: Plan) -> str:
    lines = plan.run.log_file.read_text(errors="replace").strip().splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "without output")
    message = last.strip().removeprefix("lightning fit: ").removesuffix(".")
    return (
        f"The stage {plan.run.experiment} stopped ({message}): its output is in "
        f"{plan.run.log_file}; mend the cause and repeat the command with --resume."
    )
