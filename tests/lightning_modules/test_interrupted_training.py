"""A training that goes on from a checkpoint draws what it would have drawn without the stop."""

import lightning as L  # noqa: N812
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.training import TrainingModule

PATCHES, PER_STEP = 8, 2


class Dropping(TrainingModule):
    """Notes what dropout left of every batch."""

    def __init__(self):
        super().__init__(loss=nn.MSELoss())
        self.network = nn.Linear(16, 1)
        self.left = {}

    def compute_loss(self, batch):
        kept = nn.functional.dropout(batch["image"], 0.5)
        self.left[self.current_epoch, self.trainer.global_step] = kept
        return self.network(kept).square().mean()


def loader():
    images = torch.linspace(1, 2, PATCHES * 16).reshape(PATCHES, 16)
    rows = [{"image": image, "case_id": str(place)} for place, image in enumerate(images)]
    return DataLoader(rows, batch_size=PER_STEP)  # its iterators draw from torch's generator too


def train(folder, epochs, ckpt_path=None, seed=0):
    module = Dropping()
    module.seed = seed
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, loader(), ckpt_path=ckpt_path, weights_only=True)
    return trainer, module.left


def test_dropout_after_a_stop_is_that_of_an_unbroken_training(tmp_path):
    _, whole = train(tmp_path, 3)
    first, begun = train(tmp_path, 1)
    file = tmp_path / "last.ckpt"
    first.save_checkpoint(file)
    _, resumed = train(tmp_path, 3, ckpt_path=file)
    assert sorted(resumed) == sorted(whole)[PATCHES // PER_STEP :]
    for step, kept in {**begun, **resumed}.items():
        assert torch.equal(kept, whole[step]), step


def test_every_step_and_every_seed_drops_its_own(tmp_path):
    masks = [train(tmp_path, 2, seed=seed)[1] for seed in (0, 1)]
    drawn = {tuple((kept != 0).flatten().tolist()) for left in masks for kept in left.values()}
    assert len(drawn) == 2 * 2 * PATCHES // PER_STEP
