"""SAM's mask decoder over a batch at once, against segment_anything's, one image after the other.

    python -m speed.networks.sam_decoder [--out speed/results/sam_decoder.json]

Forward and backward of 24 embeddings of 256-pixel images on two cores, float32 and bfloat16: what
is left of a training step when the embeddings are kept.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from backbones import SamMaskDecoder, SamPrompt
from speed.timing import hardware, take_turns, write_rows
from tests.backbones.sam.peer import peer_decoder, peer_masks, peer_prompt

THREADS, IMAGE_SIZE, BATCH, REPEATS = 2, 256, 24, 9
GOAL = 2.0


def steps(bfloat16: bool) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return forward and backward of ours and of the peer, with the same weights."""
    torch.manual_seed(0)
    decoder, prompt = peer_decoder(), peer_prompt(IMAGE_SIZE).requires_grad_(False)
    own_decoder, own_prompt = SamMaskDecoder(), SamPrompt(IMAGE_SIZE).requires_grad_(False)
    own_decoder.load_state_dict(decoder.state_dict())
    own_prompt.load_state_dict(prompt.state_dict())
    embedding = torch.randn(BATCH, 256, IMAGE_SIZE // 16, IMAGE_SIZE // 16)

    def own(_: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = own_decoder(*own_prompt(embedding))
        logits.float().square().mean().backward()

    def peer(_: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = peer_masks(decoder, prompt, embedding)
        logits.float().square().mean().backward()

    return own, peer


def main() -> None:
    """Measure both precisions, print them and write them where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    print(f"SAM mask decoder, batch {BATCH}, {IMAGE_SIZE} px ({hardware()})")
    for precision in ("float32", "bfloat16"):
        figure = take_turns(*steps(precision == "bfloat16"), REPEATS)
        rows.append({"precision": precision, "goal": GOAL, **figure})
        print(
            f"  {precision}: {1e3 * figure['own'] / BATCH:.1f} ms an image against "
            f"{1e3 * figure['peer'] / BATCH:.1f}, {figure['ratio']:.1f} times as fast (goal "
            f"{GOAL:g}; of the means {figure['ratio_of_means']:.1f})",
            flush=True,
        )
    write_rows(
        arguments.out,
        f"seconds a batch, forward and backward: batch {BATCH}, {IMAGE_SIZE} px",
        arguments.threads,
        rows,
    )


if __name__ == "__main__":
    main()
