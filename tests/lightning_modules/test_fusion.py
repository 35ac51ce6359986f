import copy
import json
import math
from functools import partial

import pytest
import torch
from monai.losses import DiceLoss

from errors import InputError
from fusion import DualFusionAttention
from lightning_modules import FusionModule
from lightning_modules.weights.checkpoints import KEY


def test_backbones_stay_frozen_and_bit_identical_while_the_head_trains(fusion_module, batch):
    before = copy.deepcopy(fusion_module.backbones.state_dict())
    head_before = copy.deepcopy(fusion_module.head.state_dict())
    optimizer = fusion_module.configure_optimizers()
    fusion_module.train()
    for _ in range(2):
        optimizer.zero_grad()
        fusion_module.compute_loss(batch).backward()
        optimizer.step()
    after = fusion_module.backbones.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(weight.requires_grad for weight in fusion_module.backbones.parameters())
    changed = fusion_module.head.state_dict()
    assert any(not torch.equal(head_before[name], changed[name]) for name in head_before)


def test_backbones_are_in_eval_mode_also_while_training(fusion_module):
    fusion_module.train()
    assert fusion_module.head.training
    assert not any(module.training for module in fusion_module.backbones.modules())


def test_the_optimiser_holds_the_head_only(fusion_module):
    held = {
        id(weight)
        for group in fusion_module.configure_optimizers().param_groups
        for weight in group["params"]
    }
    assert held == {id(weight) for weight in fusion_module.head.parameters()}


def test_a_backbone_runs_once_a_batch_and_keeps_no_activations(fusion_module, batch):
    calls, features = [], []
    for network in fusion_module.networks:
        original = network.features

        def counted(image, original=original):
            calls.append(1)
            features.append(original(image))
            return features[-1]

        network.features = counted
    fusion_module.train()
    fusion_module.compute_loss(batch)
    assert len(calls) == len(fusion_module.networks) == 2
    assert all(feature.grad_fn is None and not feature.requires_grad for feature in features)


def test_its_checkpoint_rebuilds_it_without_the_backbone_files(
    fusion_module, backbone_files, tmp_path, batch
):
    from lightning_modules.weights.checkpoints import load_module

    arguments = {
        "head": {"class_path": "fusion.DualFusionAttention"},
        "backbones": backbone_files,
        "size": "tiny",
        "loss": {"class_path": "monai.losses.DiceLoss", "init_args": {"sigmoid": True}},
    }
    fusion_module.card["model"] = {
        "class_path": "lightning_modules.FusionModule",
        "init_args": arguments,
    }
    fusion_module.patch_size = (16, 16, 16)
    checkpoint = {"state_dict": fusion_module.state_dict()}
    fusion_module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "fusion.ckpt")
    for file in backbone_files:
        (tmp_path / file).unlink()
    again = load_module(tmp_path / "fusion.ckpt").eval()
    fusion_module.eval()
    with torch.no_grad():
        assert torch.equal(again(batch["image"]), fusion_module(batch["image"]))
    assert again.patch_size == (16, 16, 16)


def saved(module):
    """What a checkpoint of a module carries."""
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def test_a_head_of_an_earlier_version_is_refused_and_late_fusion_is_not(fusion_module, late_module):
    fusion_module.patch_size = late_module.patch_size = (16, 16, 16)
    checkpoint = saved(fusion_module)
    fusion_module.on_load_checkpoint(checkpoint)
    del checkpoint[KEY]["features"]
    with pytest.raises(InputError, match=r"earlier version.*train it again.*backbones\s+can stay"):
        fusion_module.on_load_checkpoint(checkpoint)
    earlier = saved(late_module)
    del earlier[KEY]["features"]
    late_module.on_load_checkpoint(earlier)  # it has no weight that could be another's


def test_saturation_is_logged_and_the_start_is_said(fusion_module, late_module, monkeypatch):
    logged = {}
    monkeypatch.setattr(fusion_module, "log", lambda name, value, **_: logged.update({name: value}))
    image = torch.ones(1, 4, 2, 2, 2)
    image[..., 0] = 0  # outside the brain, where certainty costs nothing
    probabilities = torch.full((1, 3, 2, 2, 2), 0.9)
    probabilities[..., 0] = 1.0
    fusion_module.watch(probabilities, {"image": image})
    assert logged["val/median_logit"].item() == pytest.approx(math.log(9), rel=1e-5)
    fusion_module.watch(torch.ones(1, 3, 2, 2, 2), {"image": image})
    assert 9.2 < logged["val/median_logit"] < 17
    assert fusion_module.remarks() == ["the head started as late fusion of its backbones"]
    assert late_module.remarks() == []


def test_a_bias_of_a_layer_that_corrects_late_fusion_is_refused(backbone_files):
    arguments = {"backbones": backbone_files, "loss": DiceLoss(), "output_bias": -2.0}
    with pytest.raises(InputError, match=r"leave it out, or set model.head.start to zero"):
        FusionModule(head=DualFusionAttention, **arguments)
    FusionModule(head=partial(DualFusionAttention, start="zero"), **arguments)


def test_late_fusion_has_nothing_to_train(late_module, fusion_module):
    assert late_module.has_nothing_to_train
    assert not fusion_module.has_nothing_to_train


def test_deep_supervision_is_said_to_be_the_backbones(backbone_files):
    module = FusionModule(
        head=DualFusionAttention, backbones=backbone_files, loss=DiceLoss(), deep_supervision=True
    )
    assert module.remarks()[-1].startswith("deep supervision is left to the backbones")


def test_no_backbone_is_refused():
    with pytest.raises(InputError, match=r"^model\.backbones is empty: list the networks to fuse"):
        FusionModule(head=DualFusionAttention, backbones=[], loss=DiceLoss())


def test_another_size_is_refused(backbone_files):
    with pytest.raises(InputError, match="has size tiny, the fusion base"):
        FusionModule(
            head=DualFusionAttention, backbones=backbone_files, size="base", loss=DiceLoss()
        )


def test_an_experiment_that_is_not_trained_is_told():
    with pytest.raises(InputError, match="only `lightning fit` trains upstream stages"):
        FusionModule(
            head=DualFusionAttention, backbones=["experiments/dynunet.yaml"], loss=DiceLoss()
        )


def test_a_fusion_is_no_backbone(backbone_files):
    spec = {
        "class_path": "lightning_modules.FusionModule",
        "init_args": {
            "head": {"class_path": "fusion.DualFusionAttention"},
            "backbones": backbone_files,
            "loss": {"class_path": "monai.losses.DiceLoss"},
        },
    }
    with pytest.raises(InputError, match="holds a FusionModule, not a stage-1 backbone"):
        FusionModule(head=DualFusionAttention, backbones=[json.dumps(spec)], loss=DiceLoss())
