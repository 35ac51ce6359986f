"""A W&B sweep file: its trials, here and in W&B's own agent."""

import numpy as np
import pytest
import yaml

import cli
from errors import InputError
from studies.benchmarks.sweep_file import read_sweep
from studies.commands.sweep import TrialJob, ordered, print_trials
from studies.jobs.graph import Job
from studies.runs.run import Run
from studies.settings.command_line import CommandLine
from studies.training.fit_parser import FitParser
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
COMMAND = ["${env}", "lightning", "fit", "--config", "experiments/dynunet.yaml", "${args}"]
GRID = {
    "program": "cli.py",
    "command": COMMAND,
    "method": "grid",
    "metric": {"name": "val/dice/WT", "goal": "maximize"},
    "parameters": {
        "data.batch_size": {"values": [1, 2]},
        "data.augmentation": {"values": [True, False]},
        "trainer.max_epochs": {"value": 3},
    },
}
HYPERBAND = {"type": "hyperband", "min_iter": 2}
RANGE = {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}


def write(folder, **changes):
    content = {name: value for name, value in {**GRID, **changes}.items() if value is not None}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / "mine.yaml")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_trial_that_an_agent_draws_again_goes_on_in_the_project_of_all_runs(file):
    content = yaml.safe_load(file.read_text())
    defaults = yaml.safe_load((ROOT / "experiments" / "defaults.yaml").read_text())
    assert content["project"] == defaults["trainer"]["logger"]["init_args"]["project"]
    assert "--resume" in content["command"]


def test_a_grid_is_every_combination_in_order(tmp_path):
    sweep = read_sweep(write(tmp_path))
    trials = sweep.trials(sweep.draws(None, seed=0))
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [list(trial.parameters.values()) for trial in trials] == [
        [1, True, 3],
        [1, False, 3],
        [2, True, 3],
        [2, False, 3],
    ]
    line = sweep.fit_line(trials[1], CommandLine.parse(["--data.root", "there"]))
    assert line.typed() == [
        *["--config", "experiments/dynunet.yaml", "--data.batch_size=1"],
        *["--data.augmentation=false", "--trainer.max_epochs=3", "--data.root", "there"],
    ]
    assert len(sweep.trials(sweep.draws(3, seed=0))) == 3


@pytest.mark.parametrize(
    ("described", "low", "high", "kind"),
    [
        (RANGE, 1e-4, 1e-2, float),
        ({"min": 1, "max": 4}, 1, 4, int),
        ({"min": 0.5, "max": 4.0}, 0.5, 4, float),
        ({"distribution": "q_uniform", "min": 8, "max": 64, "q": 8}, 8, 64, float),
        ({"values": [3, 5], "probabilities": [0.0, 1.0]}, 5, 5, int),
    ],
)
def test_random_trials_stay_in_range_and_are_the_same_again(described, low, high, kind, tmp_path):
    sweep = read_sweep(write(tmp_path, method="random", parameters={"x": described}))
    values = [trial.parameters["x"] for trial in sweep.trials(sweep.draws(40, seed=0))]
    assert all(type(value) is kind and low <= value <= high for value in values)
    if "q" in described:
        assert all(value % 8 == 0 for value in values)
    assert values[:7] == [t.parameters["x"] for t in sweep.trials(sweep.draws(7, seed=0))]
    if low < high:
        assert len(set(values)) > 1
        assert values != [t.parameters["x"] for t in sweep.trials(sweep.draws(40, seed=1))]


