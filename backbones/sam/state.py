"""Official SAM weights, made for 1024 pixels and four masks, fitted to a network here."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from backbones.sam.decoder import SamMaskDecoder, SamPrompt
from backbones.sam.encoder import SamImageEncoder
from backbones.sam.variants import VARIANTS, grid_of, variant_of
from errors import InputError

ENCODER, PROMPT, DECODER = "image_encoder.", "prompt_encoder.", "mask_decoder."
HYPERNETWORK = f"{DECODER}output_hypernetworks_mlps."
MASKS = 4  # of SAM: the first is that of a single answer, the others of nested answers
# A row of these belongs to each mask.
ONE_A_MASK = (
    f"{DECODER}mask_tokens.weight",
    f"{DECODER}iou_prediction_head.layers.2.weight",
    f"{DECODER}iou_prediction_head.layers.2.bias",
)
# Buffers of segment_anything's whole model: the normalisation of photographs.
IGNORED = ("pixel_mean", "pixel_std")


def fit_state_dict(
    state: Mapping[str, torch.Tensor], variant: str, image_size: int, regions: int = 1
) -> dict[str, torch.Tensor]:
    """Return SAM's weights for `image_size` pixels and a mask a region.

    The position embedding is resized bilinearly and the relative positions of global blocks
    linearly, where sizes differ. Of the decoder's mask tokens, hypernetworks and quality outputs
    the first ones are kept: that of SAM's single answer for the whole tumour, which then starts
    alike with one region and with three, and two of its three nested answers for core and enhancing
    tumour. The prompt encoder, which depends on no size, stays whole: see `SamPrompt`.

    Args:
        state: keys `image_encoder.*`, `prompt_encoder.*` and `mask_decoder.*` as in the official
            files; the encoder alone is accepted too.
        variant: the variant that the weights must have.
        image_size: side of the images to come, pixels, a multiple of 16.
        regions: masks of the decoder, at most SAM's four.

    Raises:
        InputError: weights of another variant or of another network; missing keys.
    """
    _check_variant(state, variant)
    fitted = {}
    others = tuple(f"{HYPERNETWORK}{index}." for index in range(regions, MASKS))
    for name, value in state.items():
        if name in IGNORED or name.startswith(others):
            continue
        if name.startswith(ENCODER):
            fitted[name] = _resized(name, value, variant, grid_of(image_size))
        else:
            fitted[name] = value[:regions].clone() if name in ONE_A_MASK else value
    _check_complete(fitted, variant, image_size, regions)
    return fitted


def _check_variant(state: Mapping[str, torch.Tensor], variant: str) -> None:
    """Check that a state dict is SAM's, and of this variant."""
    asked = variant_of(variant)
    positions = state.get(f"{ENCODER}pos_embed")
    if positions is None or positions.ndim != 4:
        raise InputError(
            f"These weights are not SAM's: they have no `{ENCODER}pos_embed`, so give an official "
            f"checkpoint of {variant}."
        )
    dim = positions.shape[-1]
    if dim != asked.dim:
        found = [name for name, one in VARIANTS.items() if one.dim == dim]
        what = f"of SAM's {found[0]}" if found else f"of a SAM with {dim} channels"
        raise InputError(
            f"These weights are {what} where those of {variant} were expected: set `variant` "
            "accordingly or give the other checkpoint."
        )


def _resized(name: str, value: torch.Tensor, variant: str, grid: int) -> torch.Tensor:
    """Return one weight of the encoder for a grid of `grid` x `grid` tokens."""
    if name == f"{ENCODER}pos_embed":
        if value.shape[1:3] == (grid, grid):
            return value
        resized = functional.interpolate(
            value.permute(0, 3, 1, 2), size=(grid, grid), mode="bilinear", align_corners=False
        )
        return resized.permute(0, 2, 3, 1).contiguous()
    words = name.removeprefix(ENCODER).split(".")
    if words[-1] not in ("rel_pos_h", "rel_pos_w") or words[0] != "blocks":
        return value
    length = 2 * grid - 1
    if int(words[1]) not in variant_of(variant).global_blocks or value.shape[0] == length:
        return value
    return functional.interpolate(value.t()[None], size=length, mode="linear")[0].t().contiguous()


def _check_complete(
    state: Mapping[str, torch.Tensor], variant: str, image_size: int, regions: int
) -> None:
    """Check names and shapes of fitted weights against the networks they are meant for."""
    with torch.device("meta"):
        parts = {
            ENCODER: SamImageEncoder(variant, image_size),
            PROMPT: SamPrompt(image_size),
            DECODER: SamMaskDecoder(regions),
        }
    expected = {
        prefix + name: value.shape
        for prefix, part in parts.items()
        if prefix == ENCODER or any(key.startswith(prefix) for key in state)
        for name, value in part.state_dict().items()
    }
    wrong = sorted(
        [name for name in expected if name not in state or state[name].shape != expected[name]]
        + [name for name in state if name not in expected]
    )
    if wrong:
        raise InputError(
            f"These weights are not those of SAM's {variant}: {len(wrong)} of them are missing, "
            f"unknown or of another shape, `{wrong[0]}` first, so give an official checkpoint of "
            f"{variant}."
        )
