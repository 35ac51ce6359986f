"""A training step of the cross-modality adapter, against the same method written plainly.

    python -m speed.networks.sam_adapter_step [--out speed/results/sam_adapter_step.json]
    python -m speed.networks.sam_adapter_step --variant mobile_sam [--out ...]

Batch 2 on two cores, vit_b at 256 pixels or a small SAM at its own size: forward, loss on
full-resolution logits, backward and AdamW. The peer is the method written plainly, the encoder
frozen: on segment_anything's own modules, or for the small SAMs on `PlainTinyViT` with a pass a
stream, and the decoder looped over the images as segment_anything asks it to be. Seconds are taken
in turns; peak memory of each in a process of its own.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from adapters import CrossModalitySam
from backbones import TinyViT
from backbones.sam.variants import VARIANTS, TinyViTShape
from speed.networks.global_attention import peak_memory
from speed.networks.plain_tiny_vit import PlainTinyViT
from speed.timing import hardware, take_turns, write_rows
from tests.backbones.sam.peer import peer_decoder, peer_encoder, peer_masks, peer_prompt

THREADS = 2
BATCH, FIRST_BLOCKS = 2, 6
IMAGE_SIZES = {"vit_b": 256, "mobile_sam": 224, "lite_medsam": 112}
# At least so many times as fast, at most so much of the peer's memory.
GOALS = {
    "vit_b": {"float32": 1.4, "bfloat16": 1.2},
    "mobile_sam": {"float32": 1.3, "bfloat16": 1.3},
    "lite_medsam": {"float32": 1.3},
}
MEMORY_GOAL = 0.85


class PlainCrossModalitySam(nn.Module):
    """The method as its paper writes it, on segment_anything's modules.

    Args:
        variant: `vit_b`, or a small SAM.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        size = IMAGE_SIZES[variant]
        small = isinstance(VARIANTS[variant].shape, TinyViTShape)
        encoder = PlainTinyViT(TinyViT(variant, size)) if small else peer_encoder(variant, size)
        self.encoder: Any = encoder.eval().requires_grad_(False)
        self.prompt = peer_prompt(IMAGE_SIZES[variant], VARIANTS[variant].shape.stride)
        self.prompt.requires_grad_(False)
        self.decoder = peer_decoder()
        self.first_colours, self.second_colours = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        widths = VARIANTS[variant].shape.widths[:FIRST_BLOCKS]
        self.adapters = nn.ModuleList(nn.Linear(2 * width, width) for width in widths)
        self.embed = self._embed_plainly if small else self._embed_by_segment_anything

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 1, S, S) of four modalities (B, 4, S, S)."""
        masks = peer_masks(self.decoder, self.prompt, self.embed(image))
        return functional.interpolate(
            masks.float(), size=image.shape[2:], mode="bilinear", align_corners=False
        )

    def _embed_by_segment_anything(self, image: torch.Tensor) -> torch.Tensor:
        streams = [self.first_colours(image[:, :2]), self.second_colours(image[:, 2:])]
        tokens = self.encoder.patch_embed(torch.cat(streams)) + self.encoder.pos_embed
        for index, block in enumerate(self.encoder.blocks):
            tokens = block(tokens)
            if index < FIRST_BLOCKS:
                first, second = tokens.chunk(2)
                common = self.adapters[index](torch.cat([first, second], dim=-1))
                tokens = torch.cat([first + common, second + common])
        first, second = self.encoder.neck(tokens.permute(0, 3, 1, 2)).chunk(2)
        return first + second

    def _embed_plainly(self, image: torch.Tensor) -> torch.Tensor:
        first = self.encoder.embed(self.first_colours(image[:, :2]))
        second = self.encoder.embed(self.second_colours(image[:, 2:]))
        for index in range(len(self.encoder.encoder.widths)):
            first, second = self.encoder.step(index, first), self.encoder.step(index, second)
            if index < FIRST_BLOCKS:
                adapter: Any = self.adapters[index]
                common = functional.conv2d(
                    torch.cat([first, second], dim=1), adapter.weight[..., None, None], adapter.bias
                )
                first, second = first + common, second + common
        neck = self.encoder.encoder.neck
        return neck(first) + neck(second)


def step_of(name: str, precision: str, variant: str) -> Callable[[int], None]:
    """Return one training step of `own` or `peer`."""
    torch.manual_seed(0)
    size = IMAGE_SIZES[variant]
    network = CrossModalitySam(variant, size) if name == "own" else PlainCrossModalitySam(variant)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    image = torch.randn(BATCH, 4, size, size)
    mask = (torch.rand(BATCH, 1, size, size) > 0.5).float()

    def step(_: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(image)
        functional.binary_cross_entropy_with_logits(logits, mask).backward()
        optimizer.step()

    return step


def peak_of(name: str, precision: str, variant: str) -> int:
    """Return the peak resident bytes of three steps in a process of their own."""
    command = [sys.executable, "-m", "speed.networks.sam_adapter_step", "--variant", variant]
    command += ["--only", name, precision]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    """Measure both precisions, print them and write them where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--variant", choices=tuple(GOALS), default="vit_b")
    parser.add_argument("--only", nargs=2, metavar=("NAME", "PRECISION"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    variant = arguments.variant
    size = IMAGE_SIZES[variant]
    if arguments.only:
        step = step_of(*arguments.only, variant)
        for turn in range(3):
            step(turn)
        print(peak_memory())
        return
    rows = []
    print(f"Adapter step, {variant}, batch {BATCH}, {size} px ({hardware()})")
    for precision, goal in GOALS[variant].items():
        figure = take_turns(
            step_of("own", precision, variant),
            step_of("peer", precision, variant),
            arguments.repeats,
        )
        own, peer = peak_of("own", precision, variant), peak_of("peer", precision, variant)
        rows.append(
            {
                "precision": precision,
                **figure,
                "goal": goal,
                "own_peak_mb": own / 1e6,
                "peer_peak_mb": peer / 1e6,
                "memory_ratio": own / peer,
                "memory_goal": MEMORY_GOAL,
            }
        )
        print(
            f"  {precision}: {figure['own']:.2f} s against {figure['peer']:.2f}, "
            f"{figure['ratio']:.2f} times as fast (goal {goal:g}; of the means "
            f"{figure['ratio_of_means']:.2f}); {own / 1e6:.0f} MB against {peer / 1e6:.0f}, "
            f"{own / peer:.2f} of it (goal {MEMORY_GOAL:g})",
            flush=True,
        )
    write_rows(
        arguments.out,
        f"seconds and peak memory of a step: {variant}, batch {BATCH}, {size} px",
        arguments.threads,
        rows,
    )


if __name__ == "__main__":
    main()
