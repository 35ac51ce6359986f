"""Images a second through SAM's image encoder, against segment_anything's.

    python -m speed.networks.sam_encoder [--out speed/results/sam_encoder.json]

vit_b on two cores, the same weights, in turns; without gradients, as the frozen encoder of a
cached or single-modality system runs. At 256 pixels batch 4 and 12, float32 and bfloat16.
"""

import argparse
from pathlib import Path

import torch

from backbones import SamImageEncoder
from speed.timing import hardware, take_turns, write_rows
from tests.backbones.sam.peer import peer_encoder

THREADS = 2
ROWS = [
    # image size, batch, bfloat16, turns, at least so many times as fast
    (256, 4, False, 9, 1.8),
    (256, 12, False, 5, 1.8),
    (256, 4, True, 9, 1.8),
    (256, 12, True, 5, 1.8),
    (512, 1, False, 5, 1.0),
    (1024, 1, False, 2, 1.0),
    (1024, 1, True, 2, 1.0),
]


def measure(image_size: int, batch: int, bfloat16: bool, turns: int) -> dict[str, float]:
    """Return the seconds of both encoders and their ratio."""
    torch.manual_seed(0)
    peer = peer_encoder("vit_b", image_size).eval().requires_grad_(False)
    own = SamImageEncoder("vit_b", image_size).eval().requires_grad_(False)
    own.load_state_dict(peer.state_dict())
    image = torch.randn(batch, 3, image_size, image_size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        return take_turns(lambda _: own(image), lambda _: peer(image), turns)


def main() -> None:
    """Measure all rows, print them and write them where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 12])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    print(f"SAM vit_b image encoder, {arguments.threads} threads ({hardware()})")
    for image_size, batch, bfloat16, turns, goal in ROWS:
        if image_size not in arguments.sizes or batch not in arguments.batches:
            continue
        figure = measure(image_size, batch, bfloat16, turns)
        precision = "bfloat16" if bfloat16 else "float32"
        rows.append(
            {"pixels": image_size, "batch": batch, "precision": precision, "goal": goal, **figure}
        )
        print(
            f"  {image_size} px, batch {batch}, {precision}: {batch / figure['own']:.2f} images/s "
            f"against {batch / figure['peer']:.2f}, {figure['ratio']:.2f} times as fast "
            f"(goal {goal:g}; of the means {figure['ratio_of_means']:.2f})",
            flush=True,
        )
    write_rows(
        arguments.out,
        "seconds a batch of the vit_b image encoder, ours and segment_anything's",
        arguments.threads,
        rows,
    )


if __name__ == "__main__":
    main()
