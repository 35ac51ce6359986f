import numpy as np
import pytest
import torch
from monai.losses import DiceLoss

from backbones import DynUNet
from datamodules.layouts.conventions import CANONICAL, REGIONS, WHOLE_TUMOUR
from errors import InputError
from evaluation.metrics.postprocessing import Postprocessing
from evaluation.metrics.scores import EMPTY_RULES
from lightning_modules import BackboneModule
from lightning_modules.callbacks.metrics_file import MetricsFile, read_metrics
from lightning_modules.callbacks.prediction_writer import volume_row
from lightning_modules.contracts.settings import FitSettings, UseSettings
from lightning_modules.ensemble import EnsembleModule
from lightning_modules.segmentation import nest
from lightning_modules.weights.checkpoints import build


def make_module(**changes):
    torch.manual_seed(0)
    settings = {"network": DynUNet, "size": "tiny", "loss": DiceLoss(sigmoid=True), **changes}
    return BackboneModule(**settings)


def test_the_paper_s_optimiser_is_the_default():
    optimizer = make_module().configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 3e-4
    assert optimizer.defaults["weight_decay"] == 1e-4


def test_a_plateau_scheduler_follows_the_validation_dice():
    module = make_module(
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", patience=3
        )
    )
    settings = module.configure_optimizers()["lr_scheduler"]
    assert settings["monitor"] == "val/dice/mean"
    assert settings["interval"] == "epoch"


def test_volumes_need_the_patch_size_of_training():
    module = make_module()
    with pytest.raises(InputError, match="patch size of its training"):
        module.probabilities(torch.zeros(1, 4, 16, 16, 16))


def test_probabilities_of_a_volume_smaller_than_the_patch_and_odd():
    module = make_module().eval()
    module.patch_size = (16, 16, 16)
    output = module.probabilities(torch.randn(1, 4, 11, 19, 21))
    assert output.shape == (1, 3, 11, 19, 21)
    assert output.dtype == torch.float32
    assert 0 <= output.min() <= output.max() <= 1


def test_a_patch_is_checked_without_computing_it():
    module = make_module(size="base")
    module.check_patch((128, 128, 128))
    with pytest.raises(InputError, match="set `patch_size` to 64 x 64 x 64"):
        module.check_patch((48, 48, 48))
    assert all(weight.device.type == "cpu" for weight in module.parameters())


def test_a_grid_two_voxels_deep_is_not_trained_in_bf16_on_a_processor():
    module = make_module()
    module.check_patch((16, 16, 16))
    module.check_patch((24, 16, 16), bf16_on_cpu=True)
    with pytest.raises(InputError, match=r"or --trainer\.precision 32-true"):
        module.check_patch((16, 24, 24), bf16_on_cpu=True)


def test_nested_regions_are_those_of_the_composed_label_map():
    regions = torch.rand(2, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    for ours, raw in zip(nest(regions), regions, strict=True):
        composed = CANONICAL.to_regions(CANONICAL.from_regions(raw.numpy()))
        assert np.array_equal(ours.numpy(), composed)


def test_a_model_writes_the_patient_s_values_or_those_of_its_own_convention():
    module, regions = make_module(), torch.rand(3, 4, 4, 4).numpy() > 0.5
    assert np.array_equal(module.label_map(Patient, regions), CANONICAL.from_regions(regions))
    module.convention = WHOLE_TUMOUR
    labels = module.label_map(Patient, regions[:1])
    assert np.array_equal(labels, regions[0].astype(np.uint8))
    assert np.array_equal(module.convention_of(Patient).to_regions(labels)[:1], regions[:1])


def test_overlap_of_one_is_refused():
    with pytest.raises(InputError, match=r"model\.overlap is 1"):
        make_module(overlap=1.0)


def test_an_ensemble_is_the_mean_of_probabilities():
    members = [make_module().eval(), make_module(network=_other_dynunet).eval()]
    for member in members:
        member.patch_size = (16, 16, 16)
    image = torch.randn(1, 4, 16, 16, 16)
    expected = torch.stack([member.probabilities(image) for member in members]).mean(0)
    assert torch.equal(EnsembleModule(members).probabilities(image), expected)
    assert not torch.equal(expected, members[0].probabilities(image))


def test_an_ensemble_is_applied_as_its_settings_say():
    members = [make_module().eval(), make_module(network=_other_dynunet).eval()]
    for member in members:
        member.configure_for_fit(FitSettings((16, 16, 16)))
    ensemble = EnsembleModule(members)
    image = torch.randn(1, 4, 16, 16, 16)
    plain = ensemble.probabilities(image)
    ensemble.configure_for_use(UseSettings(Postprocessing(), EMPTY_RULES["nan"], "flips"))
    flipped = torch.stack([member.window(tta="flips")(member, image) for member in members])
    assert torch.equal(ensemble.probabilities(image), flipped.mean(0))
    assert not torch.equal(ensemble.probabilities(image), plain)
    assert {member.usage for member in members} == {ensemble.usage}


def _other_dynunet(*sizes):
    torch.manual_seed(1)
    return DynUNet(*sizes)


def test_unknown_class_in_a_stored_model_is_one_sentence():
    with pytest.raises(InputError, match=r"backbones\.Gone cannot be built"):
        build({"class_path": "backbones.Gone", "init_args": {}})


class Patient:
    case_id = "p"
    convention = CANONICAL
    native_spacing = (1.0, 1.0, 2.0)
    brain_ml = 2.0


def test_volumes_are_in_ml_and_doubts_are_named():
    nothing = np.zeros((3, 10, 10, 10), bool)
    row = volume_row(Patient, nothing, nothing, REGIONS)
    assert (row["WT_ml"], row["doubts"]) == (0.0, "no tumour found")
    large = nothing.copy()
    large[0, :5] = True  # 500 voxels of 2 mm3 = 1 ml of 2 ml of brain
    row = volume_row(Patient, large, large, REGIONS)
    assert row["WT_ml"] == pytest.approx(1.0)
    assert row["doubts"] == "over 40 % of the brain"
    outside = nothing.copy()
    outside[0, 0], outside[1, 9] = True, True
    assert (
        "core outside the whole tumour" in volume_row(Patient, outside, outside, REGIONS)["doubts"]
    )
    good = nothing.copy()
    good[0, :2], good[1, 0] = True, True
    assert volume_row(Patient, good, good, REGIONS)["doubts"] == ""


class FakeTrainer:
    is_global_zero = True
    global_step = 7

    def __init__(self, epoch, loss):
        self.current_epoch = epoch
        self.callback_metrics = {"train/loss": torch.tensor(loss)}
        weight = torch.nn.Parameter(torch.zeros(1))
        self.optimizers = [torch.optim.SGD([weight], lr=0.5)]


def test_metrics_file_repeats_no_epoch_on_resume(tmp_path):
    file = tmp_path / "metrics.csv"
    first = MetricsFile(file)
    for epoch in (0, 1, 2):
        first.on_train_epoch_end(FakeTrainer(epoch, 1.0), None)
    resumed = MetricsFile(file)
    resumed.on_train_start(FakeTrainer(1, 0.0), None)
    resumed.on_train_epoch_end(FakeTrainer(1, 0.25), None)
    rows = read_metrics(file)
    assert [row["epoch"] for row in rows] == [0, 1]
    assert [row["train/loss"] for row in rows] == [1.0, 0.25]
    assert rows[0]["lr"] == 0.5