def test_a_logarithmic_range_is_even_in_its_logarithm(tmp_path):
    sweep = read_sweep(write(tmp_path, method="random", parameters={"x": RANGE}))
    values = [trial.parameters["x"] for trial in sweep.trials(sweep.draws(400, seed=0))]
    assert np.mean(np.log10(values)) == pytest.approx(-3, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "custom"}, "method is custom, expected grid, random or bayes.*wandb agent"),
        ({"controller": {"type": "local"}}, "unknown key controller"),
        ({"method": "bayes", "metric": None}, "bayes needs metric"),
        ({"early_terminate": {"type": "hyperband"}}, r"has \[\], expected min_iter, or max_iter"),
        ({"early_terminate": {"type": "envelope", "min_iter": 1}}, "with type: hyperband"),
        ({"early_terminate": {**HYPERBAND, "grace": 2}}, "unknown key grace"),
        ({"early_terminate": {**HYPERBAND, "eta": 1.5}}, "eta is 1.5, expected a whole number"),
        ({"early_terminate": {**HYPERBAND, "s": 2}}, r"\['min_iter', 's'\], expected min_iter, or"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 1}}, "max_iter is below"),
        ({"early_terminate": HYPERBAND, "metric": None}, "early_terminate needs metric"),
        ({"run_cap": 0}, "run_cap is 0, expected a whole number from 1"),
        ({"metric": {"name": "x", "target": "high"}}, "metric.target is 'high', expected a number"),
        ({"command": None}, "expected a list that calls fit"),
        ({"command": [*COMMAND[:-1]]}, "expected a list that calls fit"),
        ({"command": ["fit", "${args}"]}, "No experiment is given"),
        ({"parameters": None}, "has no parameters"),
        ({"parameters": {"x": 3}}, "x is 3, expected value, values"),
        ({"parameters": {"x": {"value": 3, "step": 1}}}, "unknown key step"),
        ({"parameters": {"x": {"distribution": "beta"}}}, "distribution beta, expected one of"),
        ({"parameters": {"x": {"min": 3, "max": 1}}}, "ranges from 3 to 1"),
        ({"parameters": {"x": {**RANGE, "min": 0.0}}}, "ranges from 0.0"),
        ({"parameters": {"x": {"min": "1e-4", "max": 1}}}, "ranges from 1e-4"),
        ({"parameters": {"x": {"min": 1, "max": 2, "q": 1}}}, "unknown key q"),
        ({"parameters": {"x": {"parameters": {"y": {"value": 1}}}}}, "unknown key parameters"),
        ({"parameters": {"x": {"values": []}}}, "values is \\[\\], expected a list"),
        ({"parameters": {"x": {"values": [1, 2], "probabilities": [1]}}}, "one for each of 2"),
        ({"parameters": {"x": {"distribution": "normal", "sigma": 0}}}, "sigma is 0, expected"),
        ({"parameters": {"x": {**RANGE, "distribution": "int_uniform"}}}, "whole numbers"),
        ({"metric": {"name": "x", "goal": "up"}}, "goal is up"),
    ],
)
def test_one_sentence_for_what_cannot_be_run(changes, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        read_sweep(write(tmp_path, **changes))


def test_a_grid_over_a_range_and_random_without_end(tmp_path):
    with pytest.raises(InputError, match="the grid needs values for x"):
        read_sweep(write(tmp_path, parameters={"x": RANGE})).draws(None, 0)
    with pytest.raises(InputError, match="say how many trials with --count"):
        read_sweep(write(tmp_path, method="random")).draws(None, 0)
    assert len(read_sweep(write(tmp_path, method="random", run_cap=5)).draws(None, 0)) == 5


@pytest.fixture(scope="module")
def parser():
    return FitParser()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_shipped_ones_mean_here_what_they_mean_to_wandb(file, parser):
    """W&B's own agent makes this command line of a trial; ours resolves to the same training."""
    from wandb.sdk.launch.sweeps import utils

    content = utils.load_sweep_config(str(file))
    sweep = read_sweep(str(file))
    trials = sweep.trials(sweep.draws(8 if sweep.method == "random" else None, seed=0))
    assert len(trials) == (9 if file.stem == "fusion_attention" else len(trials))
    trial = trials[-1]
    given = {"args": {name: {"value": value} for name, value in trial.parameters.items()}}
    macros = utils.create_sweep_command_args(given)
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [content["program"]]}
    words = []
    for word in utils.create_sweep_command(content["command"]):
        words += macros[word[2:-1]] if word.startswith("${") else [word]
    assert words[:4] == ["/usr/bin/env", "python", "cli.py", "fit"]
    theirs = parser.parse_fit(CommandLine.parse(words[4:]))
    ours = parser.parse_fit(sweep.fit_line(trial, CommandLine()))
    assert ours == theirs
    first = parser.parse_fit(sweep.fit_line(trials[0], CommandLine()))
    assert first["model"] != ours["model"]
    assert content["metric"]["goal"] == "maximize"


