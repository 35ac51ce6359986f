"""Published SAM weights, made for another size and several masks, fitted to a network here."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from backbones.sam.bases import build_encoder
from backbones.sam.decoder import SamMaskDecoder, SamPrompt
from backbones.sam.variants import VARIANTS, TinyViTShape, ViTShape, grid_of, variant_of
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
# Buffers of segment_anything's whole model, the normalisation of photographs; the classifier of
# TinyViT's own pretraining, which MobileSAM's file still holds.
IGNORED = ("pixel_mean", "pixel_std", f"{ENCODER}norm_head.", f"{ENCODER}head.")


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
        image_size: side of the images to come, pixels, a multiple of the variant's stride.
        regions: masks of the decoder, at most SAM's four.

    Raises:
        InputError: weights of another variant or of another network; missing keys.
    """
    _check_variant(state, variant)
    shape = variant_of(variant).shape
    grid = grid_of(image_size, shape.stride)
    fitted = {}
    others = tuple(f"{HYPERNETWORK}{index}." for index in range(regions, MASKS))
    for name, value in state.items():
        if name.startswith(IGNORED + others):
            continue
        if name.startswith(ENCODER) and isinstance(shape, ViTShape):
            fitted[name] = _resized(name, value, shape, grid)
        else:
            fitted[name] = value[:regions].clone() if name in ONE_A_MASK else value
    _check_complete(fitted, variant, image_size, regions)
    return fitted


def _check_variant(state: Mapping[str, torch.Tensor], variant: str) -> None:
    """Check that a state dict is SAM's, and of this variant's shape."""
    marks = {name: _mark_of(one.shape) for name, one in VARIANTS.items()}
    expected = _mark_of(variant_of(variant).shape)
    if _holds(state, expected):
        return
    found = [name for name, mark in marks.items() if _holds(state, mark)]
    if found:
        raise InputError(
            f"These weights are of SAM's {found[0]} where those of {variant} were expected: set "
            "`variant` accordingly or give the other checkpoint."
        )
    raise InputError(
        f"These weights are not SAM's {variant}: they have no `{ENCODER}{expected[0]}` of shape "
        f"{list(expected[1])}, so give the file that its authors published."
    )


def _mark_of(shape: ViTShape | TinyViTShape) -> tuple[str, tuple[int, ...]]:
    """Return a weight of an encoder by whose name and last sides its shape is known."""
    if isinstance(shape, ViTShape):
        return "pos_embed", (shape.dim,)
    return "patch_embed.seq.0.c.weight", (3, shape.stem_kernel, shape.stem_kernel)


def _holds(state: Mapping[str, torch.Tensor], mark: tuple[str, tuple[int, ...]]) -> bool:
    name, sides = mark
    weight = state.get(f"{ENCODER}{name}")
    return weight is not None and tuple(weight.shape[-len(sides) :]) == sides


def _resized(name: str, value: torch.Tensor, shape: ViTShape, grid: int) -> torch.Tensor:
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
    if int(words[1]) not in shape.global_blocks or value.shape[0] == length:
        return value
    return functional.interpolate(value.t()[None], size=length, mode="linear")[0].t().contiguous()


def _check_complete(
    state: Mapping[str, torch.Tensor], variant: str, image_size: int, regions: int
) -> None:
    """Check names and shapes of fitted weights against the networks they are meant for."""
    with torch.device("meta"):
        parts = {
            ENCODER: build_encoder(variant, image_size),
            PROMPT: SamPrompt(image_size, variant_of(variant).shape.stride),
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
            f"unknown or of another shape, `{wrong[0]}` first, so give the file that its authors "
            "published."
        )
