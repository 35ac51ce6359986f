"""A command on a trained model uses the run that has the settings it is given, or refuses."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import cli
from datamodules.splits import make_split
from errors import InputError
from lightning_modules.weights.checkpoints import KEY
from studies.commands import apply
from studies.runs.checkpoint_settings import find_checkpoints
from studies.runs.run import Run
from studies.settings.command_line import CommandLine
from studies.training.fit_parser import FitParser

PATIENTS = {f"p{number}": f"p{number}" for number in range(9)}
RULES = {"component_share": 0.2, "least_core": 10.0, "least_enhancing": 200.0}
EXPERIMENT = ["--config", "experiments/dynunet.yaml"]


@pytest.fixture(scope="module")
def resolve():
    """One parser for all tests, over a checkpoint's configuration as in the command."""
    parser = FitParser()

    def resolved(line, below, folder=Path("below")):
        configs = list(line.configs)
        if below is not None:
            file = Path("below.yaml").resolve()
            file.write_text(yaml.safe_dump({k: v for k, v in below.items() if v is not None}))
            configs.insert(0, str(file))
        parser.known.clear()  # files of one name differ from test to test
        return parser.resolve(CommandLine(configs, line.options), typed=True)

    return resolved


@pytest.fixture
def train(tmp_path, monkeypatch, resolve):
    """Write the files of a finished training with these options, without training."""
    monkeypatch.chdir(tmp_path)

    def make(run_id, *words, when=1, by_option=True):
        line = CommandLine.parse([*EXPERIMENT, *words])
        config = resolve(line, None)
        run = Run("dynunet", run_id, tmp_path / "runs" / "dynunet" / run_id)
        data = config["data"]["init_args"]
        split = make_split(
            PATIENTS,
            n_folds=data["n_folds"],
            fold=data["fold"],
            seed=data["split_seed"],
            protocol=data["protocol"],
            split_file=data["split_file"],
        ).to_dict()
        split |= {"patients": PATIENTS, "hashes": {name: name for name in PATIENTS}}
        run.write_config(config)
        (run.folder / "split.json").write_text(json.dumps(split))
        rules = config["model"]["init_args"]["postprocessing"]
        run.update_manifest(
            status="finished",
            finished_at=str(when),
            overlays=line.overlays,
            postprocessing=str(rules or "none"),
            command=["lightning", "fit", *(line.typed() if by_option else ())],
        )
        card = {
            **{"model": config["model"], "config": config, "data": {"spacing": data["spacing"]}},
            **{"split": split, "seen": [], "overlays": line.overlays},
            "run": {"experiment": "dynunet", "id": run_id},
        }
        run.checkpoints.mkdir()
        torch.save({KEY: card, "state_dict": {}}, run.best_checkpoint)
        return run

    return make


@pytest.fixture
def ask(tmp_path, resolve):
    def found(*words):
        return find_checkpoints(CommandLine.parse(list(words)), Path("runs"), resolve)

    return found


FOLDS = ("--data.n_folds", "3", "--data.fold")


def test_a_fold_is_that_of_its_run_and_no_other(train, ask):
    for number, when in ((0, 1), (1, 2)):
        train(f"fold{number}", *FOLDS, str(number), when=when)
    assert ask(*EXPERIMENT).run.id == "fold1"  # the newest, without further settings
    for number in (0, 1):
        found = ask(*EXPERIMENT, *FOLDS, str(number))
        assert found.run.id == f"fold{number}"
        assert f"with data.n_folds 3, data.fold {number}: " in found.notice
    for asked in (["--data.split_seed", "5"], ["--data.protocol", "paper"]):
        with pytest.raises(InputError) as refused:
            ask(*EXPERIMENT, *asked)
        assert "the splits of those there are: fold 1 of 3, seed 0; fold 0 of 3" in str(
            refused.value
        )
    with pytest.raises(InputError, match=r"^data\.fold is 77: expected 0 to 2\.$"):
        ask(*EXPERIMENT, *FOLDS, "77")
    missing = r"split_file: there is no split file /no\.json: give an existing file or leave"
    with pytest.raises(InputError, match=missing):
        ask(*EXPERIMENT, "--data.split_file", "/no.json")
    with pytest.raises(InputError, match=r"--data.fold has no effect without --data.n_folds or"):
        ask(*EXPERIMENT, "--data.fold", "1")


def test_a_split_file_is_known_by_what_it_holds(train, ask):
    one, other = Path("one.json"), Path("other.json")
    names = list(PATIENTS)
    one.write_text(json.dumps({"train": names[4:], "val": names[2:4], "test": names[:2]}))
    other.write_text(json.dumps({"train": names[:5], "val": names[5:7], "test": names[7:]}))
    train("one", "--data.split_file", str(one))
    train("other", "--data.split_file", str(other), when=2)
    assert ask(*EXPERIMENT, "--data.split_file", str(one)).run.id == "one"
    one.rename("moved.json")
    assert ask(*EXPERIMENT, "--data.split_file", "moved.json").run.id == "one"
    one.write_text(json.dumps({"train": names[5:], "val": names[3:5], "test": names[:3]}))
    with pytest.raises(InputError, match=r"no finished run .*one\.json; .*|one\.json"):
        ask(*EXPERIMENT, "--data.split_file", str(one))


