"""The Optuna study of a sweep, kept in a journal file that several processes share."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from optuna import Trial as OptunaTrial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from errors import InputError
from files import is_locked, shared_lock
from lightning_modules.callbacks.metrics_file import read_metrics
from studies.benchmarks.search_space import make_study
from studies.benchmarks.sweep_file import Sweep
from studies.jobs.cost_table import Trial
from studies.jobs.graph import Job
from studies.runs.run import Run, locked

JOURNAL = "study.journal"
FAILED = "failed"  # attribute with the reason why a trial failed, for the next process to retry it
OFTEN = 2.0  # seconds between looks for trials that other processes have left


class SweepStudy:
    """Source of a sweep's trials for the engine, which records their scores.

    A process locks a file for each of its running trials. A running trial whose file is not locked
    belongs to a process that was killed: it is begun again, and its run is resumed. A failed one
    waits for the next process.

    Args:
        sweep: the sweep.
        folder: folder of the sweep.
        name: hash of everything that determines the trials, so that one folder may hold several
            sweeps.
        total: number of trials.
        seed: seed of random and bayes trials.
        draws: the draws of the sweep that depend on no score.
        make: returns the training of a trial after the jobs it needs.

    Raises:
        InputError: when the journal is damaged, or the folder is an earlier version's.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        name: str,
        total: int,
        seed: int,
        draws: Sequence[dict[str, Any]],
        make: Callable[[Trial], list[Job]],
    ) -> None:
        self.sweep, self.folder, self.name = sweep, folder, name
        self.total, self.seed, self.draws, self.make = total, seed, draws, make
        former = (folder / "trials.csv").exists() and not (folder / JOURNAL).exists()
        if former and sweep.method == "random":
            raise InputError(
                f"{folder} holds random trials of an earlier version of this program, which drew "
                "other ones: give another folder with --out."
            )
        self.space = sweep.space()
        self.held: dict[int, ExitStack] = {}
        self.running: dict[str, list[OptunaTrial]] = {}  # by job: two trials may be one training
        self.ends: dict[str, tuple[str, str]] = {}
        self.seen: dict[str, int] = {}  # time of the latest scores of a job
        self.next_look = 0.0
        file = str(folder / JOURNAL)
        try:
            self.storage = JournalStorage(JournalFileBackend(file, JournalFileOpenLock(file)))
            self.study = make_study(
                study_name=name,
                storage=self.storage,
                direction="maximize" if sweep.maximise else "minimize",
                pruner=sweep.pruner(),
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise InputError(
                f"{file} is damaged ({error}): move it away and repeat the command; finished "
                "trainings are not repeated."
            ) from error

    def __enter__(self) -> Self:
        with shared_lock(self.folder / ".trials.lock"):
            for drawn in self.draws[len(self.trials()) :]:
                self.study.enqueue_trial(drawn)
            self._put_back(failed=True)
        return self

    def __exit__(self, *_: object) -> None:
        for lock in self.held.values():
            lock.close()

    @property
    def waits(self) -> bool:
        """Whether trials are chosen by the scores of earlier ones."""
        return self.sweep.method == "bayes"

    def left(self) -> int:
        """Return the number of trials that are neither done, failed, nor held by this process."""
        trials = self.trials()
        others = [trial for trial in trials if trial.number not in self.held]
        runs = [t for t in others if t.state == TrialState.RUNNING and not t.user_attrs.get(FAILED)]
        if self.reached():
            return len(runs)
        waiting = [trial for trial in others if trial.state == TrialState.WAITING]
        return len(runs) + len(waiting) + self.total - len(trials)

    def more(self) -> list[Job]:
        """Return the training of another trial, after the jobs it needs."""
        if time.monotonic() < self.next_look:
            return []
        while True:
            with shared_lock(self.folder / ".trials.lock"):
                trial = self._next_trial()
            if trial is None:
                self.next_look = time.monotonic() + OFTEN
                return []
            try:
                jobs = self.make(self.sweep.trial(trial.number, trial.params))
                break
            except InputError as error:
                self._settle(trial, None, FAILED, str(error))
        name = jobs[-1].id
        self.running.setdefault(name, []).append(trial)
        if name in self.ends:  # an earlier trial had the same training
            self.ended(jobs[-1], *self.ends[name])
        return jobs

    def unwanted(self, job: Job) -> str:
        """Report the new scores of a trial; return the reason to stop it, or an empty text."""
        file = job.run.metrics_file
        if self.sweep.early_stop is None or job.id not in self.running or not file.is_file():
            return ""
        written = file.stat().st_mtime_ns
        if written == self.seen.get(job.id):
            return ""
        self.seen[job.id] = written
        count = max(self._report(trial, job.run) for trial in self.running[job.id])
        return f"early, after {count} validation{'s' * (count > 1)}" if count else ""

    def ended(self, job: Job, status: str, message: str) -> None:
        """Record the score of a trial in the study, or why it has none."""
        self.ends[job.id] = (status, message)
        for trial in self.running.pop(job.id, []):
            self._settle(trial, job, status, message)

    def trials(self) -> list[FrozenTrial]:
        """Return the trials of the study so far, at most `total`."""
        return self.study.get_trials(deepcopy=False)[: self.total]

    def parameters(self) -> list[Trial]:
        """Return the trials so far, with those that are drawn but not begun."""
        numbered = enumerate(self.trials())
        drawn = {n: t.params or t.system_attrs.get("fixed_params") for n, t in numbered}
        return [self.sweep.trial(number, found) for number, found in drawn.items() if found]

    def done(self) -> list[Trial]:
        """Return the trials that were trained to their end, even if their runs are gone."""
        ends = (TrialState.COMPLETE, TrialState.FAIL)
        done = [trial for trial in self.trials() if trial.state in ends]
        return [self.sweep.trial(trial.number, trial.params) for trial in done]

    def stopped(self) -> dict[int, int]:
        """Return the number of validations of trials that were stopped early, by trial number."""
        return {
            number: trial.last_step or 0
            for number, trial in enumerate(self.trials())
            if trial.state == TrialState.PRUNED
        }

    def failures(self) -> dict[int, str]:
        """Return why trials failed, by trial number."""
        found = {number: t.user_attrs.get(FAILED) for number, t in enumerate(self.trials())}
        return {number: reason for number, reason in found.items() if reason}

    def _next_trial(self) -> OptunaTrial | None:
        """Take a trial from the study and lock its file; for one process at a time."""
        self._put_back(failed=False)
        trials = self.trials()
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if self.reached() or not (waiting or len(trials) < self.total):
            return None
        self.study.sampler = self.sweep.sampler(self.seed, len(trials))
        taken = self.study.ask(self.space)
        file = self._file(taken.number)
        file.parent.mkdir(exist_ok=True)
        self.held[taken.number] = ExitStack()
        self.held[taken.number].enter_context(locked(file, f"{file} is held by another process."))
        return taken

    def _file(self, number: int) -> Path:
        return self.folder / ".trials" / f"{self.name}-{number}"

    def _put_back(self, *, failed: bool) -> None:
        """Let the running trials of killed processes wait again.

        Args:
            failed: whether to do so for trials that failed, too.
        """
        study = self.storage.get_study_id_from_name(self.name)
        for trial in self.trials():
            skipped = trial.user_attrs.get(FAILED) and not failed
            if trial.state != TrialState.RUNNING or skipped or is_locked(self._file(trial.number)):
                continue
            stored = self.storage.get_trial_id_from_study_id_trial_number(study, trial.number)
            with suppress(UpdateFinishedTrialError):  # finished by its process a moment ago
                self.storage.set_trial_user_attr(stored, FAILED, "")
                self.storage.set_trial_state_values(stored, TrialState.WAITING)

    def reached(self) -> bool:
        """Whether a trial has reached the target of the metric."""
        target, sign = self.sweep.target, 1 if self.sweep.maximise else -1
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return target is not None and any(sign * (t.value or 0.0) >= sign * target for t in done)

    def _report(self, trial: OptunaTrial, run: Run) -> int:
        """Report new scores; return the number of them after which to stop the trial, else 0."""
        rule = self.sweep.early_stop
        before = self.trials()[trial.number].last_step or 0
        if rule is None:
            return 0
        scores = scores_of(self.sweep, run)[: rule.last]
        for count in range(before + 1, len(scores) + 1):
            best = max if self.sweep.maximise else min
            trial.report(scores[count - 1] if rule.strict else best(scores[:count]), count)
            if trial.should_prune():
                return count
        return 0

    def _settle(self, trial: OptunaTrial, job: Job | None, status: str, message: str) -> None:
        """Record in the study how a trial ended, and unlock its file."""
        if job is not None and status == "finished":
            self._report(trial, job.run)
            score = score_of(self.sweep, job)
            if score is None:
                self._check_metric(job.run)
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self.study.tell(trial, score)
        elif status == "stopped":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr(FAILED, message)
        self.held.pop(trial.number).close()

    def _check_metric(self, run: Run) -> None:
        """Refuse a metric that a run did not write, if trials are chosen or stopped by it."""
        if self.waits or self.sweep.early_stop:
            there = sorted({name for row in read_metrics(run.metrics_file) for name in row})
            raise InputError(
                f"{self.sweep.file}: the metric {self.sweep.metric} is not in {run.metrics_file}: "
                f"expected one of {', '.join(there)}."
            )


def scores_of(sweep: Sweep, run: Run) -> list[float]:
    """Return the values of the sweep's metric after every validation of a run so far."""
    values = [row.get(sweep.metric, math.nan) for row in read_metrics(run.metrics_file)]
    return [float(value) for value in values if not math.isnan(float(value))]


def score_of(sweep: Sweep, job: Job, *, unfinished: bool = False) -> float | None:
    """Return the best value of the metric over the epochs of a finished trial; None: no score.

    Args:
        sweep: the sweep.
        job: the training.
        unfinished: whether to score an unfinished training too.
    """
    if not (unfinished or job.finished()):
        return None
    return (max if sweep.maximise else min)(scores_of(sweep, job.run), default=None)
