"""Regions of the 2D study: a setting of the data that the network takes over."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from datamodules.layouts.conventions import REGIONS, read_regions
from errors import InputError


def without_regions(model: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a trained network's configuration, ready to take over the regions of other data."""
    if not model or "regions" not in (model.get("init_args") or {}):
        return model
    return {**model, "init_args": {**model["init_args"], "regions": None}}


def share_regions(config: Namespace) -> None:
    """Give the network the regions of the data, in place.

    The whole tumour alone, the default, stays null in the network's settings, so that the ids of
    earlier runs stay.

    Args:
        config: parsed arguments of a command, with ``model`` and ``data``.

    Raises:
        InputError: when the regions of the data are wrong, or the network is given others.
    """
    model, data = (getattr(config.get(group), "init_args", None) for group in ("model", "data"))
    if data is None or "regions" not in data:
        return
    regions = list(read_regions(data.regions, "data.regions"))
    data.regions = ",".join(regions)
    if model is None or "regions" not in model:
        return  # a model that segments nothing
    if model.regions is not None and list(model.regions) != regions:
        raise InputError(
            f"model.regions is {','.join(model.regions)} and data.regions {data.regions}: give "
            "data.regions alone, which the network takes over."
        )
    model.regions = None if regions == list(REGIONS[:1]) else regions