def test_what_training_used_up_chooses_the_run(train, ask):
    train("coarse", "--data.spacing", "3")
    train("fine", "--data.spacing", "1.5", "--seed_everything", "4", when=2)
    assert ask(*EXPERIMENT, "--data.init_args.spacing=3.0").run.id == "coarse"
    assert ask(*EXPERIMENT, "--seed_everything", "0").run.id == "coarse"
    assert ask(*EXPERIMENT, "--data.drop", "[t1]").run.id == "fine"  # applies to any run
    with pytest.raises(InputError, match=r"those there are have data\.spacing 1\.5 or 3\.0"):
        ask(*EXPERIMENT, "--data.spacing", "4")
    train("blanked", "--data.modality_dropout", "0.3", when=0)
    assert ask(*EXPERIMENT, "--data.modality_dropout", "0.3").run.id == "blanked"
    with pytest.raises(InputError, match=r"with model\.size base below"):
        ask(*EXPERIMENT, "--model.size", "base")


def test_what_a_test_applies_prefers_the_run_that_was_trained_so(train, ask):
    train("dropped", "--data.drop", "[t1]")
    train("whole", when=2)
    assert ask(*EXPERIMENT, "--data.drop", "[t1]").run.id == "dropped"
    assert ask(*EXPERIMENT, "--data.drop", "[t2]").run.id == "whole"
    assert ask(*EXPERIMENT, "--model.overlap", "0.25").model_words == ["model.overlap=0.25"]
    assert ask(*EXPERIMENT, "--model.overlap", "0.5").model_words == []  # as it was trained


def test_a_checkpoint_that_contradicts_the_command_is_refused(train, ask):
    file = str(train("fold0", *FOLDS, "0").best_checkpoint)
    ask("--ckpt_path", file, *FOLDS, "0")
    for asked, message in (
        ([*FOLDS, "1"], r"--data\.n_folds is 3, and .* with 3 \(fold 0 of 3, seed 0\): leave"),
        (["--data.fold", "1"], r"--data\.fold is 1, and .* was trained with 0 \(fold 0 of 3"),
        (["--data.patch_size", "[32,32,32]"], r"patch_size is \[32, 32, 32\], and .*\[48, 48, 48"),
        (["--config", "experiments/segresnet.yaml"], r"another experiment than that of .*dynunet"),
    ):
        with pytest.raises(InputError, match=message):
            ask("--ckpt_path", file, *asked)


def test_an_overlay_belongs_to_its_training_and_its_split_is_held_against_it(train, ask):
    Path("scale.yaml").write_text("{trainer: {max_epochs: 9}, data: {init_args: {batch_size: 1}}}")
    Path("folds.yaml").write_text("data: {init_args: {n_folds: 3, fold: 1}}")
    train("scaled", "--config", "scale.yaml", "--config", "folds.yaml", "--trainer.max_epochs", "2")
    train("plain", when=2)
    assert ask(*EXPERIMENT, "--config", "scale.yaml").run.id == "scaled"
    assert ask(*EXPERIMENT, "--config", "folds.yaml").run.id == "scaled"
    Path("folds.yaml").write_text("data: {init_args: {n_folds: 3, fold: 2}}")
    with pytest.raises(InputError, match="the splits of those there are"):
        ask(*EXPERIMENT, "--config", "folds.yaml")
    Path("longer.yaml").write_text("trainer: {max_epochs: 50}")
    with pytest.raises(InputError, match=r"with longer below .*trainer\.max_epochs 4 or 2"):
        ask(*EXPERIMENT, "--config", "longer.yaml")


def test_postprocessing_is_that_of_the_experiment_not_of_who_trained_the_run(train, ask):
    rules = json.dumps(RULES)
    train("run")
    with_rules = ask(*EXPERIMENT, f"--model.postprocessing={rules}")
    assert with_rules.model["init_args"]["postprocessing"] == RULES
    assert "post-processed as this command's experiment says" in with_rules.notice
    Path("rules.yaml").write_text(
        yaml.safe_dump({"model": {"init_args": {"postprocessing": RULES}}})
    )
    overlaid = ask(*EXPERIMENT, "--config", "rules.yaml")
    assert overlaid.model["init_args"]["postprocessing"] == RULES
    assert overlaid.run.id == "run"
    train("ruled", f"--model.postprocessing={rules}", when=2)
    assert ask(*EXPERIMENT).model["init_args"]["postprocessing"] == RULES  # given to its fit
    train("filed", f"--model.postprocessing={rules}", when=3, by_option=False)
    assert ask(*EXPERIMENT).model["init_args"]["postprocessing"] is None  # the file has none


def test_a_run_whose_files_are_gone_has_no_setting_that_is_asked_for(train, ask):
    run = train("bare", *FOLDS, "0")
    for name in ("config.yaml", "split.json"):
        (run.folder / name).unlink()
    assert ask(*EXPERIMENT).run.id == "bare"
    with pytest.raises(InputError, match="the splits of those there are: unknown"):
        ask(*EXPERIMENT, *FOLDS, "0")


def test_the_command_itself_resolves_so(train, monkeypatch, capsys):
    train("fold0", *FOLDS, "0")
    monkeypatch.setattr(apply, "ExperimentCLI", None)  # nothing is begun
    assert cli.main(["test", *EXPERIMENT, *FOLDS, "2"]) == 2
    assert "no finished run of dynunet with data.n_folds 3, data.fold 2" in capsys.readouterr().err
