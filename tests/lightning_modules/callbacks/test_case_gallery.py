"""The choice of patients in the gallery."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightning_modules.callbacks import case_gallery
from lightning_modules.callbacks.case_gallery import CaseGallery, mean_dice, pad_to_one_size


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"case_id": "a", "dice/WT": 0.9, "dice/ET": 0.5, "unprocessed/dice/WT": 0.1}, 0.7),
        ({"slices/dice/WT": 0.8, "dice/WT": 0.6}, 0.6),
        ({"slices/dice/WT": 0.8, "hd95/WT": 3.0}, 0.8),
        ({"slices": 0}, 0.0),
    ],
)
def test_dice_of_a_patient(row, expected):
    assert mean_dice(row) == pytest.approx(expected)


def test_the_worst_and_the_best_are_kept(monkeypatch):
    drawn = []

    def draw(title, **others):
        drawn.append(title)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(case_gallery, "overlay_array", draw)
    gallery, module = CaseGallery(worst=2), SimpleNamespace(test_rows=[])
    trainer = SimpleNamespace(is_global_zero=True)
    for name, score in {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.1, "e": 0.95, "f": 0.6}.items():
        case = SimpleNamespace(
            case_id=name,
            native_image=lambda modality: np.zeros((1, 1, 1)),
            native_regions=lambda: np.zeros((3, 1, 1, 1), bool),
            native_spacing=(1.0, 1.0, 1.0),
            native_orientation="RAS",
            synthetic=True,
        )
        module.test_rows.append({"case_id": name, "dice/WT": score})
        outputs = {"case": case, "regions": np.zeros((3, 1, 1, 1), bool)}
        gallery.on_test_batch_end(trainer, module, outputs, None, 0)
    assert list(gallery.pictures) == ["d", "a", "e"]
    assert "f" not in drawn  # never drawn: neither low nor high


def test_smaller_pictures_get_margins_of_their_background():
    dark, light = np.full((2, 5, 4), 10, np.uint8), np.full((4, 2, 3), 200, np.uint8)
    dark[1], light[0, 1] = 77, 5  # the pictures
    found = pad_to_one_size({"dark": dark, "light": light})
    assert [picture.shape for picture in found.values()] == [(4, 5, 3)] * 2
    assert found["dark"][..., 0].tolist() == [[10] * 5, [10] * 5, [77] * 5, [10] * 5]
    assert found["light"][0, :, 2].tolist() == [200, 200, 5, 200, 200]
    assert (found["light"][1:] == 200).all()
    assert pad_to_one_size({}) == {}
