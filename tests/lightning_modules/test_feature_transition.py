"""Stage 1 of Zhang et al.: four networks, two optimisers, two pools."""

import copy

import lightning as L  # noqa: N812
import pytest
import torch
from torch.utils.data import DataLoader

from errors import InputError
from fusion import FeatureTransitionFusion
from lightning_modules import BackboneModule, FeatureTransitionModule, WarmupCosine
from lightning_modules.contracts.settings import FitSettings
from lightning_modules.image_pool import ImagePool
from lightning_modules.losses import ClassDiceLoss

SPEC = {"class_path": "lightning_modules.FeatureTransitionModule", "init_args": {"size": "tiny"}}


@pytest.fixture
def stage_one():
    torch.manual_seed(0)
    module = FeatureTransitionModule(size="tiny")
    module.card.update(model=SPEC, seen=[])
    module.patch_size = (16, 16, 16)
    return module


def write(module, path):
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return str(path)


def train(module, batch, monkeypatch, before_step):
    """One real training step of Lightning; `before_step` sees every optimiser before it steps."""
    monkeypatch.setattr(module, "log_train", lambda *_: None)
    original = module.descend

    def descend(optimizer, loss):
        before_step(optimizer, loss)
        original(optimizer, loss)

    monkeypatch.setattr(module, "descend", descend)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch], batch_size=None))


def test_each_optimiser_moves_its_own_networks(stage_one, batch, monkeypatch):
    states, losses = [copy.deepcopy(stage_one.network.state_dict())], []

    def note(optimizer, loss):
        states.append(copy.deepcopy(stage_one.network.state_dict()))
        losses.append(loss.detach().clone())

    train(stage_one, batch, monkeypatch, note)
    begin, before_critics = states[0], states[2]
    after = stage_one.network.state_dict()

    def moved(first, second):
        return {name for name in first if not torch.equal(first[name], second[name])}

    assert {name.split(".")[0] for name in moved(begin, before_critics)} == {"streams", "translate"}
    assert {name.split(".")[0] for name in moved(before_critics, after)} == {"critics"}
    assert len(losses) == 2


def test_losses_are_least_squares_and_ten_times_the_cycle(stage_one, batch, monkeypatch):
    twin = copy.deepcopy(stage_one.network)
    losses = []
    train(stage_one, batch, monkeypatch, lambda _, loss: losses.append(loss.detach().clone()))
    x, y = batch["image"][:, :2], batch["image"][:, 2:]
    with torch.no_grad():
        fake_y, fake_x = twin.generate(0, x), twin.generate(1, y)
        cycle = (twin.generate(1, fake_y) - x).abs().mean() + (
            twin.generate(0, fake_x) - y
        ).abs().mean()
        adversarial = ((twin.judge(0, fake_y) - 1) ** 2).mean() + (
            (twin.judge(1, fake_x) - 1) ** 2
        ).mean()
        real = ((twin.judge(0, y) - 1) ** 2).mean() + ((twin.judge(1, x) - 1) ** 2).mean()
        fake = (twin.judge(0, fake_y) ** 2).mean() + (twin.judge(1, fake_x) ** 2).mean()
    assert float(losses[0]) == pytest.approx(float(adversarial + 10 * cycle), rel=1e-5)
    assert float(losses[1]) == pytest.approx(float(real + fake) / 2, rel=1e-5)


def test_gradients_of_both_are_clipped(stage_one, batch, monkeypatch):
    stage_one.configure_for_fit(FitSettings((16, 16, 16), gradient_clip_val=1e-9))
    stage_one.optimizer_factory = lambda weights: torch.optim.SGD(weights, lr=1.0)
    before = copy.deepcopy(stage_one.network.state_dict())
    train(stage_one, batch, monkeypatch, lambda *_: None)
    moved = torch.cat(
        [(after - before[name]).flatten() for name, after in stage_one.network.state_dict().items()]
    )
    assert float(moved.norm()) < 1e-6  # a step of an unclipped gradient is about 1


def test_both_optimisers_warm_up_and_fall_to_nothing_step_by_step(stage_one, batch, monkeypatch):
    monkeypatch.setattr(stage_one, "log_train", lambda *_: None)
    nothing = torch.zeros(())  # the rates are of interest here, not the losses
    monkeypatch.setattr(stage_one, "generator_losses", lambda _: ([], nothing, nothing))
    monkeypatch.setattr(stage_one, "discriminator_loss", lambda *_: nothing)
    rates = []

    def note(optimizer, loss):
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"] / 3e-4)

    monkeypatch.setattr(stage_one, "descend", note)
    stage_one.scheduler_factory = lambda optimizer: WarmupCosine(optimizer, warmup_steps=2)
    stage_one.configure_for_fit(FitSettings((16, 16, 16), max_steps=10))  # of both: five each
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(stage_one, DataLoader([batch, batch], batch_size=None))
    expected = [0.5, 0.75, 1.0, 0.75, 0.25, 0.0]  # the sixth is after the limit, which is Ending's
    assert rates[::2] == rates[1::2] == pytest.approx(expected)


def test_a_step_without_a_trainer_moves_all_four_networks(stage_one, batch):
    optimizers = stage_one.configure_optimizers()
    before = copy.deepcopy(stage_one.network.state_dict())
    stage_one.rehearse_step(batch, optimizers)
    after = stage_one.network.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"streams", "translate", "critics"}
    assert all(weight.grad is None for weight in stage_one.network.parameters())


def test_stage_two_takes_over_every_weight_but_the_last_convolutions(stage_one, tmp_path):
    path = write(stage_one, tmp_path / "stage_one.ckpt")
    torch.manual_seed(1)
    module = BackboneModule(
        network=FeatureTransitionFusion, size="tiny", weights=path, loss=ClassDiceLoss()
    )
    given, taken = stage_one.network.state_dict(), module.network.state_dict()
    bodies = {name for name in given if name.startswith("streams.")}
    last = {name for name in given if name.startswith("translate.")}
    assert set(given) - bodies - last == {name for name in given if name.startswith("critics.")}
    assert all(torch.equal(given[name], taken[name]) for name in bodies)
    assert not last & set(taken)
    assert module.remarks()[0].endswith("new: classify, fuse_full, fuse_half, fuse, out")
    assert all(weight.requires_grad for weight in module.network.parameters())


def test_another_size_is_refused(stage_one, tmp_path):
    path = write(stage_one, tmp_path / "stage_one.ckpt")
    with pytest.raises(InputError, match=r"stage_one\.ckpt has size tiny, the network base"):
        BackboneModule(
            network=FeatureTransitionFusion, size="base", weights=path, loss=ClassDiceLoss()
        )


def test_pool_hands_back_new_and_older_images():
    torch.manual_seed(0)
    pool = ImagePool(2)
    images = [torch.full((1, 1, 2, 2, 2), float(value)) for value in range(40)]
    handed = [float(pool.exchange(image).mean()) for image in images]
    assert handed[:2] == [0, 1]  # it fills first
    older = [now for now, value in zip(handed[2:], range(2, 40), strict=True) if now != value]
    assert 10 < len(older) < 28  # about half of 38
    assert len(pool.images) == 2
    assert max(handed.count(value) for value in set(handed)) == 2  # once new, once again at most


def test_pool_of_none_hands_everything_back():
    image = torch.randn(2, 1, 2, 2, 2, requires_grad=True)
    handed = ImagePool(0).exchange(image)
    assert torch.equal(handed, image)
    assert not handed.requires_grad


def test_below_zero_is_refused():
    with pytest.raises(InputError, match=r"model\.pool_size is -1"):
        FeatureTransitionModule(pool_size=-1)
