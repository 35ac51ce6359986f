"""The numbers of an image against hand-made ones, and the patients whom they tell apart."""

import numpy as np
import pytest

from datamodules.appearance import NUMBERS, PERCENTILES, _distances, look, summarise, unlike
from datamodules.layouts.case_files import MODALITIES


def patient(seed, shape=(20, 24, 22)):
    """z-scores of a brain in which T1 is bright in tissue, T2 in fluid, and FLAIR in a lesion."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    fluid, tissue, lesion = rng.normal(size=(3, *shape))
    images = np.stack(
        [
            tissue - 0.8 * fluid - 0.2 * lesion,
            tissue - 0.7 * fluid + 0.2 * lesion,
            fluid + 0.5 * lesion,
            0.6 * tissue + 0.2 * fluid + lesion,
        ]
    )
    images += 0.3 * rng.normal(size=images.shape)
    scores = np.zeros((4, *shape), np.float16)
    for one, out in zip(images, scores, strict=True):
        out[inside] = (one[inside] - one[inside].mean()) / one[inside].std()
    return scores


@pytest.fixture(scope="module")
def statistics():
    return summarise([look(patient(seed), 1500.0 + seed, ()) for seed in range(20)])


def test_numbers_of_a_simple_image():
    image = np.zeros((4, 10, 10, 10), np.float16)
    ramp = np.arange(1, 9, dtype=np.float16)[:, None]  # along the axis of the neighbours
    image[0, 1:9, 1:9, 1:9] = ramp
    image[1, 1:9, 1:9, 1:9] = 9 - ramp
    image[2, 1:9, 1:9, 1:9] = 2.0
    found = look(image, 1200.0, {"flair"})
    assert found["brain/brain"] == 1200.0
    assert found["t1/p50"] == 4.5
    assert found["t1/p1"] == pytest.approx(np.percentile(np.arange(1, 9).repeat(64), 1))
    assert found["t1/fine"] == pytest.approx(0.5 / np.arange(1, 9).var())
    assert found["t1/flat"] == 0.0
    assert found["t2/flat"] == 1.0
    assert found["t2/fine"] == 0.0
    assert found["t1+t1ce/alike"] == pytest.approx(-1.0)
    assert found["t1+t2/alike"] == 0.0
    assert not [name for name in found if "flair" in name]


def test_white_noise_is_nothing_but_fine_detail():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, 20, 40, 40)).astype(np.float16)
    assert look(noise, 1000.0, ())["flair/fine"] == pytest.approx(1.0, abs=0.03)


def test_statistics_of_a_cohort():
    looks = [{"t2/p99": value} for value in (2.0, 3.0, 4.0, 5.0, 11.0)]
    looks.append({"brain/brain": 1.0})  # a patient without T2
    cohort = summarise(looks)
    assert cohort["patients"] == 6
    described = {"median": 4.0, "spread": 1.4826, "low": 2.0, "high": 11.0}
    assert cohort["numbers"]["t2/p99"] == described
    assert cohort["together"] == [[0.0, 0.0], [0.0, 0.0]]  # no patient has both numbers


def test_correlations_of_a_cohort_are_in_bounded_spreads():
    looks = [{"t2/p99": 1.0 * x, "t2/p95": -2.0 * x} for x in (-1, 0, 1, 2, -2, 100)]
    (a, b), (c, d) = summarise(looks)["together"]
    scaled = np.clip((np.array([-1, 0, 1, 2, -2, 100]) - 0.5) / (1.4826 * 1.5), -6, 6)
    assert a == pytest.approx(d) == pytest.approx(np.mean(scaled**2), abs=1e-3)
    assert b == c == pytest.approx(-a, abs=1e-3)


def test_many_small_differences_are_one_large_one():
    rng = np.random.default_rng(0)
    names = [f"{modality}/p{p}" for modality in MODALITIES for p in PERCENTILES]
    looks = [dict(zip(names, rng.uniform(-2, 2, len(names)), strict=True)) for _ in range(50)]
    assert unlike(dict.fromkeys(names, 1.0), summarise(looks)) == []
    (finding,) = unlike(dict.fromkeys(names, 2.4), summarise(looks))
    assert finding.startswith("the images differ in many numbers (distance ")
    assert finding.endswith(", usual up to 3.2)")


def test_numbers_that_go_together_count_once():
    """A patient along the direction in which a cohort varies is closer than one across it."""
    names = ["t1/p50", "t2/p50"]
    looks = [dict.fromkeys(names, value) for value in np.linspace(-2, 2, 50)]
    cohort = summarise(looks)
    along, _ = _distances(dict.fromkeys(names, 1.5), cohort)
    across, _ = _distances({"t1/p50": 1.5, "t2/p50": -1.5}, cohort)
    assert across > 2 * along


def test_the_sentence_names_what_is_unusual():
    seen = {"median": 2.6, "spread": 0.1, "low": 2.2, "high": 3.0}
    cohort = {"patients": 100, "numbers": {"t2/p99": seen}}  # as an earlier version wrote it
    found = {"t2/p99": 4.1, "t1/p99": 99.0}  # T1 is not known of the cohort
    assert unlike(found, cohort) == [
        "T2 has a heavier bright tail (99th percentile 4.1, training 2.2 to 3.0)"
    ]
    assert unlike({"t2/p99": 1.0}, cohort) == [
        "T2 has a lighter bright tail (99th percentile 1.0, training 2.2 to 3.0)"
    ]
    assert unlike({"t2/p99": 3.8}, cohort) == []


def test_few_patients_leave_a_wider_margin():
    number = NUMBERS["p50"]
    assert number.margin(0.0, 100) == pytest.approx(0.25 * 1.04)
    assert number.margin(0.0, 4) == pytest.approx(0.5)
    assert number.margin(1.0, 100) == pytest.approx(1.04)


def test_a_patient_like_the_others_is_not_named(statistics):
    named = [seed for seed in range(100, 120) if unlike(look(patient(seed), 1510, ()), statistics)]
    assert named == []


@pytest.mark.parametrize(
    ("alter", "sentence"),
    [
        (lambda image: image[[3, 1, 2, 0]], "T1 and FLAIR look swapped (distance from"),
        (lambda image: image[[0, 2, 1, 3]], "T1ce and T2 look swapped (distance from"),
        (lambda image: image * np.float16([1, 1, -1, 1])[:, None, None, None], "T1 and T2 are mo"),
        (
            lambda image: image * np.float16([1, 0, 1, 1])[:, None, None, None],
            "T1ce has flat areas",
        ),
    ],
)
def test_an_altered_patient_is_named_first_for_what_was_altered(statistics, alter, sentence):
    findings = unlike(look(alter(patient(100)), 1510, ()), statistics)
    assert any(one.startswith(sentence) for one in findings[:3]), findings


def test_modalities_that_have_nothing_in_common_do_not_go_together(statistics):
    noise = patient(100)
    for number, image in enumerate(noise):  # another voxel order in each: the same percentiles
        voxels = image[image != 0]
        image[image != 0] = np.random.default_rng(number).permutation(voxels)
    findings = unlike(look(noise, 1510, ()), statistics)
    assert any(one.startswith("the modalities do not go together (") for one in findings), findings


def test_a_swap_is_named_of_three_modalities_and_not_of_two(statistics):
    swapped = patient(100)[[0, 3, 2, 1]]
    found = look(swapped, 1510, {"t1"})
    assert any("T1ce and FLAIR look swapped" in one for one in unlike(found, statistics))
    found = look(swapped, 1510, {"t1", "t2"})
    assert not any("look swapped" in one for one in unlike(found, statistics))


def test_the_size_of_the_brain_is_in_ml(statistics):
    (finding,) = unlike(look(patient(100), 3200.4, ()), statistics)
    assert finding == "the brain is larger (volume in ml 3200, training 1500 to 1519)"


def test_statistics_are_plain_types_of_few_digits(statistics):
    numbers = [value for one in statistics["numbers"].values() for value in one.values()]
    assert {type(value) for value in numbers} == {float}
    assert all(round(value, 4) == value for value in numbers)
