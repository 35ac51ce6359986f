"""An epoch of a single-modality SAM with stored embeddings, against one that runs the encoder.

    python -m speed.networks.cached_embeddings [--variant vit_b]
        [--out speed/results/cached_embeddings.json]

The frozen encoder sees the same unaugmented slices every epoch, so its output is computed once.
Both epochs train the same decoder on the same slices, optimiser steps included; the stored one also
reads its files. The pass that fills the store is reported apart.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss

from adapters import SingleModalitySam
from lightning_modules import SamAdapterModule
from lightning_modules.sam.embeddings import EmbeddingStore
from speed.timing import hardware

GOAL = 12.0
SIZE, SLICES, BATCH = 256, 48, 12


def main() -> None:
    """Measure in fp32 and bf16, print the ratios, write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--variant", default="vit_b")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = {
        precision: _measure(options.variant, precision, bf16=precision == "bf16")
        for precision in ("fp32", "bf16")
    }
    if options.out is not None:
        content = {
            "title": f"an epoch of {SLICES} slices, {SIZE} px, batch {BATCH}, {options.variant}",
            "hardware": hardware(),
            "versions": {"torch": torch.__version__},
            "goal": GOAL,
            "figures": figures,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(content, indent=2) + "\n")


def _measure(variant: str, precision: Any, *, bf16: bool) -> dict[str, float]:
    torch.manual_seed(0)
    module: Any = SamAdapterModule(
        network=lambda *how: SingleModalitySam(*how, modality="t2"),
        variant=variant,  # type: ignore[arg-type]
        weights="random",
        image_size=SIZE,
        loss=DiceCELoss(sigmoid=True),
        precision=precision,
    )
    image = torch.randn(SLICES, 4, SIZE, SIZE)
    mask = (torch.rand(SLICES, 1, SIZE, SIZE) > 0.8).float()
    keys = [f"{index:04d}" for index in range(SLICES)]
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    batches = [
        {
            "image": image[i : i + BATCH],
            "mask": mask[i : i + BATCH],
            "slice_key": keys[i : i + BATCH],
        }
        for i in range(0, SLICES, BATCH)
    ]

    def epoch() -> None:
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = module.compute_loss(batch)
            loss.backward()
            optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        without = _seconds(epoch)
        store = EmbeddingStore(Path(folder))
        filling = _seconds(lambda: store.fill(keys, lambda members: module.embed(image[members])))
        module.store = store
        epoch()  # warms the files
        with_store = min(_seconds(epoch) for _ in range(3))
    ratio = without / with_store
    print(
        f"{variant} {precision}: an epoch {without:.2f} s, with stored embeddings "
        f"{with_store:.2f} s, {ratio:.1f} times as fast (goal {GOAL:g}); filling {filling:.2f} s"
    )
    return {"without": without, "stored": with_store, "filling": filling, "ratio": ratio}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
