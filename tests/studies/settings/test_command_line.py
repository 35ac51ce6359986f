import pytest
import yaml

from errors import InputError
from studies.settings.command_line import ROOT, CommandLine, find_config


def test_settings_that_are_no_file_go_to_the_parser_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text("data: {fold: 1}")
    line = CommandLine(["best.ckpt", "mine.yaml"], [("t", ["--t", "1"])])
    line.contents = {"best.ckpt": {"model": {"rate": 1e-05, "name": None}, "seed_everything": 0}}
    first, own, *others = line.words()
    assert first == "--config"
    assert yaml.safe_load(own) == line.content("best.ckpt") == line.contents["best.ckpt"]
    assert others == ["--config", str(file), "--t", "1"]
    assert line.content("mine.yaml") == {"data": {"fold": 1}}


def test_sorts_configs_and_options_in_every_spelling():
    line = CommandLine.parse(
        [
            "--config",
            "a.yaml",
            "--data.root",
            "/x",
            "--config=b.yaml",
            "--resume",
            "--trainer.max_epochs=3",
            "--t",
            "1",
            "2",
            "--weight",
            "-0.5",
        ]
    )
    assert line.configs == ["a.yaml", "b.yaml"]
    assert line.overlays == ["b"]
    assert line.options == [
        ("data.root", ["--data.root", "/x"]),
        ("resume", ["--resume"]),
        ("trainer.max_epochs", ["--trainer.max_epochs=3"]),
        ("t", ["--t", "1", "2"]),
        ("weight", ["--weight", "-0.5"]),
    ]


def test_pop_takes_every_occurrence():
    line = CommandLine.parse(["--ckpt_path", "a", "b", "--ckpt_path=c", "--x", "1"])
    assert line.pop("ckpt_path") == ["a", "b", "c"]
    assert not line.has("ckpt_path")
    assert line.has("x")


def test_upstream_keeps_data_trainer_seed_and_size_but_not_the_model():
    line = CommandLine.parse(
        [
            "--config",
            "experiments/fusion.yaml",
            "--config",
            "o.yaml",
            "--data.root",
            "/x",
            "--trainer.devices",
            "2",
            "--seed_everything",
            "3",
            "--model.head.attention",
            "exact",
            "--model.size",
            "base",
            "--resume",
        ]
    )
    stage = line.upstream("experiments/dynunet.yaml")
    assert stage.configs == ["experiments/dynunet.yaml", "o.yaml"]
    assert [name for name, _ in stage.options] == [
        "data.root",
        "trainer.devices",
        "seed_everything",
        "model.size",
        "resume",
    ]


def test_project_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("experiments/fusion.yaml") == ROOT / "experiments" / "fusion.yaml"


def test_an_own_file_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "experiments" / "fusion.yaml"
    own.parent.mkdir()
    own.write_text("")
    assert find_config("experiments/fusion.yaml") == own


def test_the_experiment_is_the_stem_of_the_first_file():
    line = CommandLine.parse(["--config", "experiments/fusion.yaml"])
    assert line.experiment == "fusion"


def test_missing_config_says_where_it_was_looked_for():
    with pytest.raises(InputError, match=r"no configuration file nowhere\.yaml"):
        find_config("nowhere.yaml")


def test_no_config_says_what_to_add():
    with pytest.raises(InputError, match=r"--config experiments/fusion\.yaml"):
        _ = CommandLine.parse([]).experiment
