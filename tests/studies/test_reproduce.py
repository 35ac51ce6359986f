"""What a reproduction compares and names; a whole one runs in test_benchmark_run.py."""

import math

import pytest

import cli
from errors import InputError
from evaluation.tables import write_csv
from studies import recreation
from studies.recreation import _changed, find_run, stages_of
from studies.reproduce import compare
from studies.runs import Run


@pytest.fixture
def run(tmp_path):
    def make(name, dice=0.5, hd95=20.0, tested=True, **manifest):
        made = Run("fusion", name, tmp_path / "runs" / "fusion" / name)
        made.checkpoints.mkdir(parents=True)
        made.best_checkpoint.touch()
        entries = {
            "status": "finished",
            "scores": {"val/dice/WT": dice},
            "validation_cases": [{"case_id": "v", "WT": dice}],
            **manifest,
        }
        if tested:
            entries["test_scores"] = {}
            rows = [{"case_id": "p", "dice/WT": dice, "hd95/WT": hd95, "empty_rule": "brats"}]
            write_csv(rows, made.folder / "per_case.csv")
        made.update_manifest(**entries)
        return made

    return make


def test_equal_runs_differ_by_nothing(run):
    found = compare(run("a"), run("b"))
    assert found == {"test/dice/WT": 0.0, "test/hd95/WT": 0.0, "val/dice/WT": 0.0}


def test_the_largest_difference_of_each_score(run):
    found = compare(run("a", 0.5, 20.0), run("b", 0.25, 25.0))
    assert found == {"test/dice/WT": 0.25, "test/hd95/WT": 5 / 25, "val/dice/WT": 0.25}


def test_what_only_one_has_is_no_agreement(run):
    assert compare(run("a"), run("b", tested=False))["test/dice/WT"] == math.inf
    found = compare(run("c", math.nan), run("d", math.nan))
    assert found["test/dice/WT"] == 0.0
    assert compare(run("e", math.nan), run("f"))["test/dice/WT"] == math.inf


def test_every_leaf_that_changed_is_named():
    then = {"data": {"seed": 0, "size": [1, 2]}, "model": "a", "gone": 1}
    now = {"data": {"seed": 1, "size": [1, 2]}, "model": "b", "new": 2}
    assert list(_changed(then, now)) == [
        ("data.seed", 0, 1),
        ("model", "a", "b"),
        ("gone", 1, None),
        ("new", None, 2),
    ]


def test_a_run_by_its_folder_its_id_and_its_experiment(run, tmp_path):
    made = run("abc", finished_at="2026")
    for name in (str(made.folder), "fusion/abc", "fusion"):
        found = find_run(name, tmp_path / "runs")
        assert (found.experiment, found.id) == ("fusion", "abc")
        assert found.folder == made.folder
    with pytest.raises(InputError, match="no finished run dynunet: give its folder"):
        find_run("dynunet", tmp_path / "runs")
    made.update_manifest(status="running")
    with pytest.raises(InputError, match="never finished"):
        find_run("fusion/abc", tmp_path / "runs")


def test_a_stage_moved_with_its_runs_is_found_and_a_lost_one_named(run, tmp_path):
    stage = Run("dynunet", "x", tmp_path / "runs" / "dynunet" / "x")
    made = run("abc", stages={"experiments/dynunet.yaml": "elsewhere/dynunet/x"})
    with pytest.raises(InputError, match=r"The stage dynunet/x of .* is gone"):
        stages_of(made)
    stage.update_manifest(status="finished")
    assert stages_of(made)["experiments/dynunet.yaml"].folder == stage.folder.resolve()


def test_a_run_without_its_configuration(run, tmp_path):
    with pytest.raises(InputError, match=r"has no config\.yaml"):
        recreation.recreate(run("abc"), tmp_path / "configs")


def test_the_network_cannot_be_changed_on_the_way(run, tmp_path, capsys):
    made = run("abc")
    assert cli.main(["reproduce", str(made.folder), "--model.size", "base"]) == 2
    assert "only --data.* and --trainer.* can be given" in capsys.readouterr().err
