"""What a training takes over from foreign networks, and what cannot be taken over."""

from pathlib import Path

import pytest

from errors import InputError
from studies.runs.foreign.adoption import adopt
from studies.runs.foreign.networks import Converted
from studies.settings.command_line import CommandLine

PLANNED = {"class_path": "backbones.PlannedUNet", "init_args": {"residual": False}}
RESIDUAL = {"class_path": "backbones.PlannedUNet", "init_args": {"residual": True}}
SEGRESNET = {"class_path": "backbones.SegResNet"}


def network(text, spec=SEGRESNET, size="base", spacing=1.0, kind="nonzero", window=(32, 32, 32)):
    card = {
        "model": {"class_path": "lightning_modules.BackboneModule"},
        "foreign": {"name": f"the {text}", "normalisation": kind, "notes": []},
        "data": {"spacing": spacing},
        "patch_size": list(window),
    }
    card["model"]["init_args"] = {"network": spec, "size": size}
    return Converted(text, Path(f"{text}.ckpt"), card, f"hash of {text}", None)


BUNDLE = network("bundle")
NNUNET = network("nnunet", PLANNED, kind="brain", window=(24, 32, 32))


def configured(backbones=None, weights=None, of="DynUNet", **data):
    model = {"size": "tiny", "trained_on": None}
    name = "FusionModule"
    if backbones is None:
        name = "BackboneModule"
        model |= {"weights": weights, "network": {"class_path": f"backbones.{of}"}}
    else:
        model["backbones"] = backbones
    settings = {"spacing": 2.0, "normalisation": "clipped", "patch_size": [48, 48, 48]}
    return {
        "model": {"class_path": f"lightning_modules.{name}", "init_args": model},
        "data": {"class_path": "datamodules.X", "init_args": {**settings, **data}},
    }


def run(config, *words, networks=(BUNDLE, NNUNET)):
    known = {one.text: one for one in networks}
    line = CommandLine.parse(["--config", "experiments/late_fusion.yaml", *words])
    return adopt(line, config, lambda text, *_: known[text])


def test_a_fusion_takes_over_what_both_networks_need():
    config = configured(["bundle", "nnunet"])
    adoption = run(config)
    data = config["data"]["init_args"]
    assert (data["spacing"], data["normalisation"]) == (1.0, "brain")
    assert data["patch_size"] == [24, 32, 32]  # the smaller window
    assert config["model"]["init_args"]["size"] == "base"
    assert "data.spacing is 1.0, taken over from the bundle (2.0 before)." in adoption.notes
    assert any("the bundle was trained on z-scores over each" in one for one in adoption.notes)
    stage = adoption.upstream(CommandLine(["a.yaml"]), "experiments/dynunet.yaml")
    assert {"--data.normalisation=brain", "--model.size=base"} < set(stage.words())


def test_a_network_without_sizes_leaves_the_size_alone():
    config = configured(["nnunet", "experiments/dynunet.yaml"])
    run(config)
    assert config["model"]["init_args"]["size"] == "tiny"


def test_nothing_is_taken_over_where_all_networks_are_our_own():
    config = configured(["experiments/dynunet.yaml", "a.ckpt"])
    before = repr(config)
    assert run(config).networks == {}
    assert repr(config) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.spacing", "2"], r"--data\.spacing is 2\.0, but the bundle has 1\.0"),
        (["--data.normalisation=clipped"], r"normalisation is clipped, but the nnunet .* brain"),
        (["--model.size", "tiny"], r"--model\.size is tiny, but the bundle has base"),
        (["--model.init_args.size=tiny"], r"--model\.init_args\.size is tiny, but"),
    ],
)
def test_what_was_typed_otherwise_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        run(configured(["bundle", "nnunet"]), *words)


def test_so_is_what_an_overlay_sets(tmp_path):
    file = tmp_path / "coarse.yaml"
    file.write_text("data: {init_args: {spacing: 2.0}}\n")
    with pytest.raises(InputError, match=r"coarse\.yaml: data\.spacing is 2\.0, but the bundle"):
        run(configured(["bundle"]), "--config", str(file))


def test_a_typed_window_stays_and_is_noted():
    config = configured(["nnunet"])
    notes = run(config, "--data.patch_size", "[48, 48, 48]").notes
    assert config["data"]["init_args"]["patch_size"] == [48, 48, 48]
    assert "data.patch_size is [48, 48, 48] by --data.patch_size, the nnunet has" in notes[-1]


def test_networks_that_take_other_images_cannot_be_fused():
    coarse = network("coarse", PLANNED, spacing=0.8)
    with pytest.raises(InputError, match=r"bundle was trained at .* 1 mm and coarse at 0\.8 mm"):
        run(configured(["bundle", "coarse"]), networks=(BUNDLE, coarse))
    small = network("small", size="tiny")
    with pytest.raises(InputError, match="networks of the sizes base and tiny: fuse networks of"):
        run(configured(["bundle", "small"]), networks=(BUNDLE, small))


@pytest.mark.parametrize(
    ("one", "of", "taken"),
    [
        (BUNDLE, "SegResNet", "SegResNet"),
        (NNUNET, "DynUNet", "PlannedUNet"),
        (network("residual", RESIDUAL), "ResidualEncoderUNet", "PlannedUNet"),
    ],
)
def test_weights_bring_their_network(one, of, taken):
    config = configured(weights=one.text, of=of)
    adoption = run(config, networks=[one])
    assert config["model"]["init_args"]["network"]["class_path"] == f"backbones.{taken}"
    assert config["data"]["init_args"]["spacing"] == 1.0
    assert "network" in adoption.model


@pytest.mark.parametrize(
    ("one", "of", "advice"),
    [
        (BUNDLE, "DynUNet", "SegResNet"),
        (NNUNET, "SegResNet", "DynUNet"),
        (network("residual", RESIDUAL), "DynUNet", "ResidualEncoderUNet"),
    ],
)
def test_weights_of_another_architecture_are_refused_and_the_advice_works(one, of, advice):
    config = configured(weights=one.text, of=of)
    with pytest.raises(InputError, match=rf"add --model\.network backbones\.{advice}, or take"):
        run(config, networks=[one])
    run(configured(weights=one.text, of=advice), networks=[one])


def test_a_network_with_options_of_its_own_is_refused():
    config = configured(weights="bundle", of="SegResNet")
    config["model"]["init_args"]["network"]["init_args"] = {"norm": "instance"}
    with pytest.raises(InputError, match=r"model\.network has norm set beside the weights bundle"):
        run(config)


def test_ids_that_no_network_needs_are_refused():
    config = configured(["a.ckpt"])
    config["model"]["init_args"]["trained_on"] = "ids.txt"
    with pytest.raises(InputError, match=r"trained_on ids\.txt has no effect without a network"):
        run(config)
    config = configured(["bundle"])
    config["model"]["init_args"]["trained_on"] = "ids.txt"
    with pytest.raises(InputError, match=r"no effect, as every network has a file of its own"):
        run(config)


def test_data_of_slices_is_refused():
    config = configured(["bundle"])
    del config["data"]["init_args"]["normalisation"]
    with pytest.raises(InputError, match=r"datamodules\.X does not have: .* of the 3D study"):
        run(config)
