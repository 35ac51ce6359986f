"""A wrong input is one clear sentence and status 2, before anything is trained."""

import errno
import os

import pytest
import torch

import cli
from errors import TerminatedError
from tests.conftest import SHRUNKEN


def refused(capsys, *words):
    assert cli.main([*words]) == 2
    output = capsys.readouterr().err
    assert "Traceback" not in output
    message = next(line for line in output.splitlines() if line.startswith("lightning"))
    assert output.strip().endswith(message)  # nothing but progress bars before it
    return message


def fit(*words):
    return ["fit", "--config", "experiments/dynunet.yaml", "--config", str(SHRUNKEN), *words]


def test_unknown_command(capsys):
    assert "no command 'trian'" in refused(capsys, "trian")


def test_a_full_disk_and_a_stop_are_told_in_one_sentence(capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "cache/p1.npy")

    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.commands.compare.main", full)
    message = refused(capsys, "compare")
    assert message.startswith("lightning compare: the disk is full (cache/p1.npy): free some space")
    monkeypatch.setattr("studies.commands.compare.main", stopped)
    assert cli.main(["compare"]) == 130
    assert capsys.readouterr().err.count("\n") == 1

    def terminated(_):
        raise TerminatedError

    def no_more(_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("studies.commands.compare.main", terminated)
    assert cli.main(["compare"]) == 143
    capsys.readouterr()
    monkeypatch.setattr("studies.commands.compare.main", no_more)
    assert "the disk is full" in refused(capsys, "compare")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "more.yaml holds no keys such as model"),
        ("# only a comment\n", "more.yaml holds no keys such as model"),
        ("trainer: 3\n", "more.yaml has 3 under trainer: expected settings"),
        ("trainer:\n", "more.yaml has None under trainer"),
        ("trainer:\n\tmax_epochs: 3\n", "more.yaml is no YAML, mend it"),
        ("trainer: {max_epochs: 3}\ntrainer: {max_steps: 2}\n", "the key 'trainer' stands twice"),
        ("trainer:\n  max_epochs: 3\n  max_epochs: 4\n", "the key 'max_epochs' stands twice"),
    ],
)
def test_a_wrong_configuration_file_is_named(in_workplace, tmp_path, capsys, content, message):
    (tmp_path / "more.yaml").write_text(content)
    assert message in refused(capsys, *fit("--config", str(tmp_path / "more.yaml")))


@pytest.mark.parametrize("command", ["benchmark", "sweep", "reproduce"])
def test_the_value_of_an_option_is_not_taken_for_the_file(capsys, command):
    message = refused(capsys, command, "--data.root", "/data", "some.yaml")
    assert "--data.root /data stands before the " in message
    assert f"as in `lightning {command} " in message


def test_no_experiment(in_workplace, capsys):
    assert "--config" in refused(capsys, "fit")


def test_missing_config_file(in_workplace, capsys):
    message = refused(capsys, "fit", "--config", "experiments/fuson.yaml")
    assert "no configuration file experiments/fuson.yaml" in message


def test_unknown_argument(in_workplace, capsys):
    message = refused(capsys, *fit("--model.sizes", "tiny"))
    assert "sizes" in message


def test_a_loss_for_classes_is_refused_for_regions(in_workplace, tmp_path, capsys):
    words = fit("--model.loss", "monai.losses.DiceCELoss", "--model.loss.sigmoid", "true")
    message = refused(capsys, *words, "--runs_dir", str(tmp_path))
    assert "WT, TC, ET overlap" in message
    assert "use lightning_modules.losses.DiceBCELoss" in message
    assert not list(tmp_path.rglob("*"))


def test_overlay_key_that_the_model_lacks(in_workplace, tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {attention: exact}}\n")
    assert "attention" in refused(capsys, *fit("--config", str(overlay)))


def test_absent_data(in_workplace, tmp_path, capsys):
    message = refused(capsys, *fit("--data.root", str(tmp_path / "nowhere")))
    assert "nowhere" in message


def test_patch_that_the_network_cannot_take(in_workplace, tmp_path, capsys):
    words = fit("--data.patch_size", "[20,20,20]", "--runs_dir", str(tmp_path))
    assert "set `patch_size` to 24 x 24 x 24" in refused(capsys, *words)
    assert not list(tmp_path.rglob("*"))  # refused before a run was begun


def test_no_finished_run(in_workplace, tmp_path, capsys):
    words = ["test", "--config", "experiments/fusion.yaml", "--runs_dir", str(tmp_path)]
    message = refused(capsys, *words)
    assert "no finished run of fusion" in message
    assert "lightning fit --config experiments/fusion.yaml" in message


def test_checkpoint_of_a_stranger(in_workplace, tmp_path, capsys):
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    assert "no gliofuse checkpoint" in refused(capsys, "predict", "--ckpt_path", str(foreign))


def test_checkpoint_with_pickled_code(in_workplace, tmp_path, capsys):
    class Payload:
        def __reduce__(self):
            return (print, ("run!",))

    foreign = tmp_path / "pickle.ckpt"
    torch.save({"gliofuse": Payload()}, foreign)
    message = refused(capsys, "predict", "--ckpt_path", str(foreign))
    assert "pickled objects" in message
    assert "run!" not in message


def test_truncated_checkpoint(in_workplace, tmp_path, capsys):
    whole = tmp_path / "whole.ckpt"
    torch.save({"gliofuse": {}, "state_dict": {"a": torch.zeros(1000)}}, whole)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(whole.read_bytes()[:1500])
    assert "truncated" in refused(capsys, "predict", "--ckpt_path", str(broken))


@pytest.mark.parametrize("name", ["validate", "test", "predict"])
def test_absent_checkpoint(name, in_workplace, capsys):
    assert "No checkpoint at gone.ckpt" in refused(capsys, name, "--ckpt_path", "gone.ckpt")


def test_batch_that_devices_cannot_share(in_workplace, tmp_path, capsys):
    from datamodules import BraTSPatchDataModule
    from errors import InputError

    class Trainer:
        world_size, global_rank = 2, 0

    data = BraTSPatchDataModule(
        spacing=6.0, phantom_patients=10, phantom_spacing=5.0, patch_size=[16, 16, 16], batch_size=3
    )
    data.prepare_data()
    data.setup("fit")
    data.trainer = Trainer()
    with pytest.raises(InputError, match="multiple of 2"):
        data.train_dataloader()
