"""An option that a command would not use is refused in one sentence, before any search."""

from pathlib import Path

import pytest

import cli
from errors import InputError
from studies.runs.request import check_variant
from studies.runs.unused_options import TABLE, check_forwarded, check_together, check_typed
from studies.settings.command_line import CommandLine


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("fit", ["--ckpt_path", "last.ckpt"], "--resume goes on with a training"),
        ("fit", ["--trainer.default_root_dir=x"], "--runs_dir sets the folder of runs"),
        ("fit", ["--trainer.limit_test_batches", "2"], "lightning test"),
        ("fit", ["--weights_only", "false"], "--weights_only has no effect in fit"),
        ("test", ["--trainer.default_root_dir", "x"], "--output, --results_dir and --runs_dir"),
        ("test", ["--trainer.limit_train_batches_", "1"], "has no effect in test: leave it out"),
        ("test", ["--trainer.limit_val_batches_x", "1"], "has no effect in test"),
        ("test", ["--verbose", "true"], "--verbose has no effect in test"),
        ("validate", ["--trainer.logger.project", "mine"], "only fit and test log"),
        ("validate", ["--model.postprocessing.least_core", "1"], "validation never applies it"),
        ("predict", ["--trainer.logger", "a.B"], "only fit and test log"),
        ("predict", ["--data.init_args.selection", "largest"], "every slice is predicted"),
        ("predict", ["--return_predictions", "true"], "has no effect in predict"),
        ("predict", ["--data.root", "x", "--t1", "a.nii"], "--data.root names a cohort and --t1"),
        ("fit", ["--data.fold", "0", "--data.fold=1"], "--data.fold is given twice, 0 and 1"),
        ("fit", ["--resume", "--overwrite"], "give one of them"),
        ("test", ["best.ckpt"], "best.ckpt stands alone"),
        ("test", ["--ckpt_path"], "--ckpt_path has no value"),
        ("fit", ["--config", "a.yaml", "--config"], "--config has no value"),
        ("predict", ["--config=", "--t1"], "--config has no value"),
    ],
)
def test_an_option_without_an_effect_is_refused(command, words, message):
    with pytest.raises(InputError) as refused:
        check_typed(command, CommandLine.parse(words))
    assert message in str(refused.value)


def test_what_has_an_effect_or_asks_for_what_happens_anyway_passes():
    check_typed("fit", CommandLine.parse(["--trainer.enable_model_summary", "false", "--resume"]))
    check_typed("test", CommandLine.parse(["--ckpt_path", "a", "--ckpt_path", "b"]))
    check_typed(
        "test", CommandLine.parse(["--trainer.devices=1", "--trainer.limit_test_batches=1"])
    )
    check_typed("predict", CommandLine.parse(["--trainer.logger", "false", "--data.drop=[t1]"]))


@pytest.mark.parametrize(
    ("words", "data", "message"),
    [
        (["--data.fold", "1"], {}, "without --data.n_folds or --data.split_file"),
        (["--data.n_folds", "3"], {"split_file": "s.json"}, "beside data.split_file (s.json)"),
        (["--data.phantom_patients", "3"], {"root": "/x"}, "beside data.root (/x)"),
        (["--data.init_args.phantom_seed=3"], {"images": {}}, "beside data.images"),
        (["--data.phantoms=0.5"], {}, "without --data.root"),
        (["--data.phantom_seed=3"], {"root": "/x", "phantoms": 0.0}, "beside data.root (/x)"),
        (["--data.layout", "brats2021"], {}, "without --data.root or --data.images"),
        (["--data.slices_per_patient", "3"], {"selection": "largest"}, "selection largest"),
    ],
)
def test_a_setting_that_another_leaves_without_meaning_is_refused(words, data, message):
    with pytest.raises(InputError) as refused:
        check_together(CommandLine.parse(words), data, {})
    assert message in str(refused.value)
    line = CommandLine.parse(["--config", "overlay.yaml"])
    check_together(line, data, {})  # files are left alone


def test_a_seed_is_a_number():
    with pytest.raises(InputError, match="--seed_everything is false: expected a number"):
        check_typed("fit", CommandLine.parse(["--seed_everything", "false"]))


def test_phantoms_that_are_mixed_with_patients_have_settings():
    words = ["--data.phantom_seed=3", "--data.phantom_patients=20", "--data.phantoms=0.5"]
    check_together(CommandLine.parse(words), {"root": "/x", "phantoms": 0.5}, {})


def test_a_size_beside_a_variant_of_sam_is_refused():
    line = CommandLine.parse(["--model.size=base"])
    check_together(line, {}, {"variant": None})
    with pytest.raises(InputError, match=r"--model.size has no effect beside .*\(mobile_sam\)"):
        check_together(line, {}, {"variant": "mobile_sam"})


@pytest.mark.parametrize("word", ["--overwrite", "--resume", "--ckpt_path=a"])
def test_a_study_takes_no_option_of_one_training(word):
    with pytest.raises(InputError):
        check_forwarded(CommandLine.parse([word]))


@pytest.mark.parametrize("word", ["--data.fold=1", "--data.batch_size=4", "--model.size=base"])
def test_a_further_test_has_no_setting_of_training(word):
    with pytest.raises(InputError, match="belongs to a training"):
        check_variant(CommandLine.parse([word]))
    check_variant(CommandLine.parse(["--data.drop=[t1]", "--model.overlap=0.25", "--rule=nan"]))


def test_help_offers_nothing_that_is_refused(capsys):
    for command in ("fit", "test"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        offered = capsys.readouterr().out
        assert "--weights_only" not in offered
        assert ("--ckpt_path" in offered) is (command == "test")


def test_fit_refuses_a_checkpoint_before_it_prepares_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--config", "experiments/dynunet.yaml", "--ckpt_path", "/nowhere/last.ckpt"]
    assert cli.main(["fit", *words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("lightning fit: --ckpt_path has no effect in fit: --resume goes on")
    assert message.count("\n") == 1
    assert not list(Path().iterdir())


def test_every_sentence_ends_open_so_that_one_full_stop_follows():
    assert not [text for known in TABLE.values() for text in known.values() if text.endswith(".")]
