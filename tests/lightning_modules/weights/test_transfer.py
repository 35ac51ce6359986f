import json

import pytest
import torch
from monai.losses import DiceLoss

from backbones import DynUNet, SegResNet
from errors import InputError
from lightning_modules import BackboneModule
from lightning_modules.weights.checkpoints import KEY, load_module
from tests.lightning_modules.conftest import spec_of


def make(network, weights):
    return BackboneModule(network=network, size="tiny", weights=weights, loss=DiceLoss())


def test_a_network_goes_on_from_another_training(backbone_files):
    torch.manual_seed(7)
    module = make(DynUNet, backbone_files[0])
    given = load_module(backbone_files[0]).network.state_dict()
    assert all(torch.equal(given[name], one) for name, one in module.network.state_dict().items())
    assert "(100.0%) taken over" in module.remarks()[0]
    assert "new:" not in module.remarks()[0]


def test_its_checkpoint_needs_the_earlier_one_no_more(backbone_files):
    module = make(DynUNet, backbone_files[0])
    module.card["model"] = {"class_path": "x", "init_args": {"weights": backbone_files[0]}}
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint[KEY]["model"]["init_args"]["weights"] is None
    fresh = make(DynUNet, None)
    assert fresh.remarks() == []
    fresh.on_load_checkpoint(checkpoint)
    assert fresh.remarks() == module.remarks()


def test_other_networks_are_refused(backbone_files):
    with pytest.raises(InputError, match="they share no weight"):
        make(SegResNet, backbone_files[0])


def test_another_shape_of_one_weight_is_refused(backbone_files):
    with pytest.raises(InputError, match=r"output_block\.\S+ has another shape"):
        make(lambda *_: DynUNet(4, 2, "tiny"), backbone_files[0])


def test_an_experiment_is_trained_by_fit_alone():
    with pytest.raises(InputError, match="only `lightning fit` trains upstream stages"):
        make(DynUNet, "experiments/dynunet.yaml")


def test_another_kind_of_file_is_called_what_it_is():
    with pytest.raises(InputError, match=r"weights\.pth is neither an experiment"):
        make(DynUNet, "weights.pth")


def test_a_rehearsal_takes_the_architecture(backbone_files):
    module = make(DynUNet, json.dumps(spec_of("backbones.DynUNet")))
    assert "an untrained rehearsal" in module.remarks()[0]
