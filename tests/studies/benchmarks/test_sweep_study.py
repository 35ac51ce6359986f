"""The study of a sweep, with trainings replaced by a formula for their scores."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from errors import InputError
from evaluation.tables.per_case import write_csv
from studies.benchmarks.search_space import make_study
from studies.benchmarks.sweep_file import read_sweep
from studies.benchmarks.sweep_study import SweepStudy
from studies.jobs.engine import Engine, study_folder
from studies.jobs.graph import Job
from studies.runs.run import Run, identity_hash

EPOCHS = 4
RANGE = {"min": 0.0, "max": 1.0}
FORK = multiprocessing.get_context("fork")


def quality(parameters):
    """Return a score that is best at x = 0.7 and y = 0.2."""
    return 2 - abs(parameters["x"] - 0.7) - abs(parameters["y"] - 0.2)


class Silent:
    """A display that keeps its notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def started(self, job):
        pass

    def ended(self, job, entry, done, total):
        pass

    def progress(self, running):
        pass


class FakeWorkers:
    """Workers whose trainings advance by an epoch at every look.

    Args:
        room: how many at once.
        pause: seconds of an epoch.
        fails: values of x whose trainings fail.
    """

    def __init__(self, room=1, pause=0.0, fails=()):
        self.room, self.pause, self.fails = room, pause, fails
        self.began, self.tasks, self.dead = [], {}, {}

    def has_room(self):
        return len(self.tasks) < self.room

    is_idle = has_room

    def start(self, task, threads):
        self.began.append(task.id)
        self.tasks[task.id] = task

    def end(self, name):
        self.dead[name] = -15
        self.tasks.pop(name)

    def ended(self):
        time.sleep(self.pause)
        found, self.dead = self.dead, {}
        for name, task in list(self.tasks.items()):
            parameters = json.loads(task.words[0])
            if parameters["x"] in self.fails:
                found[name] = 1
                del self.tasks[name]
                continue
            rows = [
                {"epoch": epoch, "val/score": quality(parameters) * (epoch + 1) / EPOCHS}
                for epoch in range(len(self.rows_of(task)) + 1)
            ]
            write_csv(rows, task.run.metrics_file)
            if len(rows) == EPOCHS:
                task.run.checkpoints.mkdir(parents=True)
                task.run.best_checkpoint.touch()
                task.run.update_manifest(status="finished")
                found[name] = 0
                del self.tasks[name]
        return found

    @staticmethod
    def rows_of(task):
        file = task.run.metrics_file
        return file.read_text().splitlines()[1:] if file.exists() else []

    def stop(self):
        self.tasks = {}


def make(trial):
    """Return the training of a trial, which its parameters identify."""
    name = identity_hash(trial.parameters)
    run = Run("fake", name, Path("runs") / "fake" / name)
    return [Job(f"fake-{name}", "fit", run, [json.dumps(trial.parameters)], [], None)]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A function that writes a sweep file and reads it, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("studies.jobs.engine.SEEN_WITHIN", 0.0)
    monkeypatch.setattr("studies.jobs.engine.TURN", 0.01)

    def read(**changes):
        content = {
            "command": ["lightning", "fit", "--config", "experiments/dynunet.yaml", "${args}"],
            "method": "bayes",
            "metric": {"name": "val/score", "goal": "maximize"},
            "parameters": {"x": RANGE, "y": RANGE},
            **changes,
        }
        Path("mine.yaml").write_text(yaml.safe_dump(content))
        return read_sweep("mine.yaml")

    return read


def study_of(sweep, count, seed=0, made=make):
    Path("study").mkdir(exist_ok=True)
    draws = sweep.draws(count, seed)
    name = sweep.identity(seed, "first")
    return SweepStudy(sweep, Path("study"), name, sweep.total(count), seed, draws, made)


def work(sweep, count, workers=None, display=None, made=make):
    """Run the remaining trials of a sweep; return all trials and whether none failed."""
    with study_of(sweep, count, made=made) as study:
        engine = Engine(Path("study"), [], workers or FakeWorkers(), display or Silent(), study)
        engine.run()
        return study.trials(), not study.failures()


