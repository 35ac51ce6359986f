"""Calibration against the measured patients, and the physics and noise below it."""

import numpy as np
import pytest

from datamodules.layouts.case_files import MODALITIES
from datamodules.phantom.fields import Grid, smooth_noise, thick_slices
from datamodules.phantom.signal import _signal
from datamodules.phantom.simulation import generate_patient

# Lowest and highest per-patient mean among nine real patients (BraTS 2021 and BRATS 2015), z-scored
# over the brain after clipping to the 0.5 to 99.5 percentile.
MEASURED = {
    "oedema": {"t1": (0.1, 0.6), "t1ce": (-0.5, 0.3), "t2": (0.5, 1.1), "flair": (1.4, 2.2)},
    "core": {"t1": (-0.7, 0.6), "t1ce": (-1.4, 1.1), "t2": (1.4, 2.2), "flair": (-1.0, 3.3)},
    "enhancing": {"t1": (0.0, 1.4), "t1ce": (1.2, 3.4), "t2": (1.0, 1.9), "flair": (1.1, 2.7)},
}
CODE = {"core": 1, "oedema": 2, "enhancing": 3}
PATIENTS = 24


def zscore(image: np.ndarray) -> np.ndarray:
    brain = image[image > 0].astype(np.float64)
    low, high = np.percentile(brain, [0.5, 99.5])
    clipped = np.clip(brain, low, high)
    return (np.clip(image, low, high) - clipped.mean()) / clipped.std()


@pytest.fixture(scope="module")
def scores() -> dict[tuple[str, str], np.ndarray]:
    """Per-patient mean z-score of every compartment in every modality, and its spread inside."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for index in range(PATIENTS):
        patient = generate_patient(0, index, 4.0)
        for modality in MODALITIES:
            image = zscore(patient.images[modality])
            for name, code in CODE.items():
                inside = (patient.label == code) & (patient.images[modality] > 0)
                if inside.sum() >= 10:
                    values = image[inside]
                    found.setdefault((name, modality), []).append((values.mean(), values.std()))
    return {key: np.array(value) for key, value in found.items()}


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("compartment", sorted(MEASURED))
def test_compartments_lie_where_they_were_measured(scores, compartment, modality):
    low, high = MEASURED[compartment][modality]
    found = scores[compartment, modality]
    assert low <= found[:, 0].mean() <= high
    # Patients differ, on both sides of the measured middle: none is separable by one number.
    assert found[:, 0].min() < (low + high) / 2 < found[:, 0].max()
    assert 0.2 < found[:, 1].mean() < 1.2  # measured inside one patient: 0.3 to 0.9


def test_flair_does_not_separate_the_compartments(scores):
    oedema, enhancing = (scores[name, "flair"][:, 0] for name in ("oedema", "enhancing"))
    assert np.percentile(oedema, 90) > np.percentile(enhancing, 10)


def test_flair_nulls_the_fluid_whose_t1_it_was_set_for():
    tr, t1 = 9000.0, 3800.0
    ti = t1 * np.log(2 / (1 + np.exp(-tr / t1)))
    null = _signal("flair", {"tr": tr, "te": 100, "ti": ti}, t1, 900, 1.0)
    grey = _signal("flair", {"tr": tr, "te": 100, "ti": ti}, 1350, 95, 0.82)
    assert null == pytest.approx(0, abs=1e-9)
    assert grey > 0.05


def test_spin_echo_signal_matches_its_equation():
    assert _signal("t2", {"tr": 1e9, "te": 80}, 1000, 80, 0.5) == pytest.approx(0.5 / np.e)
    short = _signal("t1", {"gradient": 0, "tr": 600, "ti": 0}, 600, 1e9, 1.0)
    assert short == pytest.approx(1 - 1 / np.e)


@pytest.mark.parametrize("knot", [5.0, 20.0])
def test_smooth_noise_has_unit_variance_and_its_length(knot):
    field = smooth_noise(np.random.default_rng(0), Grid((80, 90, 70), 2.0), knot)
    assert field.std() == pytest.approx(1, abs=0.12)
    lag = round(2 * knot / 2.0)
    neighbour = np.corrcoef(field[1:].ravel(), field[:-1].ravel())[0, 1]
    far = np.corrcoef(field[lag:].ravel(), field[:-lag].ravel())[0, 1]
    assert neighbour > 0.75
    assert abs(far) < 0.3


def test_thick_slices_keep_the_mean_and_blur_one_axis_only():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((24, 24, 24), dtype=np.float32)
    thick = thick_slices(image, 2, 6.0, 0.3, 1.0)
    assert thick.mean() == pytest.approx(image.mean(), abs=0.02)
    assert np.abs(np.diff(thick, axis=2)).mean() < 0.2 * np.abs(np.diff(image, axis=2)).mean()
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None], (24, 24, 24))
    np.testing.assert_allclose(thick_slices(ramp, 2, 5.0, 0.0, 1.0), ramp, rtol=1e-5)
