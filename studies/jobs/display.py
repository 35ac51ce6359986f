"""What a study shows while it runs: a line a job, bars in a terminal."""

from typing import Any

from rich.console import Console
from rich.progress import TaskID

from lightning_modules.callbacks.run_progress import draws_bars, make_progress, read_state
from studies.jobs.graph import Job


class Display:
    """Lines about jobs that begin and end; in a terminal also a bar for each that runs."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.bars = make_progress(self.console) if draws_bars(self.console) else None
        self.tasks: dict[str, TaskID] = {}
        self.printed: dict[str, str] = {}

    def __enter__(self) -> "Display":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def note(self, text: str) -> None:
        """Say something beside the jobs."""
        self.console.print(f"Note: {text}", markup=False)

    def started(self, job: Job) -> None:
        """Say that a job begins."""
        if self.bars is None:
            self.console.print(f"        begins    {title(job)}", markup=False)
        else:
            self.tasks[job.id] = self.bars.add_task(title(job), total=None, scores="starting")

    def ended(self, job: Job, entry: dict[str, Any], done: int, total: int) -> None:
        """Say how a job ended."""
        if self.bars is not None and job.id in self.tasks:
            self.bars.remove_task(self.tasks.pop(job.id))
        about = entry["message"] or f"{entry['seconds']:.0f} s"
        count = f"{done}/{total}".rjust(7)
        self.console.print(f"{count} {entry['status']:<9} {title(job)}  {about}", markup=False)

    def progress(self, running: list[Job]) -> None:
        """Show how far the trainings are; without a terminal a line an epoch."""
        for job in running:
            state = read_state(job.progress_file)
            if state is None:
                continue
            if self.bars is not None and job.id in self.tasks:
                self.bars.update(
                    self.tasks[job.id],
                    completed=state["done"],
                    total=state["total"],
                    scores=state["scores"],
                )
            elif (
                self.bars is None
                and job.kind == "fit"
                and state["line"] != self.printed.get(job.id, "")
            ):
                self.printed[job.id] = state["line"]
                self.console.print(f"        {title(job)}  {state['line']}", markup=False)


def title(job: Job) -> str:
    """Return what a job is, in a few words."""
    variant = f" {job.variant}" if job.variant else ""
    return f"{job.kind} {job.run.experiment} {job.run.id}{variant}"