def test_bayes_asks_what_a_study_driven_by_hand_asks(sweep):
    read = sweep()
    trials, whole = work(read, 16)
    assert whole
    expected = make_study(direction="maximize")
    for number in range(16):
        expected.sampler = read.sampler(0, number)
        assert isinstance(expected.sampler, TPESampler)
        asked = expected.ask(read.space())
        expected.tell(asked, quality(read.trial(number, asked.params).parameters))
    assert [trial.params for trial in trials] == [trial.params for trial in expected.trials]
    assert [trial.value for trial in trials] == pytest.approx(
        [trial.value for trial in expected.trials]
    )
    assert max(t.value for t in trials[10:]) > max(t.value for t in trials[:10])


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_larger_count_goes_on_from_a_smaller(method, sweep):
    read = sweep(method=method)
    first, _ = work(read, 4)
    workers = FakeWorkers()
    second, _ = work(read, 12, workers)
    assert [trial.params for trial in second[:4]] == [trial.params for trial in first]
    assert len(second) == 12
    assert len(workers.began) == 8
    again = FakeWorkers()
    assert len(work(read, 4, again)[0]) == 4
    assert again.began == []


def test_a_grid_is_done_in_its_order_each_once(sweep):
    values = {"x": {"values": [0.1, 0.2]}, "y": {"values": [0.5, 0.6, 0.5]}}
    read = sweep(method="grid", parameters=values)
    workers = FakeWorkers(room=2)
    trials, _ = work(read, None, workers)
    found = [read.trial(trial.number, trial.params).parameters for trial in trials]
    assert found == [{"x": x, "y": y} for x in (0.1, 0.2) for y in (0.5, 0.6)]
    assert workers.began == [make(read.trial(t.number, t.params))[0].id for t in trials]


def test_two_trials_that_are_one_training_have_one_score(sweep):
    parameters = {"x": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 1.0}}
    read = sweep(method="random", parameters={**parameters, "y": {"value": 0.2}})
    workers = FakeWorkers(room=3)
    trials, _ = work(read, 6, workers)
    assert len(workers.began) == 2
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize("strict", [True, False])
def test_worse_trials_are_stopped_as_a_study_driven_by_hand_stops_them(strict, sweep):
    rule = {"type": "hyperband", "min_iter": 1, "eta": 2, "strict": strict}
    read = sweep(method="random", early_terminate=rule)
    workers = FakeWorkers()
    trials, whole = work(read, 8, workers)
    assert whole
    expected = make_study(direction="maximize", pruner=read.pruner())
    for trial in trials:
        expected.enqueue_trial(trial.params)
        asked = expected.ask(read.space())
        best = quality(read.trial(trial.number, asked.params).parameters)
        scores = [best * (epoch + 1) / EPOCHS for epoch in range(EPOCHS)]
        for count in range(1, EPOCHS + 1):
            asked.report(scores[count - 1] if strict else max(scores[:count]), count)
            if asked.should_prune() and count < EPOCHS:
                expected.tell(asked, state=TrialState.PRUNED)
                break
        else:
            expected.tell(asked, max(scores))
    assert [trial.state for trial in trials] == [trial.state for trial in expected.trials]
    assert [t.last_step for t in trials] == [t.last_step for t in expected.trials]
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert 2 <= len(stopped) < 8
    job = make(read.trial(stopped[0].number, stopped[0].params))[0]
    state = json.loads(Path("study/state.json").read_text())["jobs"][job.id]
    assert state["status"] == "stopped"
    assert state["message"].startswith("early, after")
    again = FakeWorkers()
    work(read, 8, again)
    assert again.began == []


def test_only_scores_up_to_the_last_rung_stop_a_trial(sweep):
    rule = {"type": "hyperband", "max_iter": 3, "s": 1}
    trials, _ = work(sweep(method="random", early_terminate=rule), 8)
    assert {trial.last_step for trial in trials} == {1}


def test_a_failed_trial_is_repeated_with_the_command_and_not_before(sweep):
    read = sweep(method="grid", parameters={"x": {"values": [0.1, 0.2]}, "y": {"value": 0}})
    workers = FakeWorkers(fails=[0.1])
    trials, whole = work(read, None, workers)
    assert not whole
    assert len(workers.began) == 2
    assert trials[1].state == TrialState.COMPLETE
    mended = FakeWorkers()
    trials, whole = work(read, None, mended)
    assert whole
    assert mended.began == workers.began[:1]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2


def test_parameters_that_allow_no_training_fail_alone(sweep):
    def refuse(trial):
        if trial.number == 1:
            raise InputError("x cannot be.")
        return make(trial)

    read = sweep()
    display = Silent()
    trials, whole = work(read, 3, display=display, made=refuse)
    assert not whole
    assert display.notes == []
    assert trials[1].user_attrs["failed"] == "x cannot be."
    assert [trials[n].state for n in (0, 2)] == [TrialState.COMPLETE] * 2


