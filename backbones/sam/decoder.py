"""SAM's mask decoder without prompts, a mask a region, over a whole batch at once."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from backbones.sam.modeling import sam_modeling
from backbones.sam.variants import EMBEDDING, PATCH, grid_of

HEADS = 8
HIDDEN = 2048  # channels inside the transformer's layers
MASK_CHANNELS = 16  # of the prompt encoder's layers for masks
UPSCALED = (EMBEDDING // 4, EMBEDDING // 8)  # channels after each doubling of the grid


class SamPrompt(nn.Module):
    """SAM's prompt encoder for no prompt: it returns an embedding and the positions.

    It holds all of segment_anything's PromptEncoder under its names, 6,220 weights, of which only
    `no_mask_embed` and the positional matrix are read. The others stay because the published
    parameter counts include them, and official checkpoints then load without exceptions.

    Args:
        image_size: side of the image, pixels, a multiple of the stride.
        stride: pixels between neighbouring positions of the embedding.
    """

    no_mask_embed: nn.Embedding
    pe_layer: Any

    def __init__(self, image_size: int = 256, stride: int = PATCH) -> None:
        super().__init__()
        self.grid = grid_of(image_size, stride)
        encoder = sam_modeling().PromptEncoder(
            embed_dim=EMBEDDING,
            image_embedding_size=(self.grid, self.grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=MASK_CHANNELS,
        )
        for name, child in encoder.named_children():
            self.add_module(name, child)

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embedding plus no-mask embedding (B, 256, h, w), and positions (1, 256, h, w)."""
        # Element by element: a matrix product would run in bfloat16 under autocast, in which
        # neighbouring rows become equal.
        frequencies: torch.Tensor = self.pe_layer.positional_encoding_gaussian_matrix  # (2, 128)
        centres = (torch.arange(self.grid, device=embedding.device) + 0.5) / self.grid * 2 - 1
        phases = (
            2
            * math.pi
            * (centres[None, :, None] * frequencies[0] + centres[:, None, None] * frequencies[1])
        )  # (h, w, 128)
        positions = torch.cat([phases.sin(), phases.cos()], dim=-1).permute(2, 0, 1)
        return embedding + self.no_mask_embed.weight.view(1, -1, 1, 1), positions.unsqueeze(0)


