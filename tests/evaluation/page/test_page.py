"""The report page: nothing from a network, all text escaped; in a browser it sorts and draws."""

import base64
import gzip
import re

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread, imsave
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from evaluation.figures.overlay import COLOURS, WARNING
from evaluation.figures.side_by_side import systems_png
from evaluation.figures.viewed_case import ViewedCase
from evaluation.page.page import Picture, Report, _cell, shared_footnotes, to_page
from evaluation.page.viewer_volumes import MOST_VOXELS, packed
from evaluation.statistics.columns import ScoreColumn, score_columns
from evaluation.tables.intervals import statistics_tables
from evaluation.tables.systems import BenchmarkTable, benchmark_table
from tests.browser import visit

NASTY = '<b>x</b> & "y"'


def ball(shape, centre, radius):
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def viewed(case_id="p1", shape=(20, 24, 16), **changes):
    centre = [n // 2 for n in shape]
    rng = np.random.default_rng(0)
    brain = ball(shape, centre, 7)
    image = np.where(brain, 50 + rng.random(shape), 0)
    reference = np.stack([ball(shape, centre, radius) for radius in (5, 3, 2)])
    predictions = {"a": np.roll(reference, 1, axis=1), NASTY: np.zeros_like(reference)}
    settings = {
        "case_id": case_id,
        "place": "worst",
        "images": {"t1": image, "t1ce": image[::-1], "flair": image},
        "reference": reference,
        "predictions": predictions,
        "spacing": (1.0, 1.0, 2.0),
        "scores": {"a": {"WT": 0.8126}},
    }
    return ViewedCase(**{**settings, **changes})


def rows(shift=0.0):
    return [
        {
            "case_id": f"p{index}",
            "dice/WT": value + shift,
            "hd95/WT": float("inf") if index == 1 else 100.0 - index,
            "nsd/WT": value,
        }
        for index, value in enumerate((0.5, 0.3, float("nan"), 0.4))
    ]


@pytest.fixture
def page(tmp_path):
    systems = {"a": rows(), NASTY: [{**row, "run": "4c1d, seed 1"} for row in rows(0.1)]}
    columns = score_columns(systems["a"][0], ["dice", "hd95", "nsd"])
    imsave(tmp_path / "dot.png", np.zeros((13, 26, 3)))
    picture = Picture.of(tmp_path / "dot.png", NASTY)
    report = Report(
        title=NASTY,
        provenance=["data: phantoms"],
        synthetic=True,
        tables=[benchmark_table(systems, columns, title=NASTY)],
        statistics=statistics_tables(systems, columns, "a"),
        distributions=[picture],
        columns=columns,
        rows=systems,
        cases=[("worst", picture)],
        viewed=[
            packed(viewed("</script><script>p1", synthetic=True)),
            packed(viewed("p2", shape=(30, 20, 16))),
        ],
        remarks=[NASTY],
    )
    file = tmp_path / "report.html"
    file.write_text(to_page(report))
    return file


def test_what_all_tables_say_is_shared_footnotes_and_what_the_page_says_by_none():
    def tables(*footnotes):
        return [BenchmarkTable("t", [], [("a", [])], notes) for notes in footnotes]

    shared, own = shared_footnotes(
        tables(["data", "Wilcoxon", "own"], ["data", "Wilcoxon"]), ["data"]
    )
    assert shared == ["Wilcoxon"]
    assert [table.footnotes for table in own] == [["own"], []]
    shared, own = shared_footnotes(tables(["data", "Wilcoxon"]), ["data"])
    assert (shared, own[0].footnotes) == ([], ["Wilcoxon"])
    shared, own = shared_footnotes(
        tables(["data, 8 patients"], ["data, 6 patients"]), ["data, 8 patients"]
    )
    assert (shared, [table.footnotes for table in own]) == ([], [[], ["data, 6 patients"]])
    assert shared_footnotes([]) == ([], [])
    empty = BenchmarkTable("t", [], [], ["No patient was tested by all."])
    shared, own = shared_footnotes([empty, *tables(["data"], ["data", "own"])])
    assert shared == ["data"]
    assert [one.footnotes for one in own] == [["No patient was tested by all."], [], ["own"]]


def test_the_page_asks_for_nothing_and_escapes_everything(page):
    text = page.read_text()
    assert not re.search(r"https?://|@import|url\(", text)
    assert set(re.findall(r'(?:src|href)="([^"]{5})', text)) <= {"data:", "#resu", "#stat", *(
        f"#{name[:4]}" for name in ("distributions", "patients", "cases", "viewer")
    )}  # fmt: skip
    assert "default-src 'none'" in text
    assert NASTY not in text
    assert "</script><script>p1" not in text
    assert "&lt;b&gt;x&lt;/b&gt; &amp; " in text
    assert 'width="20" height="10"' in text  # 26 x 13 at 1.3 pixels each
    assert "SYNTHETIC" in text


def test_the_table_of_patients_sorts_filters_and_shows_measures(page):
    script = """
      const table = document.getElementById("patients-table");
      const heads = [...table.tHead.rows[0].cells];
      const column = heads.findIndex((head) => head.textContent.startsWith("Dice WT"));
      const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const seen = () => shown().map((row) => row.cells[column].textContent);
      heads[column].querySelector("button").click();
      found.rising = seen();
      heads[column].querySelector("button").click();
      found.falling = seen();
      found.sorted = heads[column].getAttribute("aria-sort");
      heads[column + 1].querySelector("button").click();
      found.farthest = [...shown().at(-1).cells].map((cell) => cell.textContent)[column + 1];
      const box = document.getElementById("patients-filter");
      box.value = "P1  b SEED";
      box.dispatchEvent(new Event("input"));
      found.filtered = shown().map((row) => row.textContent.slice(0, 2));
      found.count = document.getElementById("patients-count").textContent;
      const nsd = document.querySelector('#patients-measures [data-family="nsd"]');
      const place = heads.findIndex((head) => head.dataset.family === "nsd");
      found.before = shown()[0].cells[place].hidden;
      nsd.click();
      found.after = shown()[0].cells[place].hidden;
      found.wide = document.documentElement.scrollWidth > window.innerWidth;
    """
    found, complaints = visit(page, script)
    assert complaints == []
    # of the two systems 0.3, 0.4, 0.5 and 0.1 more; what is no number stands last both ways
    assert found["rising"] == ["0.300", "0.400", "0.400", "0.500", "0.500", "0.600", "n/a", "n/a"]
    assert found["falling"] == ["0.600", "0.500", "0.500", "0.400", "0.400", "0.300", "n/a", "n/a"]
    assert found["sorted"] == "descending"
    assert found["farthest"] == "inf"
    assert found["filtered"] == ["p1"]
    assert found["count"] == "1 of 8 rows"
    assert (found["before"], found["after"]) == (True, False)
    assert found["wide"] is False  # a laptop needs no sideways scrolling of the page


def test_the_viewer_draws_and_follows_its_controls(page):
    script = """
      const root = document.getElementById("viewer-box");
      const ready = () => root.dataset.ready === "1";
      const canvas = root.querySelector('canvas[data-plane="axial"]');
      const copy = document.createElement("canvas");
      const pixels = () => {
        [copy.width, copy.height] = [canvas.width, canvas.height];
        const context = copy.getContext("2d", {willReadFrequently: true});
        context.drawImage(canvas, 0, 0);
        return context.getImageData(0, 0, copy.width, copy.height).data;
      };
      const count = (test) => {
        const all = pixels();
        let number = 0;
        for (let at = 0; at < all.length; at += 4) {
          number += test(all[at], all[at + 1], all[at + 2]) ? 1 : 0;
        }
        return number;
      };
      const grey = (r, g, b) => r > 60 && r === g && g === b;
      const line = (r, g, b) => r === 0x4c && g === 0xc9 && b === 0xf0; // WT, outlined
      const set = (name, value) => {
        const box = root.querySelector(`[data-role="${name}"]`);
        if (box.type === "checkbox") box.checked = value; else box.value = value;
        box.dispatchEvent(new Event("change"));
      };
      await until(ready);
      set("cross", false);
      found.grey = count(grey);
      found.outlined = count(line);
      set("prediction", false);
      found.bare = count(line);
      set("reference", false);
      found.untinted = count(grey);
      found.readout = root.querySelector('[data-role="readout"]').textContent;
      found.scores = root.querySelector('[data-role="scores"]').textContent;
      found.synthetic = !root.querySelector('[data-role="synthetic"]').hidden;
      const images = [...root.querySelector('[data-role="modality"]').options];
      found.images = images.map((one) => one.text);
      const slider = root.querySelector('input[data-plane="axial"]');
      slider.value = 0;
      slider.dispatchEvent(new Event("input"));
      found.edge = count(grey);
      delete root.dataset.ready;
      set("case", "1");
      await until(ready);
      found.other = slider.max;
      found.real = root.querySelector('[data-role="synthetic"]').hidden;
    """
    found, complaints = visit(page, script)
    assert complaints == []
    assert "failed" not in found
    assert found["grey"] > 2000
    assert found["outlined"] > 100
    assert found["bare"] == 0
    assert found["untinted"] > found["grey"]
    assert "reference WT TC ET, prediction WT TC ET" in found["readout"]
    assert found["scores"] == "Dice WT 0.813"
    assert found["synthetic"]
    assert found["images"] == ["T1", "T1ce", "FLAIR"]
    assert found["edge"] == 0
    assert found["other"] == str(packed(viewed("p2", shape=(30, 20, 16)))["shape"][2] - 1)
    assert found["real"]


def unpacked(text, shape):
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(
        shape, order="F"
    )


def tumour_box(volume):
    """What is left without the empty slices around."""
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        volume = np.compress(volume.any(axis=others), volume, axis=axis)
    return volume


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPL"])
def test_packed_volumes_lie_as_nibabel_turns_them(orientation):
    case = viewed(orientation=orientation)
    affine = inv_ornt_aff(axcodes2ornt(orientation), case.reference.shape[1:])
    bits = sum(mask.astype(np.uint8) << bit for bit, mask in enumerate(case.predictions["a"]))
    expected = np.asarray(nib.as_closest_canonical(nib.Nifti1Image(bits, affine)).dataobj)
    found = packed(case)
    shown = unpacked(found["predictions"][0]["bytes"], found["shape"])
    assert np.array_equal(np.unique(shown), [0, 1, 3, 7])
    assert np.array_equal(tumour_box(shown), tumour_box(expected))


def test_grey_is_black_outside_alone_and_a_large_patient_is_thinned():
    case = viewed()
    found = packed(case)
    grey = unpacked(found["images"][0]["bytes"], found["shape"])
    assert (grey > 0).sum() == (case.images["t1"] > 0).sum()
    assert found["note"] == ""
    large = np.ones((240, 240, 155), np.uint8)
    masks = np.zeros((1, 240, 240, 155), bool)
    found = packed(ViewedCase("p", "best", {"t1": large}, masks, {}, (1.0, 1.0, 1.0)))
    assert np.prod(found["shape"]) <= MOST_VOXELS
    assert found["shape"][0] * found["spacing"][0] == pytest.approx(240, abs=2)
    assert found["note"]


@pytest.mark.parametrize("systems", [1, 6])
def test_a_picture_holds_every_system_and_the_mark_of_phantoms(tmp_path, systems):
    def share(picture, colour):
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return int((np.abs(picture[..., :3] - wanted).max(axis=2) < 0.02).sum())

    masks = viewed().reference
    predictions = {f"s{number}": masks for number in range(systems)}
    found = {}
    for synthetic in (False, True):
        case = viewed(predictions=predictions, synthetic=synthetic)
        systems_png(case, tmp_path / "c.png")
        found[synthetic] = imread(tmp_path / "c.png")
    alone = viewed(predictions={})
    systems_png(alone, tmp_path / "alone.png")
    of_one = share(imread(tmp_path / "alone.png"), COLOURS["WT"])
    assert share(found[False], COLOURS["WT"]) > 0.8 * (systems + 1) * (of_one - 300)
    assert share(found[True], WARNING) > share(found[False], WARNING) + 50


def test_what_is_called_an_absolute_value_is_one():
    column = ScoreColumn.parse("volume_error_ml/WT")
    assert _cell({"volume_error_ml/WT": -9.39}, column) == '<td data-v="9.39">9.39</td>'
