"""Tables of systems: which cell is marked, and every format to the letter."""

import csv
import io

import pytest
from rich.console import Console

from evaluation.statistics.columns import score_columns
from evaluation.statistics.comparison import compare
from evaluation.tables.formats import latex, to_csv, to_latex, to_markdown, to_terminal
from evaluation.tables.intervals import statistics_tables
from evaluation.tables.provenance import Provenance
from evaluation.tables.published import PUBLISHED, citations
from evaluation.tables.systems import BenchmarkTable, Cell, Column, benchmark_table, printed

SMALL = BenchmarkTable(
    title="Dice & 50 %",
    columns=[
        Column("parameters/all", "all", "parameters", None),
        Column("dice/WT", "Dice ↑", "WT", 3),
        Column("hd95/WT", "HD95 (mm) ↓", "WT", 2),
    ],
    rows=[
        ("fusion", [Cell(35_880_000), Cell(0.9, spread=0.05, best=True), Cell(4.5, tied=True)]),
        ("late_fusion", [Cell(), Cell(0.81234), Cell(float("nan"))]),
    ],
    footnotes=["10 patients_x", "†: tied"],
)

MARKDOWN = """\
**Dice & 50 %**

| System | parameters: all | WT: Dice ↑ | WT: HD95 (mm) ↓ |
| :-- | --: | --: | --: |
| fusion | 35,880,000 | **0.900 ± 0.050** | 4.50† |
| late\\_fusion | – | 0.812 | n/a |

- 10 patients\\_x
- †: tied
"""  # noqa: RUF001

LATEX = r"""\begin{table}
\centering
\caption{Dice \& 50 \%}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{lrrr}
\toprule
 & \multicolumn{1}{c}{parameters} & \multicolumn{2}{c}{WT} \\
\cmidrule(lr){2-2} \cmidrule(lr){3-4}
System & all & Dice $\uparrow$ & HD95 (mm) $\downarrow$ \\
\midrule
fusion & 35,880,000 & \textbf{\boldmath 0.900 $\pm$ 0.050} & 4.50$^\dagger$ \\
late\_fusion & -- & 0.812 & n/a \\
\bottomrule
\end{tabular}}
\par\smallskip\parbox{\linewidth}{\footnotesize
10 patients\_x \\
$^\dagger$: tied}
\end{table}
"""

CSV = """\
system,parameters/all,dice/WT,hd95/WT,notes
fusion,35880000,0.9,4.5,10 patients_x; †: tied
late_fusion,,0.81234,nan,10 patients_x; †: tied
"""


def render(table, width=100):
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(to_terminal(table, width))
    return buffer.getvalue()


def systems(**shifts):
    """Twelve patients; a system is their scores moved by a shift, and a little of its own."""
    return {
        name: [
            {
                "case_id": f"p{case:02d}",
                "dice/WT": 0.6 + 0.02 * case + shift + 0.001 * ((case * 7) % 5 - 2),
                "dice/ET": 0.5 + 0.01 * case + shift,
                "hd95/WT": 20 - case - 30 * shift,
            }
            for case in range(12)
        ]
        for name, shift in shifts.items()
    }


def made(scored, **arguments):
    columns = score_columns(next(iter(scored.values()))[0])
    return benchmark_table(scored, columns, **arguments)


def cells(table, key):
    place = [column.key for column in table.columns].index(key)
    return {name: row[place] for name, row in table.rows}


def test_formats_to_the_letter():
    assert to_markdown(SMALL) == MARKDOWN
    assert to_latex(SMALL) == LATEX
    assert to_csv(SMALL) == CSV


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (r"a_b & 5% of $x# {y} ~z ^w \n", None),
        ("<0.0001", r"$<$0.0001"),
        ("p ≥ 0.05 ± 1", r"p $\geq$ 0.05 $\pm$ 1"),
        ("*: differs", r"$^*$: differs"),
    ],
)
def test_latex_reads_no_text_as_a_command(text, escaped):
    found = latex(text)
    if escaped is not None:
        assert found == escaped
    for special, written in (
        ("\\", r"\textbackslash{}"),
        ("{", r"\{"),
        ("~", r"\textasciitilde{}"),
        ("^", r"\textasciicircum{}"),
        ("_", r"\_"),
        ("%", r"\%"),
        ("#", r"\#"),
        ("&", r"\&"),
    ):
        assert (special in text) == (written in found)


def test_the_best_follows_the_direction_of_each_measure():
    table = made(systems(low=0.0, high=0.05))
    assert [cell.best for cell in cells(table, "dice/WT").values()] == [False, True]
    assert [cell.best for cell in cells(table, "hd95/WT").values()] == [False, True]
    assert not any(cell.tied for cell in cells(table, "dice/WT").values())


