"""Post-processing acts after training: trainings that differ only in it are one run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules.splits import Split
from studies.jobs.graph import JobGraph
from studies.runs.planning import Planner, former_id, former_runs
from studies.runs.recreation import differences
from studies.runs.run import SCHEMA, Run, identity_hash
from studies.settings.command_line import CommandLine

RULES = {"component_share": 0.2}


@pytest.fixture(autouse=True)
def _made_up_models(monkeypatch):
    monkeypatch.setattr(Planner, "rehearse", lambda *_: None)


class Data:
    split = Split(["p1"], ["p2"], ["p3"])

    def identity(self):
        return {"spacing": 1.0}

    def fingerprint(self):
        return "with sizes"

    def voxel_fingerprint(self):
        return "voxels"

    def case_hashes(self):
        return {}


def config(rules=None, stages=()):
    return {
        "model": {
            "class_path": "M",
            "init_args": {"postprocessing": rules, "backbones": list(stages)},
        },
        "data": {"class_path": "D", "init_args": {}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "precision": "32-true", "devices": 1},
        "seed_everything": 0,
    }


@pytest.fixture
def plan(tmp_path, monkeypatch):
    def make(rules=None, name="fusion"):
        def parse(line):
            return config(rules, ["net.yaml"] if line.experiment == "fusion" else [])

        planner = Planner(parse, tmp_path / "runs")
        monkeypatch.setattr(planner, "prepare_cohort", lambda spec: Data())
        return planner.plan(CommandLine([f"{name}.yaml"]))

    (tmp_path / "fusion.yaml").touch()
    (tmp_path / "net.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return make


def finish(run, rules=None):
    run.write_config(config(rules))
    run.checkpoints.mkdir(parents=True)
    run.best_checkpoint.touch()
    run.update_manifest(status="finished", test_scores={})


def test_postprocessing_is_no_part_of_the_identity(plan):
    assert plan(RULES).run.id == plan().run.id
    assert plan(RULES).stages["net.yaml"].run.id == plan().stages["net.yaml"].run.id


def test_later_options_that_are_unset_leave_the_identity_as_it_was(plan, monkeypatch):
    def id_with(**options):
        content = config()
        content["model"]["init_args"] |= options
        planner = Planner(lambda line: content, Path("runs"))
        monkeypatch.setattr(planner, "prepare_cohort", lambda spec: Data())
        found = planner.plan(CommandLine(["fusion.yaml"]))
        return found.run.id, former_id(found, 1), former_id(found, 2)

    before = id_with()
    assert id_with(output_rate=1.0, output_bias=None) == before
    changed = [id_with(output_rate=4.0, output_bias=None), id_with(output_bias="prevalence")]
    assert len({before, *changed}) == 3


def test_compilation_is_in_the_identity_where_it_is_used(plan, monkeypatch):
    def with_compile(**setting):
        later = config()
        later["trainer"] |= setting
        monkeypatch.setattr(f"{__name__}.config", lambda *_: later)
        found = plan(name="net")
        return found.run.id, "compile" in found.determinants["protocol"]

    plain = with_compile()
    assert with_compile(compile=None) == plain == (plain[0], False)
    compiled = with_compile(compile="inductor")
    assert compiled[1]
    assert compiled[0] != plain[0]


def test_an_option_that_came_later_is_in_the_identity_where_it_is_used(plan, monkeypatch):
    def with_frozen(value):
        later = config()
        later["model"]["init_args"]["frozen"] = value
        monkeypatch.setattr(f"{__name__}.config", lambda *_: later)
        return plan(name="net").run.id

    plain = plan(name="net").run.id
    assert with_frozen("nothing") == plain
    assert with_frozen("features") != plain


def test_a_study_tests_a_shared_run_by_the_rules_of_its_own_experiment(plan):
    trained = plan()
    finish(trained.run)
    own = JobGraph().add_test(trained)
    assert own.results == trained.run.folder
    assert not any("postprocessing" in word for word in own.words)
    other = JobGraph().add_test(plan(RULES))
    assert other.run == trained.run
    assert f"--model.postprocessing={json.dumps(RULES)}" in other.words
    assert other.results.parent == trained.run.folder / "variants"


def test_a_training_of_an_older_version_is_named_and_not_reused(plan):
    found = plan(RULES)
    assert former_runs(found) == []
    stage = found.stages["net.yaml"]
    model = {"class_path": "M", "init_args": {"postprocessing": RULES, "backbones": []}}
    old = identity_hash({**stage.determinants, "model": model, "cohort": "voxels"}, schema=1)
    assert former_id(stage, 1) == old != stage.run.id
    former = Run("net", old, stage.run.folder.with_name(old))
    former.update_manifest(status="running")
    assert former_runs(found) == []  # unfinished runs are not used
    finish(former)
    (notice,) = former_runs(found)
    assert notice.startswith(f"{stage.run.folder.with_name(old)} is this training as an older")
    finish(stage.run)
    assert former_runs(found) == []  # a run of this schema exists


def test_a_training_before_patches_were_rounded_is_named_and_not_reused(plan):
    found = plan(RULES)
    stage = found.stages["net.yaml"]
    old = identity_hash(stage.determinants, schema=2)
    above = {**found.determinants}
    above["model"] = json.loads(
        json.dumps(above["model"]).replace(f"run:{stage.run.id}", f"run:{old}")
    )
    for run, name in ((stage.run, old), (found.run, identity_hash(above, schema=2))):
        finish(Run(run.experiment, name, run.folder.with_name(name)))
        assert name != run.id
    notices = former_runs(found)
    assert len(notices) == 2
    assert all("did not round training patches to float16" in one for one in notices)
    assert all("test and compare still take it" in one for one in notices)


def test_a_run_of_an_older_version_is_reproduced_without_differences_it_has_not(plan):
    found = plan()
    run = found.run
    model = {
        "class_path": "M",
        "init_args": {"postprocessing": None, "backbones": ["run:older name of its stage"]},
    }
    run.write_config(config(None, ["net.yaml"]))
    run.update_manifest(
        determinants={**found.determinants, "model": model, "cohort": "voxels"},
        cohort="voxels",
        command=["lightning", "fit", "--config", "fusion.yaml"],
    )
    parse = SimpleNamespace(parse=lambda line: config(None, ["net.yaml"])).parse
    changed = [one for one in differences(run, found, parse) if one.what.split()[0] != "version"]
    kinds = {one.what.split()[0] for one in changed} - {"git", "hardware", "execution"}
    assert kinds == {"identity"}
    assert [one.now for one in changed if one.what == "identity"] == [str(SCHEMA)]
    run.update_manifest(cohort="other voxels")
    assert "data fingerprint" in {one.what for one in differences(run, found, parse)}
    assert Path("fusion.yaml").is_file()
