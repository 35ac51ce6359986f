import copy
import json

import pytest
import torch
from monai.losses import DiceLoss

from backbones import DynUNet, SegResNet
from errors import InputError
from fusion import LateFusion
from lightning_modules import BackboneModule, FusionModule
from lightning_modules.weights.checkpoints import KEY, load_module
from lightning_modules.weights.transfer import freeze
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


def write_fusion(folder, *backbones):
    """Write a late fusion of checkpoints as a fit does; return its path."""
    module = FusionModule(head=LateFusion, backbones=list(backbones), size="tiny", loss=DiceLoss())
    arguments = {"head": {"class_path": "fusion.LateFusion"}, "backbones": [], "size": "tiny"}
    arguments["loss"] = {"class_path": "monai.losses.DiceLoss"}
    spec = {"class_path": "lightning_modules.FusionModule", "init_args": arguments}
    module.card.update(model=spec, seen=[])
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "fusion.ckpt")
    return str(folder / "fusion.ckpt")


@pytest.mark.parametrize(("place", "network"), [(0, DynUNet), (1, SegResNet)])
def test_of_a_fusion_the_backbone_of_the_own_class_is_taken(
    place, network, backbone_files, tmp_path
):
    torch.manual_seed(7)
    module = make(network, write_fusion(tmp_path, *backbone_files))
    given = load_module(backbone_files[place]).network.state_dict()
    assert all(torch.equal(given[name], one) for name, one in module.network.state_dict().items())
    name = network.__name__
    assert f"(100.0%) taken over from the {name} in {tmp_path}" in module.origin
    assert module.origin.endswith("output layer included, none is new")


def test_a_fusion_of_several_of_the_class_or_of_none_is_refused(backbone_files, tmp_path):
    several = write_fusion(tmp_path, backbone_files[0], backbone_files[0])
    with pytest.raises(InputError, match="which is 2 networks of the class DynUNet: give"):
        make(DynUNet, several)
    with pytest.raises(InputError, match="which is no network of the class SegResNet"):
        make(SegResNet, several)
    one = write_fusion(tmp_path, *backbone_files)
    with pytest.raises(InputError, match="with other weights than this one"):
        make(lambda *_: DynUNet(4, 3, "tiny", norm="instance"), one)


def test_frozen_coarser_outputs_are_no_part_of_the_loss(backbone_files, batch):
    options = {"network": DynUNet, "weights": backbone_files[0], "loss": DiceLoss()}
    plain = BackboneModule(**options).eval()
    deep = BackboneModule(**options, frozen="features", deep_supervision=True).eval()
    assert torch.equal(deep.compute_loss(batch), plain.compute_loss(batch))
    assert "deep supervision had no effect, the coarser output layers are frozen" in deep.remarks()


@pytest.mark.parametrize(
    ("network", "output"), [(DynUNet, "output_block."), (SegResNet, "conv_final.")]
)
def test_with_frozen_features_the_output_layer_alone_changes(
    network, output, backbone_files, batch
):
    file = backbone_files[0 if network is DynUNet else 1]
    module = BackboneModule(network=network, weights=file, frozen="features", loss=DiceLoss())
    before = copy.deepcopy(module.network.state_dict())
    optimizer = module.configure_optimizers()
    module.train()
    module.compute_loss(batch).backward()
    optimizer.step()
    after = module.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(output) for name in changed)
    counts = module.parameter_counts()
    assert 0 < counts["trained"] < 0.01 * counts["all"]
    assert "all but the output layer are frozen" in module.remarks()[0]


def test_all_frozen_is_nothing_to_train_and_the_checkpoint_loads_without_its_source(
    backbone_files,
):
    module = BackboneModule(
        network=DynUNet, weights=backbone_files[0], frozen="all", loss=DiceLoss()
    )
    assert module.has_nothing_to_train
    arguments = {"weights": backbone_files[0], "frozen": "all"}
    module.card["model"] = {"class_path": "x", "init_args": arguments}
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    stored = checkpoint[KEY]["model"]["init_args"]
    assert stored == {"weights": None, "frozen": "nothing"}
    assert "all of them are frozen" in checkpoint[KEY]["origin"]


def test_random_weights_cannot_be_frozen():
    with pytest.raises(InputError, match=r"model\.frozen is features, but there are no weights"):
        BackboneModule(network=DynUNet, frozen="features", loss=DiceLoss())


def test_a_network_without_an_output_layer_of_its_own_cannot_be_frozen_but_for_it():
    with pytest.raises(InputError, match="Linear has no output layer apart"):
        freeze(torch.nn.Linear(2, 2), "features")
