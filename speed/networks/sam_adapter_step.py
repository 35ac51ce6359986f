"""A training step of the cross-modality adapter, against the same method written plainly.

    python -m speed.networks.sam_adapter_step [--out speed/results/sam_adapter_step.json]

vit_b, batch 2, 256 pixels, on two cores: forward, loss on full-resolution logits, backward and
AdamW. The peer is the method on segment_anything's own modules, the encoder frozen, the decoder
looped over the images as segment_anything asks it to be. Seconds are taken in turns; peak memory
of each in a process of its own.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from adapters import CrossModalitySam
from speed.networks.global_attention import peak_memory
from speed.timing import hardware, take_turns, write_rows
from tests.backbones.sam.peer import peer_decoder, peer_encoder, peer_masks, peer_prompt

THREADS = 2
VARIANT, IMAGE_SIZE, BATCH, FIRST_BLOCKS, CHANNELS = "vit_b", 256, 2, 6, 768
# At least so many times as fast, at most so much of the peer's memory.
GOALS = {"float32": 1.4, "bfloat16": 1.2}
MEMORY_GOAL = 0.85


class PlainCrossModalitySam(nn.Module):
    """The method as its paper writes it, on segment_anything's modules."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = peer_encoder(VARIANT, IMAGE_SIZE).requires_grad_(False)
        self.prompt = peer_prompt(IMAGE_SIZE).requires_grad_(False)
        self.decoder = peer_decoder()
        self.first_colours, self.second_colours = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.adapters = nn.ModuleList(
            nn.Linear(2 * CHANNELS, CHANNELS) for _ in range(FIRST_BLOCKS)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 1, S, S) of four modalities (B, 4, S, S)."""
        streams = [self.first_colours(image[:, :2]), self.second_colours(image[:, 2:])]
        tokens = self.encoder.patch_embed(torch.cat(streams)) + self.encoder.pos_embed
        for index, block in enumerate(self.encoder.blocks):
            tokens = block(tokens)
            if index < FIRST_BLOCKS:
                first, second = tokens.chunk(2)
                common = self.adapters[index](torch.cat([first, second], dim=-1))
                tokens = torch.cat([first + common, second + common])
        first, second = self.encoder.neck(tokens.permute(0, 3, 1, 2)).chunk(2)
        masks = peer_masks(self.decoder, self.prompt, first + second)
        return functional.interpolate(
            masks.float(), size=image.shape[2:], mode="bilinear", align_corners=False
        )


def step_of(name: str, precision: str) -> Callable[[int], None]:
    """Return one training step of `own` or `peer`."""
    torch.manual_seed(0)
    network = CrossModalitySam(VARIANT, IMAGE_SIZE) if name == "own" else PlainCrossModalitySam()
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    image = torch.randn(BATCH, 4, IMAGE_SIZE, IMAGE_SIZE)
    mask = (torch.rand(BATCH, 1, IMAGE_SIZE, IMAGE_SIZE) > 0.5).float()

    def step(_: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(image)
        functional.binary_cross_entropy_with_logits(logits, mask).backward()
        optimizer.step()

    return step


def peak_of(name: str, precision: str) -> int:
    """Return the peak resident bytes of three steps in a process of their own."""
    command = [sys.executable, "-m", "speed.networks.sam_adapter_step", "--only", name, precision]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    """Measure both precisions, print them and write them where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs=2, metavar=("NAME", "PRECISION"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        step = step_of(*arguments.only)
        for turn in range(3):
            step(turn)
        print(peak_memory())
        return
    rows = []
    print(f"Adapter step, {VARIANT}, batch {BATCH}, {IMAGE_SIZE} px ({hardware()})")
    for precision, goal in GOALS.items():
        figure = take_turns(
            step_of("own", precision), step_of("peer", precision), arguments.repeats
        )
        own, peer = peak_of("own", precision), peak_of("peer", precision)
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
        f"seconds and peak memory of a step: {VARIANT}, batch {BATCH}, {IMAGE_SIZE} px",
        arguments.threads,
        rows,
    )


if __name__ == "__main__":
    main()