@pytest.mark.parametrize(
    ("described", "first", "last"),
    [
        ({"min_iter": 2}, 2, None),
        ({"max_iter": 27, "s": 2}, 3, 9),  # W&B's own example: brackets 9 and 3
        ({"max_iter": 8, "s": 9, "eta": 2}, 1, 4),
    ],
)
def test_rungs_of_early_termination_are_those_of_wandb(described, first, last, tmp_path):
    file = write(tmp_path, early_terminate={"type": "hyperband", **described})
    rule = read_sweep(file).early_stop
    assert (rule.first, rule.last, rule.strict) == (first, last, False)


def test_depths_of_the_adapter_are_the_papers():
    sweep = read_sweep("experiments/sweeps/adapter_depth.yaml")
    depths = [
        trial.parameters["model.network.init_args.first_blocks"]
        for trial in sweep.trials(sweep.draws(None, 0))
    ]
    assert depths == [0, 2, 4, 6, 8, 10, 12]
    assert sweep.line.overlays == ["slices2d"]


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_trials_are_ordered_by_their_best_epoch(goal, tmp_path):
    sweep = read_sweep(write(tmp_path, metric={"name": "val/dice/WT", "goal": goal}))
    trials = []
    for trial, values in zip(
        sweep.trials(sweep.draws(None, 0)), ([0.2, 0.3], [0.9, 0.1], [0.5], []), strict=True
    ):
        run = Run("dynunet", str(trial.number), tmp_path / str(trial.number))
        if values:
            run.checkpoints.mkdir(parents=True)
            run.best_checkpoint.touch()
            rows = [f"{epoch},{value}" for epoch, value in enumerate(values)]
            run.metrics_file.write_text("\n".join(["epoch,val/dice/WT", *rows]) + "\n")
            run.update_manifest(status="finished", parameters={"all": 7, "trained": 5})
        trials.append(TrialJob(trial, Job(str(trial.number), "fit", run, [], [], None)))
    rows = ordered(sweep, trials)
    expected = [1, 2, 0, 3] if goal == "maximize" else [1, 0, 2, 3]
    assert [row["trial"] for row in rows] == expected
    assert rows[0]["val/dice/WT"] == (0.9 if goal == "maximize" else 0.1)
    assert rows[-1]["val/dice/WT"] is None  # not trained yet
    assert rows[0]["trained"] == 5


def test_a_trial_that_was_stopped_early_stands_behind_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    rule = {"type": "hyperband", "min_iter": 1}
    sweep = read_sweep(write(tmp_path, early_terminate=rule))
    trials = []
    for trial, value in zip(sweep.trials(sweep.draws(None, 0)), (0.9, 0.2, 0.8, 0.3), strict=True):
        run = Run("dynunet", str(trial.number), tmp_path / str(trial.number))
        run.checkpoints.mkdir(parents=True)
        run.best_checkpoint.touch()
        run.metrics_file.write_text(f"epoch,val/dice/WT\n0,{value}\n")
        stopped = {0: 1, 2: 4}.get(trial.number)
        run.update_manifest(status="running" if stopped else "finished")
        trials.append(TrialJob(trial, Job(str(trial.number), "fit", run, [], [], None), stopped))
    rows = ordered(sweep, trials)
    assert [row["trial"] for row in rows] == [3, 1, 0, 2]
    assert [row["val/dice/WT"] for row in rows] == [0.3, 0.2, 0.9, 0.8]
    assert [row["stopped_after"] for row in rows] == [None, None, 1, 4]
    print_trials(sweep, rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "1", "True", "3", "0.9000", "-", "1", "validation"] in lines
    assert ["2", "2", "True", "3", "0.8000", "-", "4", "validations"] in lines


@pytest.mark.parametrize("name", ["data.batch_size", "data.init_args.batch_size", "trainer"])
def test_an_option_that_would_override_a_parameter_is_refused(tmp_path, name, capsys):
    assert cli.main(["sweep", write(tmp_path), f"--{name}=4"]) == 2
    assert f"--{name} would override " in capsys.readouterr().err


def test_the_command_names_a_missing_file(capsys):
    assert cli.main(["sweep", "none.yaml"]) == 2
    assert "no configuration file none.yaml" in capsys.readouterr().err