def test_what_prints_alike_is_best_alike_and_chance_is_marked():
    scored = systems(a=0.0, b=0.0, c=0.0001)
    table = made(scored)
    assert all(cell.best for cell in cells(table, "dice/WT").values())
    nearly = systems(a=0.0, b=0.0)
    nearly["b"][0]["dice/WT"] += 0.012
    found = cells(made(nearly), "dice/WT")
    assert (found["a"].best, found["a"].tied, found["b"].best) == (False, True, True)


def test_a_mean_that_one_patient_made_does_not_put_the_other_system_behind():
    scored = systems(a=0.0, b=-0.001)
    scored["b"][0]["dice/WT"] += 0.3
    table = benchmark_table(scored, score_columns(["dice/WT"]))
    (against,) = compare(scored, score_columns(["dice/WT"]), "b")
    assert against.significant
    assert against.effect > 0
    assert cells(table, "dice/WT")["b"].best
    assert cells(table, "dice/WT")["a"].tied


def test_footnotes_say_where_numbers_come_from():
    provenance = Provenance(
        cohort="phantom, 7f3a",
        split="70/10/20, seed 0",
        seeds=[0, 1],
        versions={"torch": "2.13.0"},
        empty_rule="rule brats",
        selected=True,
        remarks=["an odd remark"],
    )
    notes = "\n".join(made(systems(a=0.0, b=0.1), provenance=provenance).footnotes)
    for words in (
        "data: phantom, 7f3a, 12 patients; split: 70/10/20, seed 0; training seeds 0, 1",
        "selected on these patients",
        "rule brats",
        "torch 2.13.0",
        "an odd remark",
        "Wilcoxon",
        "Holm",
    ):
        assert words in notes
    assert "selected on" not in "\n".join(made(systems(a=0.0, b=0.1)).footnotes)


def test_published_numbers_stand_apart_and_are_never_ranked():
    table = made(
        systems(ours=0.0, other=0.1),
        experiments={"ours": "fusion"},
        parameters={"ours": {"all": 5, "trained": 3}},
    )
    found = cells(table, "published/dice/WT")
    assert found["ours"].value == 0.90267
    assert found["other"].value is None
    assert not any(cell.best for cell in found.values())
    assert cells(table, "parameters/trained")["ours"].value == 3
    groups = {column.group for column in table.columns}
    assert groups == {"parameters", "WT", "ET", "published, other data"}
    assert "published/hd95/WT" not in [column.key for column in table.columns]
    assert any("published, other data: Vo-Thanh" in note for note in table.footnotes)


def test_published_parameters_and_slices_of_the_adapter_paper():
    scored = {"sam_adapter": [{"case_id": "a", "slices/dice/WT": 0.5, "slices/hd95/WT": 9.0}]}
    table = made(scored, experiments={"sam_adapter": "sam_adapter"}, parameters={})
    values = {
        key: cells(table, f"published/{key}")["sam_adapter"].value
        for key in ("slices/dice/WT", "slices/hd95/WT", "parameters/all", "parameters/trained")
    }
    assert list(values.values()) == [0.8838, 10.64, 98_000_000, 10_800_000]


def test_published_entries_cite_their_paper():
    assert PUBLISHED["dynunet"].table == 1
    assert PUBLISHED["akbar2022"].table == 3
    assert len(PUBLISHED) == 16
    for entry in PUBLISHED.values():
        assert "et al." in entry.citation
        shares = [value for key, value in entry.scores.items() if "dice" in key]
        assert all(0.6 < share < 0.95 for share in shares)
    both = citations(["dynunet", "segresnet", "unheard_of"])
    assert len(both) == 1
    assert both[0].endswith("dynunet, segresnet")


def test_csv_keeps_every_digit_and_what_a_mean_is_made_of():
    table = made(systems(a=0.0, b=1 / 3))
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    exact = cells(table, "dice/ET")["b"].summary
    assert float(lines[1]["dice/ET/mean"]) == exact.mean
    assert float(lines[1]["dice/ET/low"]) == exact.low
    assert lines[1]["dice/ET/n"] == "12"
    assert (lines[1]["dice/ET/best"], lines[0]["dice/ET/best"]) == ("1", "0")


def test_missing_scores_are_counted_below_the_table():
    scored = systems(a=0.0, b=0.1)
    scored["b"][0]["dice/ET"] = float("nan")
    scored["b"][1].pop("dice/ET")
    notes = made(scored).footnotes
    assert any("dice/ET: patients without a score, left out: b 2; bold" in note for note in notes)
    alone = made({"b": scored["b"]})
    assert "dice/ET: patients without a score, left out: b 2" in alone.footnotes
    assert not cells(alone, "dice/WT")["b"].best


