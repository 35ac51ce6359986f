"""Settings of Lightning's trainer, and those that modules and callbacks apply instead."""

import pytest
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from errors import InputError
from lightning_modules.weights.checkpoints import WholeCheckpoints
from studies.settings import trainer
from studies.settings.trainer import (
    hand_over_optimisation,
    limit_of_steps,
    repeatability,
    with_whole_checkpoints,
)


class Adversarial(nn.Module):
    steps_per_batch = 2


def test_what_lightning_refuses_goes_to_the_module():
    settings = {"gradient_clip_val": 1.0, "strategy": "ddp"}
    assert hand_over_optimisation(Adversarial(), settings) == 1.0
    assert "gradient_clip_val" not in settings
    assert settings["strategy"] == "ddp_find_unused_parameters_true"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy": "auto", "devices": 2, "accelerator": "cpu"}, True),
        ({"strategy": "auto", "devices": 1, "num_nodes": 2, "accelerator": "cpu"}, True),
        ({"strategy": "auto", "devices": "0,1", "accelerator": "gpu"}, True),
        ({"strategy": "auto", "devices": "auto", "accelerator": "cpu"}, False),
        ({"strategy": "auto", "devices": 1}, False),
    ],
)
def test_several_devices_wait_for_no_weight_that_was_not_reached(settings, expected):
    hand_over_optimisation(Adversarial(), settings)
    assert (settings["strategy"] == "ddp_find_unused_parameters_true") == expected


def test_steps_are_counted_as_batches():
    settings = {"max_steps": 100, "min_steps": None}
    hand_over_optimisation(Adversarial(), settings)
    assert settings["max_steps"] == 200


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"accumulate_grad_batches": 4}, "raise data.batch_size"),
        ({"gradient_clip_algorithm": "value"}, "clips by norm"),
    ],
)
def test_what_it_cannot_do_is_refused(setting, words):
    with pytest.raises(InputError, match=words):
        hand_over_optimisation(Adversarial(), setting)


@pytest.mark.parametrize("given", [{"max_steps": -1}, {"max_steps": None}, {}])
def test_no_limit_of_steps(given):
    settings = {**given, "max_epochs": None, "min_epochs": 3}
    assert limit_of_steps(settings) is None
    assert settings == {"max_epochs": None, "min_epochs": 3}


def test_a_limit_of_steps_is_not_left_to_lightning():
    settings = {"max_steps": 7, "max_epochs": None}
    assert limit_of_steps(settings) == 7
    assert settings == {"max_epochs": 7}
    for wrong, words in [
        ({"max_steps": 0}, "1 or more"),
        ({"max_steps": 7, "min_epochs": 1}, "contradict"),
    ]:
        with pytest.raises(InputError, match=words):
            limit_of_steps(wrong)


@pytest.mark.parametrize(
    ("device", "given", "deterministic", "benchmark"),
    [
        ("cpu", {}, "warn", None),
        ("cpu", {"deterministic": False}, False, None),
        ("cuda", {}, False, True),
        ("cuda", {"deterministic": None, "benchmark": None}, False, True),
        ("cuda", {"deterministic": True}, True, False),
        ("cuda", {"deterministic": "warn"}, "warn", False),
        ("cuda", {"benchmark": False}, False, False),
    ],
)
def test_a_processor_repeats_and_a_gpu_is_fast_unless_typed(
    device, given, deterministic, benchmark, monkeypatch
):
    monkeypatch.setattr(trainer, "choose_device", lambda accelerator: device)
    found = repeatability({"accelerator": "auto", **given})
    assert found == {"deterministic": deterministic, "benchmark": benchmark}


def test_checkpoints_are_written_whole_unless_another_plugin_writes_them():
    own, other = TorchCheckpointIO(), TorchSyncBatchNorm()
    for given, expected in [(None, []), (other, [other]), ([other], [other])]:
        *before, last = with_whole_checkpoints(given)
        assert before == expected
        assert isinstance(last, WholeCheckpoints)
    assert with_whole_checkpoints([own]) == [own]
