"""segment_anything's own networks, the peers of ours, with weights that tell every term apart."""

from functools import partial

import torch
from torch import nn

from backbones.sam.bases import build_encoder
from backbones.sam.modeling import sam_modeling
from backbones.sam.variants import EMBEDDING, PATCH, VARIANTS, WINDOW, ViTShape

SMALL = ViTShape(dim=192, depth=12, heads=3, global_blocks=(2, 5, 8, 11))  # a quarter of vit_b


def shape_of(variant):
    """Return the shape of a variant; a shape is its own."""
    return VARIANTS[variant].shape if isinstance(variant, str) else variant


def peer_encoder(variant, image_size, depth=None):
    """Return segment_anything's encoder as its builder makes it.

    Or with `depth` blocks only, the last of which attends to the whole grid.
    """
    preset = shape_of(variant)
    encoder = sam_modeling().ImageEncoderViT(
        depth=preset.depth if depth is None else depth,
        embed_dim=preset.dim,
        img_size=image_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=preset.heads,
        patch_size=PATCH,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=preset.global_blocks if depth is None else (depth - 1,),
        window_size=WINDOW,
        out_chans=EMBEDDING,
    )
    for name, weight in encoder.named_parameters():  # zeros at birth would hide a missing term
        if "rel_pos" in name or "pos_embed" in name or name.endswith("bias"):
            nn.init.normal_(weight, std=0.5)
        elif "norm" in name:
            nn.init.normal_(weight, mean=1, std=0.1)
    return encoder


def peer_decoder(masks=1):
    """Return segment_anything's mask decoder for one mask, or for several as in its files."""
    modeling = sam_modeling()
    return modeling.MaskDecoder(
        num_multimask_outputs=masks - 1,
        transformer=modeling.TwoWayTransformer(
            depth=2, embedding_dim=EMBEDDING, mlp_dim=2048, num_heads=8
        ),
        transformer_dim=EMBEDDING,
        iou_head_depth=3,
        iou_head_hidden_dim=EMBEDDING,
    )


def peer_prompt(image_size, stride=PATCH):
    """Return segment_anything's prompt encoder."""
    grid = image_size // stride
    return sam_modeling().PromptEncoder(
        embed_dim=EMBEDDING,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )


def peer_masks(decoder, prompt, embedding):
    """Return the logits (B, R, 4h, 4w) of an embedding, one image after the other, unprompted."""
    sparse, dense = prompt(None, None, None)
    position = prompt.get_dense_pe()
    masks = [
        decoder.predict_masks(
            image_embeddings=one,
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )[0]
        for one in embedding.split(1)
    ]
    return torch.cat(masks)


def published_state(variant, size):
    """Return random weights laid out as the published file of a small base, for `size` pixels."""
    parts = {
        "image_encoder.": build_encoder(variant, size),
        "prompt_encoder.": peer_prompt(1024),
        "mask_decoder.": peer_decoder(masks=4),
    }
    state = {p + name: v for p, part in parts.items() for name, v in part.state_dict().items()}
    if variant == "mobile_sam":
        state["image_encoder.norm_head.weight"] = torch.zeros(320)
        state["image_encoder.head.weight"] = torch.zeros(1000, 320)
    return state
