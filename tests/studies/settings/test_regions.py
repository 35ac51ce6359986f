"""The network takes the regions of the data over."""

import pytest
from jsonargparse import Namespace

from errors import InputError
from studies.settings.regions import share_regions, without_regions


def arguments(data, model=None):
    return Namespace(
        data=Namespace(init_args=Namespace(regions=data)),
        model=Namespace(init_args=Namespace(regions=model)),
    )


@pytest.mark.parametrize("given", ["WT,TC,ET", "WT, TC, ET", ["WT", "TC", "ET"]])
def test_three_regions_reach_the_network_however_they_are_written(given):
    config = arguments(given)
    share_regions(config)
    assert config.data.init_args.regions == "WT,TC,ET"
    assert config.model.init_args.regions == ["WT", "TC", "ET"]
    share_regions(config)  # as stored in a checkpoint
    assert config.model.init_args.regions == ["WT", "TC", "ET"]


def test_one_region_is_the_default_and_changes_no_id():
    config = arguments("WT")
    share_regions(config)
    assert config.model.init_args.regions is None


def test_a_network_with_other_regions_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"give data\.regions alone"):
        share_regions(arguments("WT", ["WT", "TC", "ET"]))


def test_models_and_data_without_regions_are_left_alone():
    config = Namespace(
        data=Namespace(init_args=Namespace(regions="WT,TC,ET")),
        model=Namespace(init_args=Namespace(size="tiny")),
    )
    share_regions(config)
    assert config.model.init_args == Namespace(size="tiny")
    share_regions(Namespace(data=Namespace(init_args=Namespace(root=None)), model=None))


def test_a_trained_network_takes_the_regions_of_other_data_over():
    model = {"class_path": "x", "init_args": {"regions": ["WT", "TC", "ET"], "size": "tiny"}}
    assert without_regions(model)["init_args"] == {"regions": None, "size": "tiny"}
    assert without_regions({"class_path": "x", "init_args": {}}) == {
        "class_path": "x",
        "init_args": {},
    }
    assert without_regions(None) is None