class DecoderAttention(nn.Module):
    """Multi-head attention between tokens, or between few tokens and an image.

    Between the few tokens of an unprompted decoder and an image of hundreds, the image is never
    projected: q (W x + b) = (q W) x + q b, and a sum of W x + b is W times a sum of x. The tokens
    carry the matrices of both sides instead, which is the same function for an eighth of the work.

    Args:
        inner: channels of all heads together.
    """

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.scale = (inner // HEADS) ** -0.5
        self.q_proj = nn.Linear(EMBEDDING, inner)
        self.k_proj = nn.Linear(EMBEDDING, inner)
        self.v_proj = nn.Linear(EMBEDDING, inner)
        self.out_proj = nn.Linear(inner, EMBEDDING)

    def forward(self, placed: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return attention between tokens (B, T, 256), queries and keys with positions added."""
        heads = [  # (B, heads, T, d)
            project(one).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project, one in ((self.q_proj, placed), (self.k_proj, placed))
        ]
        value = self.v_proj(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        weights = torch.softmax(heads[0] * self.scale @ heads[1].transpose(2, 3), dim=-1)
        return self.out_proj((weights @ value).transpose(1, 2).flatten(2))

    def tokens_to_image(
        self, placed: torch.Tensor, image: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Return attention of tokens (B, T, 256) to an image (B, N, 256), positions (1, N, 256)."""
        query = self.q_proj(placed).unflatten(-1, (HEADS, -1)).transpose(1, 2) * self.scale
        logits = self._logits(query, self.k_proj, image, positions)  # (B, heads * T, N)
        seen = torch.softmax(logits, dim=-1) @ image  # (B, heads * T, 256)
        value = self.v_proj.weight.unflatten(0, (HEADS, -1)).transpose(1, 2)  # (heads, 256, d)
        per_head = seen.unflatten(1, (HEADS, -1)) @ value  # (B, heads, T, d)
        return self.out_proj(per_head.transpose(1, 2).flatten(2) + self.v_proj.bias)

    def image_to_tokens(
        self,
        image: torch.Tensor,
        positions: torch.Tensor,
        placed: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """Return an image (B, N, 256) plus its attention to tokens (B, T, 256)."""
        key = self.k_proj(placed).unflatten(-1, (HEADS, -1)).transpose(1, 2) * self.scale
        logits = self._logits(key, self.q_proj, image, positions)  # (B, heads * T, N)
        weights = torch.softmax(logits.unflatten(1, (HEADS, -1)), dim=2).flatten(1, 2)
        value = self.v_proj(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        out = self.out_proj.weight.unflatten(1, (HEADS, -1)).permute(1, 2, 0)  # (heads, d, 256)
        projected = (value @ out).flatten(1, 2)  # (B, heads * T, 256)
        return image + (weights.transpose(1, 2) @ projected + self.out_proj.bias)

    def _logits(
        self, asking: torch.Tensor, side: nn.Linear, image: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Return (B, heads * T, N) of asking heads (B, heads, T, d) and an image's projection."""
        carried = (asking @ side.weight.unflatten(0, (HEADS, -1))).flatten(1, 2)
        constant = (asking @ side.bias.view(HEADS, -1, 1)).flatten(1, 2)  # (B, heads * T, 1)
        return carried @ image.transpose(1, 2) + (carried @ positions.transpose(1, 2) + constant)


class DecoderMlp(nn.Module):
    """Two layers with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1 = nn.Linear(EMBEDDING, HIDDEN)
        self.lin2 = nn.Linear(HIDDEN, EMBEDDING)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the new tokens, (..., 256) as they came."""
        return self.lin2(functional.relu(self.lin1(tokens)))


class TwoWayLayer(nn.Module):
    """Tokens attend to themselves and to the image, then the image to the tokens.

    Args:
        first: the first layer, whose tokens are still their own positions.
    """

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = DecoderAttention(EMBEDDING)
        self.norm1 = nn.LayerNorm(EMBEDDING)
        self.cross_attn_token_to_image = DecoderAttention(EMBEDDING // 2)
        self.norm2 = nn.LayerNorm(EMBEDDING)
        self.mlp = DecoderMlp()
        self.norm3 = nn.LayerNorm(EMBEDDING)
        self.norm4 = nn.LayerNorm(EMBEDDING)
        self.cross_attn_image_to_token = DecoderAttention(EMBEDDING // 2)

    def forward(
        self,
        tokens: torch.Tensor,
        image: torch.Tensor,
        token_positions: torch.Tensor,
        image_positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (B, T, 256) and image (B, h * w, 256); positions are of their shapes."""
        if self.first:
            # Residuals and norms in single precision, as in the other layer: under autocast the
            # gradients of a norm's weights are sums of thousands, wrong by a third in bfloat16.
            tokens = self.self_attn(tokens, tokens).float()
        else:
            tokens = tokens + self.self_attn(tokens + token_positions, tokens)
        tokens = self.norm1(tokens)
        tokens = tokens + self.cross_attn_token_to_image.tokens_to_image(
            tokens + token_positions, image, image_positions
        )
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.cross_attn_image_to_token.image_to_tokens(
            image, image_positions, tokens + token_positions, tokens
        )
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """Two layers, then the tokens attend to the image once more."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(first=index == 0) for index in range(2))
        self.final_attn_token_to_image = DecoderAttention(EMBEDDING // 2)
        self.norm_final_attn = nn.LayerNorm(EMBEDDING)

    def forward(
        self, image: torch.Tensor, image_positions: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (B, T, 256) and image (B, h * w, 256) of an image and starting tokens."""
        tokens = positions
        for layer in self.layers:
            tokens, image = layer(tokens, image, positions, image_positions)
        attended = self.final_attn_token_to_image.tokens_to_image(
            tokens + positions, image, image_positions
        )
        return self.norm_final_attn(tokens + attended), image


class LayeredMlp(nn.Module):
    """Three layers with ReLUs between them: (..., 256) to (..., `out`)."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Linear(EMBEDDING, EMBEDDING),
                nn.Linear(EMBEDDING, EMBEDDING),
                nn.Linear(EMBEDDING, out),
            ]
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the outputs of tokens."""
        first, second, last = self.layers
        return last(functional.relu(second(functional.relu(first(tokens)))))


class SamMaskDecoder(nn.Module):
    """SAM's mask decoder, a mask token a region (Kirillov et al., https://arxiv.org/abs/2304.02643).

    It computes the same function as segment_anything's MaskDecoder with as many mask tokens, under
    its weight names, but for a batch instead of one image. The head that predicts a mask's quality
    is unused here and its parameters are frozen: DDP fails on parameters without a gradient.

    Args:
        regions: masks, each with a token and a hypernetwork of its own.
    """

    def __init__(self, regions: int = 1) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, EMBEDDING)
        self.mask_tokens = nn.Embedding(regions, EMBEDDING)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(EMBEDDING, UPSCALED[0], kernel_size=2, stride=2),
            nn.LayerNorm(UPSCALED[0], eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(UPSCALED[0], UPSCALED[1], kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            LayeredMlp(UPSCALED[1]) for _ in range(regions)
        )
        self.iou_prediction_head = LayeredMlp(regions).requires_grad_(False)

    def forward(self, embedding: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, R, 4h, 4w) of the outputs of `SamPrompt`.

        Args:
            embedding: (B, 256, h, w), no-mask embedding added.
            positions: (1, 256, h, w).
        """
        batch, _, height, width = embedding.shape
        start = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens, image = self.transformer(
            embedding.flatten(2).transpose(1, 2),
            positions.flatten(2).transpose(1, 2),
            start.expand(batch, -1, -1),
        )
        layers: list[Any] = list(self.output_upscaling)
        first, norm, gelu, second, _ = layers
        # A transposed convolution of 2 x 2 with stride 2 is a linear layer from one token to four.
        fine = gelu(norm(_quadruple(image, first.weight, first.bias).float()))  # (B, h * w, 4, 64)
        finest = gelu(_quadruple(fine, second.weight, second.bias))  # (B, h * w, 4, 4, 32)
        masks = [
            mlp(tokens[:, place])  # (B, 32)
            for place, mlp in enumerate(self.output_hypernetworks_mlps, start=1)
        ]
        logits = finest.flatten(1, 3) @ torch.stack(masks, dim=-1)  # (B, h * w * 16, R)
        return (
            logits.view(batch, height, width, 2, 2, 2, 2, -1)
            .permute(0, 7, 1, 3, 5, 2, 4, 6)
            .reshape(batch, -1, 4 * height, 4 * width)
        )


def _quadruple(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the four tokens (..., 4, out) of each one, by a transposed convolution's weights."""
    spread = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 * out, in)
    return functional.linear(tokens, spread, bias.repeat(4)).unflatten(-1, (4, -1))
