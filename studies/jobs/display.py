"""The display of a running study: a line for each job, and bars in a terminal."""

from typing import Any, Self

from rich.console import Console

from lightning_modules.callbacks.run_progress import RunBars
from studies.jobs.graph import Job


class Display:
    """Lines about jobs that begin and end; in a terminal also a bar for each running job.

    Args:
        console: console to print to; None: stdout.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.bars = RunBars(console, indent=" " * 8)
        self.console = self.bars.console

    def __enter__(self) -> Self:
        self.bars.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.__exit__()

    def note(self, text: str) -> None:
        """Print a note that is not about one job's start or end."""
        self.console.print(f"Note: {text}", markup=False)

    def started(self, job: Job) -> None:
        """Print that a job begins."""
        self.bars.begin(job.progress_file, title(job))
        if not self.bars.drawn:
            self.console.print(f"        begins    {title(job)}", markup=False)

    def ended(self, job: Job, entry: dict[str, Any], done: int, total: int) -> None:
        """Print how a job ended."""
        self.bars.end(job.progress_file)
        about = entry["message"] or f"{entry['seconds']:.0f} s"
        count = f"{done}/{total}".rjust(7)
        self.console.print(f"{count} {entry['status']:<9} {title(job)}  {about}", markup=False)

    def progress(self, running: list[Job]) -> None:
        """Show the progress of the trainings; without a terminal as one line for each epoch."""
        for job in running:
            self.bars.look(job.progress_file, title(job), lines=job.kind == "fit")


def title(job: Job) -> str:
    """Return a job's name for the user."""
    variant = f" {job.variant}" if job.variant else ""
    return f"{job.kind} {job.run.experiment} {job.run.id}{variant}"
