"""Overlays of the best epoch, also of a training that was killed after it."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightning_modules import callbacks
from lightning_modules.callbacks import ValidationGallery


@pytest.fixture
def logged(monkeypatch):
    """What W&B gets; a drawing says which prediction it shows."""
    found = []
    monkeypatch.setattr(callbacks, "wandb_run", lambda trainer: "run")
    monkeypatch.setattr(callbacks, "log_cases", lambda *words: found.append(words))

    def draw(path, prediction, **others):
        path.parent.mkdir(exist_ok=True)
        path.write_text(prediction)

    monkeypatch.setattr(callbacks, "overlay_png", draw)
    return found


def validate(gallery, score, prediction):
    case = SimpleNamespace(
        case_id="a", image=np.zeros((4, 1, 1, 1)), spacing=(1.0, 1.0, 1.0), synthetic=True
    )
    monitored = {"monitor": "val/dice/mean", "monitor_mode": "max"}
    module = SimpleNamespace(validation_cases={"a": {"WT": score}}, **monitored)
    trainer = SimpleNamespace(is_global_zero=True, callback_metrics={"val/dice/mean": score})
    outputs = {"case": case, "predicted": prediction, "reference": None}
    gallery.on_validation_batch_end(trainer, module, outputs, {}, 0)
    gallery.on_validation_end(trainer, module)
    return trainer


def test_killed_after_the_best_epoch_it_still_has_the_pictures(logged, tmp_path):
    killed = ValidationGallery(tmp_path / "overlays")
    validate(killed, 0.5, "first")
    validate(killed, 0.8, "best")
    resumed = ValidationGallery(tmp_path / "overlays")
    resumed.load_state_dict(killed.state_dict())
    trainer = validate(resumed, 0.7, "worse")
    resumed.publish(trainer)
    ((run, subset, rows, pictures),) = logged
    assert (run, subset) == ("run", "val")
    assert rows == [{"case_id": "a", "dice/WT": 0.8}]
    assert {name: file.read_text() for name, file in pictures.items()} == {"a": "best"}
