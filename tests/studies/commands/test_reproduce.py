"""The comparisons and messages of a reproduction; a whole one runs in test_benchmark.py."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml

import cli
from errors import InputError
from evaluation.tables.per_case import write_csv
from studies.commands.reproduce import compare, move_outdated, write_record
from studies.runs import recreation
from studies.runs.environment import git_revision, hardware, versions
from studies.runs.recreation import changed_values, find_run, outdated, recreate, stages_of
from studies.runs.run import Run


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
    assert list(changed_values(then, now)) == [
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
    made = run("abc")
    with pytest.raises(InputError, match=r"config\.yaml is gone or damaged"):
        recreation.recreate(made, tmp_path / "configs")
    for content in (b"model: [1\ntrainer: {", b"\xff\xfe\x00", b"- model\n- trainer\n"):
        (made.folder / "config.yaml").write_bytes(content)
        with pytest.raises(InputError, match=r"config\.yaml is gone or damaged"):
            recreation.recreate(made, tmp_path / "configs")


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "much"])
def test_a_tolerance_that_nothing_meets_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "fusion", "--tolerance", text])
    assert "--tolerance" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\x00", b"[1, 2]", b'{"status": '])
def test_a_damaged_manifest_is_one_sentence(run, content):
    made = run("abc")
    (made.folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json is damaged: put a copy of it back"):
        made.manifest()


def test_the_network_cannot_be_changed_on_the_way(run, tmp_path, capsys):
    made = run("abc")
    assert cli.main(["reproduce", str(made.folder), "--model.size", "base"]) == 2
    assert "only --data.* and --trainer.* can be given" in capsys.readouterr().err


INFERENCE = {"device": "cpu", "precision": "fp32", "channels_last": True, "reason": "recorded"}


@pytest.fixture
def plan(run, monkeypatch):
    """Make a planned training that was reproduced earlier with the given manifest."""
    execution = SimpleNamespace(to_dict=lambda: {**INFERENCE, "reason": "asked"})
    monkeypatch.setattr(recreation, "choose_execution", lambda _: execution)

    def make(devices="auto", **manifest):
        made = {
            "versions": versions(),
            "git": git_revision(),
            "hardware": {**hardware(), "threads": 99, "memory_gb": 0.1},
            "execution": {"training": "32-true", "inference": INFERENCE, "devices": 1},
        }
        trainer = {"accelerator": "cpu", "devices": devices, "num_nodes": 1}
        again = run("again", **{**made, **manifest})
        return SimpleNamespace(run=again, config={"trainer": trainer})

    return make


BF16 = {"inference": {**INFERENCE, "precision": "bf16"}, "devices": 1}


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        ({}, []),
        ({"versions": ("torch", "1.0")}, ["version torch"]),
        ({"git": ("commit", "a")}, ["git commit"]),
        ({"hardware": ("processor", "another")}, ["hardware processor"]),
        ({"devices": 2}, ["execution devices"]),
        ({"execution": BF16}, ["execution inference precision"]),
    ],
)
def test_a_reproduction_is_good_until_something_changes(plan, made, changed):
    now = {"versions": versions(), "git": git_revision(), "hardware": hardware()}
    made = {
        name: {**now[name], value[0]: value[1]} if isinstance(value, tuple) else value
        for name, value in made.items()
    }
    assert [difference.what for difference in outdated(plan(**made))] == changed


def test_a_reproduction_that_was_never_begun_is_not_outdated(tmp_path):
    assert outdated(SimpleNamespace(run=Run("fusion", "never", tmp_path / "never"))) == []


def test_what_another_version_reproduced_is_moved_aside(plan, capsys):
    old, test = plan(versions={**versions(), "torch": "1.0"}), SimpleNamespace(kind="test")
    job = SimpleNamespace(kind="fit", plan=old, run=old.run)
    with old.run.lock(), pytest.raises(InputError, match="cannot be moved aside"):
        move_outdated([job])
    move_outdated([test, job])
    printed = capsys.readouterr().out
    assert f"version torch 1.0 then, {versions()['torch']} now" in printed
    assert not old.run.folder.exists()
    (kept,) = old.run.folder.parent.glob("again.replaced-*")
    assert (kept / "per_case.csv").is_file()
    move_outdated([job])  # nothing is there any more
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("then", "gpus", "cores", "devices"),
    [
        ({"devices": 1, "inference": {"device": "cuda"}}, 8, 2, 1),
        ({"devices": 4, "inference": {"device": "cuda"}}, 8, 2, 4),
        ({"devices": 8, "inference": {"device": "cuda"}}, 4, 16, "auto"),
        ({"devices": 4, "inference": {"device": "cuda"}}, 0, 16, "auto"),
        ({"devices": 2, "inference": {"device": "cpu"}}, 0, 4, 2),
        ({"devices": 8, "inference": {"device": "cpu"}}, 0, 4, "auto"),
    ],
)
def test_as_many_devices_as_the_run_had_or_one(
    run, tmp_path, monkeypatch, then, gpus, cores, devices
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(recreation, "cores", lambda: cores)
    made = run("abc", execution=then)
    trainer = {"accelerator": "auto", "devices": "auto", "num_nodes": 2}
    made.write_config({"model": {}, "trainer": trainer})
    file = recreate(made, tmp_path / "configs")
    asked = yaml.safe_load(file.read_text())["trainer"]
    assert (asked["devices"], asked["num_nodes"]) == (devices, 1)


def test_an_infinite_difference_is_null_in_json(tmp_path):
    file = tmp_path / "reproduction.json"
    write_record(file, {"largest_difference": {"a": math.inf, "b": 0.5}, "reproduced": False})
    text = file.read_text()
    assert "Infinity" not in text
    assert json.loads(text)["largest_difference"] == {"a": None, "b": 0.5}


def test_the_folder_that_its_lock_speaks_of_can_be_given(run, tmp_path, capsys):
    made = run("abc")
    made.write_config({"model": {}, "trainer": {}})
    words = ["reproduce", str(made.folder), "--out", str(tmp_path / "other")]
    words += ["--runs_dir", str(tmp_path / "again")]
    (tmp_path / "other").mkdir()
    held = Run("other", "other", tmp_path / "other")
    with held.lock():
        assert cli.main(words) == 2
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'other'} is worked on by another reproduction" in printed
    assert "--out" in printed