def test_nothing_is_begun_once_the_target_is_reached(sweep):
    metric = {"name": "val/score", "goal": "maximize", "target": 1.7}
    values = {"x": {"values": [0.1, 0.7, 0.8, 0.9]}, "y": {"value": 0.2}}
    workers = FakeWorkers()
    trials, whole = work(sweep(method="grid", metric=metric, parameters=values), None, workers)
    assert whole
    assert len(workers.began) == 2
    assert [trial.value for trial in trials[:2]] == pytest.approx([1.4, 2.0])


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "random", "early_terminate": {"type": "hyperband", "min_iter": 1}}],
)
def test_a_metric_that_no_run_writes_is_refused_where_it_decides(changes, sweep):
    read = sweep(metric={"name": "val/other", "goal": "maximize"}, **changes)
    with pytest.raises(InputError, match=r"val/other is not in .* expected one of epoch, val/scor"):
        work(read, 3)


def test_it_is_not_read_where_it_is_damaged_or_of_an_earlier_version(sweep):
    read = sweep(method="random")
    Path("study").mkdir()
    Path("study/trials.csv").write_text("trial\n")
    with pytest.raises(InputError, match="of an earlier version of this program, which drew"):
        study_of(read, 3)
    Path("study/study.journal").write_text('{"mine": 1}\n')
    with pytest.raises(InputError, match="is damaged"):
        study_of(read, 3)
    Path("study/study.journal").write_text("not JSON\nat all\n")
    with pytest.raises(InputError, match=r"is damaged .* move it away and repeat"):
        study_of(read, 3)


def in_another_process(function, *arguments):
    process = FORK.Process(target=function, args=arguments)
    process.start()
    return process


class Killed(FakeWorkers):
    """Workers whose process is killed in the third epoch of the third training."""

    def ended(self):
        if len(self.began) == 3 and len(self.rows_of(self.tasks[self.began[2]])) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().ended()


def test_a_killed_sweep_goes_on_with_the_trial_that_it_was_at(sweep):
    read = sweep()
    killed = in_another_process(work, read, 12, Killed())
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    with study_of(read, 12) as study:
        states = [trial.state for trial in study.trials()[:4]]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.WAITING] * 2
    workers = FakeWorkers()
    trials, whole = work(read, 12, workers)
    assert whole
    assert len(workers.began) == 10
    assert workers.began[0] == make(read.trial(2, trials[2].params))[0].id
    Path("study").rename("interrupted")
    Path("runs").rename("runs-interrupted")
    assert [t.params for t in work(read, 12)[0]] == [t.params for t in trials]


def begun(read, count, queue):
    workers, display = FakeWorkers(room=2, pause=0.02), Silent()
    with study_folder(Path("study"), "sweep", "mine") as alone:
        work(read, count, workers, display)
    queue.put((alone, workers.began))


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_two_processes_share_the_trials_and_do_none_twice(method, sweep):
    read, queue = sweep(method=method), FORK.Queue()
    both = [in_another_process(begun, read, 20, queue) for _ in range(2)]
    found = [queue.get(timeout=120) for _ in both]
    for process in both:
        process.join()
        assert process.exitcode == 0
    first, second = (began for _, began in found)
    assert min(len(first), len(second)) > 0
    assert len(first + second) == 20
    assert len(set(first + second)) == 20
    assert sorted(alone for alone, _ in found) in ([False, True], [True, True])
    trials, whole = work(read, 20, FakeWorkers())
    assert whole
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_a_process_takes_over_what_another_that_is_killed_leaves(sweep):
    read = sweep(method="random")
    slow = in_another_process(work, read, 2, FakeWorkers(pause=60.0))
    deadline = time.monotonic() + 60
    while not list(Path("study").glob(".trials/*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    class Waiting(Silent):
        """Kill the other process once this one waits for it."""

        def note(self, text):
            super().note(text)
            slow.kill()
            slow.join()

    workers, display = FakeWorkers(), Waiting()
    trials, whole = work(read, 2, workers, display)
    assert whole
    assert display.notes == ["another process does the rest: waiting for it"]
    assert len(workers.began) == 2
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2


def test_a_folder_is_shared_by_one_sweep_and_refused_to_another(tmp_path):
    folder = tmp_path / "study"
    with study_folder(folder, "sweep", "one") as alone:
        assert alone
        with study_folder(folder, "sweep", "one") as second:
            assert not second
        for other in ("two", ""):
            with (
                pytest.raises(InputError, match="is worked on by another sweep: wait"),
                study_folder(folder, "sweep", other),
            ):
                pass
    with study_folder(folder, "sweep", "two") as alone:
        assert alone
