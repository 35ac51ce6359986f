"""Overlays of the best epoch, also if the training was killed after it."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightning_modules.callbacks import metrics_file
from lightning_modules.callbacks.metrics_file import ValidationGallery


@pytest.fixture
def logged(monkeypatch):
    """Collect the pictures for W&B; each records the prediction that it shows."""
    found = []
    monkeypatch.setattr(metrics_file, "wandb_run", lambda trainer: "run")
    monkeypatch.setattr(metrics_file, "log_cases", lambda *words: found.append(words))

    def draw(path, prediction, **others):
        assert list(others["images"]) == ["t1", "t1ce", "t2", "flair"]
        assert (others["title"], others["spacing"], others["synthetic"]) == ("a", (1, 2, 3), True)
        path.write_text(f"shows {int(prediction.sum())}")

    monkeypatch.setattr(metrics_file, "overlay_png", draw)
    return found


def validate(gallery, score, voxels):
    """Validate an epoch with a prediction of this many voxels."""
    predicted, reference = np.arange(24).reshape(3, 2, 2, 2) < voxels, np.ones((3, 2, 2, 2), bool)
    case = SimpleNamespace(
        case_id="a", image=np.zeros((4, 2, 2, 2)), spacing=(1.0, 2.0, 3.0), synthetic=True
    )
    monitored = {"monitor": "val/dice/mean", "monitor_mode": "max"}
    module = SimpleNamespace(validation_cases={"a": {"WT": score}}, **monitored)
    trainer = SimpleNamespace(is_global_zero=True, callback_metrics={"val/dice/mean": score})
    outputs = {"case": case, "predicted": predicted, "reference": reference}
    gallery.on_validation_batch_end(trainer, module, outputs, {}, 0)
    gallery.on_train_epoch_end(trainer, module)
    return trainer


def test_killed_after_the_best_epoch_it_still_has_the_pictures(logged, tmp_path):
    killed = ValidationGallery(tmp_path / "overlays")
    validate(killed, 0.5, 3)
    validate(killed, 0.8, 7)
    resumed = ValidationGallery(tmp_path / "overlays")
    resumed.load_state_dict(killed.state_dict())
    trainer = validate(resumed, 0.7, 9)
    resumed.publish(trainer)
    ((run, subset, rows, pictures),) = logged
    assert (run, subset) == ("run", "val")
    assert rows == [{"case_id": "a", "dice/WT": 0.8}]
    assert {name: file.read_text() for name, file in pictures.items()} == {"a": "shows 7"}
    assert [file.name for file in (tmp_path / "overlays").iterdir()] == ["a.png"]
