import json

import pytest

from datamodules.patients.find import find_cases
from errors import InputError
from tests.datamodules.layouts.test_brats import touch

CHANNELS = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
LABELS = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}


def sentence(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for word in words:
        assert word in message
    return message


@pytest.fixture
def dataset(tmp_path):
    touch(tmp_path, *[f"imagesTr/A_{n:04d}.nii.gz" for n in range(4)])

    def read(content):
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        return find_cases(tmp_path)[0].convention

    return read


@pytest.mark.parametrize(
    ("content", "key", "found"),
    [
        ({"channel_names": list(CHANNELS.values()), "labels": LABELS}, "channel_names", "['T1'"),
        ({"channel_names": {"zero": "T1"}, "labels": LABELS}, "channel_names.zero", "zero"),
        ({"channel_names": {"-1": "T1"}, "labels": LABELS}, "channel_names.-1", "-1"),
        ({"channel_names": {"0": None}, "labels": LABELS}, "channel_names.0", "None"),
        ({"channel_names": {"0": ["T1"]}, "labels": LABELS}, "channel_names.0", "['T1']"),
        ({"channel_names": CHANNELS, "labels": list(LABELS)}, "labels", "['background'"),
        ({"channel_names": CHANNELS, "labels": {"edema": "two"}}, "labels.edema", "'two'"),
        ({"channel_names": CHANNELS, "labels": {"edema": None}}, "labels.edema", "None"),
        ({"channel_names": CHANNELS, "labels": {"edema": {"value": 2}}}, "labels.edema", "value"),
        ({"channel_names": CHANNELS, "labels": {"edema": True}}, "labels.edema", "True"),
        ({"channel_names": CHANNELS, "labels": {"edema": 2.5}}, "labels.edema", "2.5"),
        ({"channel_names": CHANNELS, "labels": {"edema": -2}}, "labels.edema", "-2"),
        ({"channel_names": CHANNELS, "labels": {"edema": [[2]]}}, "labels.edema", "[[2]]"),
        ({"channel_names": CHANNELS, "labels": {"edema": []}}, "labels.edema", "[]"),
        ([1], "dataset.json", "[1]"),
        ("abc", "dataset.json", "'abc'"),
        (None, "dataset.json", "None"),
    ],
)
def test_a_malformed_dataset_json_is_one_sentence(dataset, content, key, found):
    sentence(lambda: dataset(content), "dataset.json", key, found, "expected")


@pytest.mark.parametrize("text", ["{", "", "\xff", '{"labels": {}, "labels": {}}', "[" * 100_000])
def test_a_dataset_json_that_is_no_json_is_one_sentence(tmp_path, text):
    touch(tmp_path, "imagesTr/A_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
    sentence(lambda: find_cases(tmp_path), "dataset.json", "JSON")


@pytest.mark.parametrize(
    ("labels", "meaning"),
    [
        (
            {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
            ((2,), (1,), (3,)),
        ),
        ({"WT": [1, 2, 3, 4], "TC": [1, 2, 3], "ET": [1]}, ((2, 3), (4,), (1,))),
        ({"ET": 1, "NET": 2, "CC": 3, "ED": 4}, ((2, 3), (4,), (1,))),
        ({"TC": [1, 3], "ED": 2, "ET": 3}, ((1,), (2,), (3,))),
        ({"1": "necrosis", "2": "edema", "4": "enhancing", "3": "necrosis"}, ((1, 3), (2,), (4,))),
        ({"necrosis": 1, "non-enhancing": 3, "edema": 2, "enhancing": "4"}, ((1, 3), (2,), (4,))),
        ({"tumor": 1}, ((), (1,), ())),
        ({"whole tumour": [1, 2]}, ((), (1, 2), ())),
    ],
)
def test_classes_and_regions_may_be_unions(dataset, labels, meaning):
    content = {"channel_names": CHANNELS, "labels": {"background": 0} | labels}
    found = dataset({**content, "regions_class_order": [1, 2, 3]})
    assert tuple(map(found.of, ("necrosis", "oedema", "enhancing"))) == meaning


@pytest.mark.parametrize(
    "labels",
    [
        {"whole tumor": [1, 2], "tumor core": [2, 3], "enhancing tumor": 3},
        {"whole tumor": [1, 2, 3], "tumor core": [2], "enhancing tumor": 3},
        {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3, "edema": 2},
        {"whole tumor": [1, 3], "tumor core": [3], "enhancing tumor": 3},
        {"necrosis": 1, "edema": 1, "enhancing": 3},
        {"necrosis": 0, "edema": 1, "enhancing": 3},
        {"tumor": 0},
    ],
)
def test_regions_that_are_not_nested_and_values_given_twice_are_refused(dataset, labels):
    sentence(lambda: dataset({"channel_names": CHANNELS, "labels": labels}), "dataset.json", "name")


def test_two_channels_of_one_modality_are_refused(dataset):
    channels = {**CHANNELS, "4": "T1w"}
    sentence(lambda: dataset({"channel_names": channels, "labels": LABELS}), "0 and 4 both t1")


IMAGES = {m: f"{{case}}/{{case}}_{m}.nii.gz" for m in ("t1", "t1ce", "t2", "flair")}
LAYOUT = {"images": IMAGES, "labels": {"necrosis": 1, "oedema": 2, "enhancing": 4}}


def flair(entry):
    return {**LAYOUT, "images": {**IMAGES, "flair": entry}}


@pytest.fixture
def layout(tmp_path):
    touch(tmp_path, *[pattern.replace("{case}", "p1") for pattern in IMAGES.values()])

    def read(text):
        (tmp_path / "ward.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return find_cases(tmp_path, tmp_path / "ward.yaml")[0]

    return read


def test_the_layout_that_the_faulty_ones_vary_is_sound(layout):
    assert layout(json.dumps(LAYOUT)).convention.values == {0, 1, 2, 4}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (
            {**LAYOUT, "patient": "(.+_"},
            "patient is no regular expression: '(.+_' fails with \"missing ), unterminated "
            "subpattern at position 0\", write one such as '(.+)_visit\\d+'.",
        ),
        ({**LAYOUT, "patient": "a{99999999999999999999}(b)"}, "patient is no regular expression"),
        (
            {**LAYOUT, "patient": 3},
            "patient is 3, expected a regular expression in quotes, such as '(.+)_visit\\d+'.",
        ),
        ({**LAYOUT, "patient": "p1"}, "patient has no group"),
        (
            {**LAYOUT, "label": ["{case}.nii.gz"]},
            "label is ['{case}.nii.gz'], expected one pattern in quotes, such as \"{case}/",
        ),
        ({**LAYOUT, "label": IMAGES["t1"]}, "one pattern for an image and the label"),
        ({**LAYOUT, "prediction": 3}, "prediction is 3"),
        ({**LAYOUT, "name": 2021}, "name is 2021, expected a text in quotes."),
        ({**LAYOUT, "nmae": "x"}, "'nmae' is unknown"),
        ({**LAYOUT, "labels": {**LAYOUT["labels"], "cyst": 3}}, "'labels.cyst' is unknown"),
        ({**LAYOUT, "labels": {"whole": 1, "oedema": 2}}, "labels has whole beside"),
        ({**LAYOUT, "labels": {"necrosis": 1, "oedema": 2}}, "labels has no enhancing"),
        ({**LAYOUT, "labels": None}, "labels is None"),
        ({"images": IMAGES}, "no key 'labels'"),
        ({"labels": LAYOUT["labels"]}, "no key 'images'"),
        (flair({"file": IMAGES["flair"], "channel": "x"}), "images.flair.channel is 'x'"),
        (flair({"file": IMAGES["flair"], "channel": -1}), "images.flair.channel is -1"),
        (flair({"file": IMAGES["flair"], "channel": True}), "images.flair.channel is True"),
        (flair({"file": IMAGES["flair"], "chanel": 1}), "'images.flair.chanel' is unknown"),
        (flair(IMAGES["t2"]), "one pattern for t2 and flair"),
        (flair("/data/{case}.nii.gz"), "absolute path"),
        (flair("C:/data/{case}.nii.gz"), "absolute path"),
        (flair("{case}\\x.nii.gz"), "backslash"),
        (flair("../{case}.nii.gz"), ".."),
        (flair("**/{case}_flair.nii.gz"), "**"),
        (flair("x.nii.gz"), "no {case}"),
        (flair(3), "images.flair is 3"),
        ([], "it holds []"),
        (None, "it holds None"),
    ],
)
def test_a_malformed_layout_is_one_sentence(layout, content, place):
    sentence(lambda: layout(json.dumps(content)), "ward.yaml", place)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("\tname: x", "cannot start any token"),
        ("name: [x", "cannot be read as YAML"),
        ("name: a\nname: b", "'name' stands twice"),
        ("labels: {necrosis: 1, necrosis: 2}", "'necrosis' stands twice"),
        ("name: 2020-13-45", "month"),
        (b"\xff\xfename", "utf-8"),
        ("[" * 3000, "recursion"),
        ("!!python/object/apply:os.system [ls]", "constructor"),
        ("{[1]: 2}", "unhashable"),
        ("a: &x [*x]", "ward.yaml"),
        ("1: 2", "ward.yaml"),
    ],
)
def test_a_layout_that_is_no_yaml_is_one_sentence(layout, text, what):
    sentence(lambda: layout(text), "ward.yaml", what)