def test_a_system_without_scores_for_the_hard_patients_does_not_win_by_that():
    scored = systems(a=0.02, b=0.0, none=0.0)
    for case in range(6):  # the six hardest
        scored["b"][case]["dice/WT"] = float("nan")
    for row in scored["none"]:
        row["dice/WT"] = float("nan")
    found = cells(benchmark_table(scored, score_columns(["dice/WT"])), "dice/WT")
    assert found["b"].value > found["a"].value
    assert [cell.best for cell in found.values()] == [True, False, False]


def test_what_empty_slices_score_is_said_of_slices():
    provenance = Provenance(empty_rule="HD95 373.13 mm", slice_rule="HD95 the slice's diagonal")
    columns = score_columns(["slices/hd95/WT", "hd95/WT"])
    slices, volumes = ([c for c in columns if c.slices is kind] for kind in (True, False))
    both = ["slices HD95 the slice's diagonal", "volumes HD95 373.13 mm"]
    assert provenance.empty_rules(slices) == both[:1]
    assert provenance.empty_rules(volumes) == both[1:]
    assert provenance.empty_rules(columns) == provenance.empty_rules() == both
    assert Provenance(empty_rule="HD95 373.13 mm").empty_rules() == ["HD95 373.13 mm"]
    scored = {name: [{"case_id": "p", "slices/hd95/WT": 3.0}] for name in "ab"}
    for table in (
        benchmark_table(scored, slices, provenance=provenance),
        *statistics_tables(scored, slices, "a", provenance=provenance),
    ):
        assert "empty regions: slices HD95 the slice's diagonal" in table.footnotes


def test_every_table_says_with_what_its_tests_were_corrected():
    # the smallest p of 8 pairs is 2 / 2^8: enough for 4 systems against one, not for 4 x 2 regions
    scored = systems(a=0.0, b=0.1, c=0.2, d=0.3, e=0.4)
    scored = {name: found[:8] for name, found in scored.items()}
    tables = [made(scored), *statistics_tables(scored, score_columns(scored["a"][0]), "a")]
    main, dice, far = ("\n".join(table.footnotes) for table in tables)
    for notes in (main, dice, far):
        assert "Holm over all systems and regions of one metric in this table" in notes
    for notes in (main, dice):
        assert "8 patients and 8 tests corrected together no difference can be" in notes
        assert "p is 0.0078, after Holm 0.062" in notes
    assert "no difference" not in far
    assert not any(cell.value < 0.05 for cell in cells(tables[1], "p_holm").values() if cell.value)


def test_statistics_tables_hold_one_family_each():
    scored = systems(a=0.0, b=0.1)
    dice, far = statistics_tables(scored, score_columns(scored["a"][0]), "a")
    assert (dice.key, far.key) == ("dice", "hd95")
    assert [name for name, _ in dice.rows] == ["a", "b", "a", "b"]
    keys = [column.key for column in dice.columns]
    row = dict(zip(keys, dice.rows[1][1], strict=True))
    assert row["difference"].value == pytest.approx(0.1)
    assert row["effect"].value == 1.0
    assert row["p"].value == pytest.approx(2 / 2**12)
    assert row["p_holm"].value == pytest.approx(4 / 2**12)
    assert all(cell.value is None for cell in dice.rows[0][1][keys.index("difference") :])


def test_one_patient_is_a_table_without_intervals():
    scored = {name: found[:1] for name, found in systems(a=0.0, b=0.1).items()}
    columns = score_columns(scored["a"][0])
    text = to_markdown(statistics_tables(scored, columns, "a")[0])
    assert "| b | WT | 1 | 0.698 | 0.698 | 0.100 | 1.00 | 1.0000 | 1.0000 |" in text
    assert "no difference can be significant" in text
    assert "±" not in to_markdown(made(scored)).partition("- data")[0]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_terminal_breaks_between_columns_never_within_a_number(width):
    table = made(systems(early_fusion=0.0, fusion=0.1), experiments={"fusion": "fusion"})
    text = render(table, width)
    assert max(map(len, text.splitlines())) <= width
    for column in ("dice/WT", "hd95/WT", "dice/ET"):
        assert f"{cells(table, column)['fusion'].value:.2f}"[:4] in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (-0.0004, 3, "0.000"),
        (0.8125, 3, "0.812"),
        (97_398_751, None, "97,398,751"),
        (float("nan"), 2, "n/a"),
        (float("inf"), 2, "inf"),
    ],
)
def test_printed_numbers(value, decimals, text):
    assert printed(value, decimals) == text
