import pytest
from torch import nn

from errors import InputError
from studies.training import _hand_over_optimisation


class Adversarial(nn.Module):
    gradient_clip_val = None


def test_what_lightning_refuses_goes_to_the_module():
    module, settings = Adversarial(), {"gradient_clip_val": 1.0, "strategy": "ddp"}
    _hand_over_optimisation(module, settings)
    assert module.gradient_clip_val == 1.0
    assert "gradient_clip_val" not in settings
    assert settings["strategy"] == "ddp_find_unused_parameters_true"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"accumulate_grad_batches": 4}, "raise data.batch_size"),
        ({"gradient_clip_algorithm": "value"}, "clips by norm"),
    ],
)
def test_what_it_cannot_do_is_refused(setting, words):
    with pytest.raises(InputError, match=words):
        _hand_over_optimisation(Adversarial(), setting)
