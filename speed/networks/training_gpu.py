"""Training volumes a second on a GPU: base DynUNet, and the fusion stage on frozen backbones.

    python -m speed.networks.training_gpu    needs CUDA; writes speed/results/training_gpu.json

128^3 voxels, four modalities, batch 2, bfloat16, Dice loss and Adam as in training, data already
on the device. The peer is the best published figure for a 3D U-Net of this family on BraTS:
27.5 volumes/s on one A100, on that author's own network and input pipeline.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from monai.losses import DiceLoss
from torch import nn

from backbones import DynUNet, SegResNet
from fusion import DualFusionAttention
from studies.settings.command_line import ROOT

BATCH = 2
PATCH = 128
WARM_UP = 5
STEPS = 20
PEER = 27.5
RESULTS = ROOT / "speed/results/training_gpu.json"


@dataclass(frozen=True)
class Row:
    """One stage in one memory layout."""

    stage: str
    layout: str
    volumes_per_second: float
    peak_gb: float


class FusionStage(nn.Module):
    """Frozen backbones, without gradients or kept activations, and a head that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.dynunet = DynUNet().requires_grad_(False)
        self.segresnet = SegResNet().requires_grad_(False)
        self.head = DualFusionAttention([32, 16])

    def train(self, mode: bool = True) -> "FusionStage":
        """Set the head's mode; the backbones stay in eval mode."""
        super().train(mode)
        self.dynunet.eval()
        self.segresnet.eval()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the fused logits (B, 3, D, H, W) of an image (B, 4, D, H, W)."""
        with torch.no_grad():
            features = [self.dynunet.features(image), self.segresnet.features(image)]
            logits = [self.dynunet.head(features[0]), self.segresnet.head(features[1])]
        return self.head(features, logits)


STAGES: dict[str, Callable[[], nn.Module]] = {
    "DynUNet base": DynUNet,
    "fusion stage base": FusionStage,
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}


def measure(stage: str, layout: str) -> Row:
    """Return training volumes a second and peak GB of a stage in a memory layout."""
    memory_format = LAYOUTS[layout]
    torch.manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    network = STAGES[stage]().cuda().train()
    for weight in network.parameters():
        if weight.ndim == 5:
            weight.data = weight.data.contiguous(memory_format=memory_format)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=3e-4, weight_decay=1e-4, fused=True)
    loss_function = DiceLoss(sigmoid=True, squared_pred=True)
    image = torch.randn(BATCH, 4, PATCH, PATCH, PATCH, device="cuda")
    image = image.contiguous(memory_format=memory_format)
    mask = (torch.rand(BATCH, 3, PATCH, PATCH, PATCH, device="cuda") < 0.1).float()

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            logits = network(image)
        loss_function(logits.float(), mask).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return Row(stage, layout, BATCH * STEPS / seconds, torch.cuda.max_memory_allocated() / 1e9)


def main() -> int:
    """Measure both stages in both layouts, print the ratio to the peer, write the results."""
    if not torch.cuda.is_available():
        print(
            "speed/networks/training_gpu.py measures training on an NVIDIA GPU and found none: "
            "run it on a machine with CUDA.",
            file=sys.stderr,
        )
        return 1
    torch.backends.cudnn.benchmark = True
    rows = []
    for stage in STAGES:
        for layout in LAYOUTS:
            row = measure(stage, layout)
            rows.append(row)
            print(
                f"{stage:20}{layout:15}{row.volumes_per_second:8.1f} volumes/s"
                f"{row.peak_gb:8.1f} GB",
                flush=True,
            )
            torch.cuda.empty_cache()
    best = max(row.volumes_per_second for row in rows if row.stage == "DynUNet base")
    print(f"DynUNet base against {PEER} volumes/s published for one A100: {best / PEER:.2f} x")
    RESULTS.write_text(
        json.dumps(
            {
                "hardware": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "setting": f"{PATCH}^3, batch {BATCH}, bfloat16, data on the device",
                "rows": [asdict(row) for row in rows],
                "dynunet_over_peer": best / PEER,
            },
            indent=2,
        )
        + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
