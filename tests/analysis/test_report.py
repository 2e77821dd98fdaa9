import io
import json
import re
import warnings
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.curve import fit_curve, fit_curve_and_lines
from analysis.figures import fits
from analysis.figures.findings import Findings
from analysis.format import curve_table, family_table, outcome_table, schedule_table
from analysis.plots import FIGURES, all_figures, save_figures
from analysis.report import write_report
from trainables.record import Outcome

TEACHERS = ("cnn8", "cnn32")


class Reader(HTMLParser):
    """Collects the tables' cells, the ids, and whatever would be fetched."""

    def __init__(self):
        super().__init__()
        self.tables, self.ids, self.fetched, self.cell = [], [], [], None
        self.data, self.script = {}, None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        links = [attrs.get(name) for name in ("src", "href", "xlink:href", "data")]
        self.fetched += [link for link in links if link and not link.startswith("#")]
        if tag in ("iframe", "link", "img"):
            self.fetched.append(tag)
        if attrs.get("type") == "application/json":
            self.script = attrs["id"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data
        if self.script is not None:
            self.data[self.script.removeprefix("data-")] = json.loads(data)
            self.script = None

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell)
            self.cell = None


def plain(table):
    return [[column.title for column in table.columns], *map(list, table.rows)]


def test_the_report_says_what_ended_the_search_and_what_early_stopping_did(
    tmp_path, runs, curve, page
):
    assert "ended by" not in page
    assert "Early stopping:" not in page
    told = curve.copy()
    told.attrs = {**curve.attrs, "ended_by": "14 trials > 13", "early_stopping": "2 of 9 stopped"}
    text = write_report(tmp_path / "told.html", runs, told).read_text(encoding="utf-8")
    assert "(ended by: 14 trials &gt; 13)" in text
    assert "Early stopping: 2 of 9 stopped." in text


@pytest.fixture(scope="module")
def page(tmp_path_factory, runs, curve, compared):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # what other tests left to be collected
        assert write_report(path, runs, curve, compared, {"commit": "abc1234"}) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_its_tables_are_those_of_the_commands(read, runs, curve, compared):
    answers, laws, families, outcomes, provenance = read.tables
    assert answers == plain(curve_table(curve))
    assert laws == plain(schedule_table(compared))
    assert families == plain(family_table(compared))
    assert outcomes == plain(outcome_table(runs))
    assert ["commit", "abc1234"] in provenance


@pytest.mark.parametrize("format", ["json", "csv"])
def test_the_numbers_behind_its_figures_are_those_of_best(read, curve, format):
    """What `kdcurve best --format` writes, from the same curve."""
    if format == "json":
        best = pd.read_json(io.StringIO(curve.to_json(orient="records")), dtype={"context": str})
    else:
        best = pd.read_csv(io.StringIO(curve.to_csv(index=False)), dtype={"context": str})
    best = best.set_index(["method", "teacher", "fraction"])
    for name, value in {"kd_weight": "kd_weight", "accuracy": "score"}.items():
        drawn = pd.DataFrame(read.data[name]["data"], columns=read.data[name]["columns"])
        drawn = drawn[drawn["kind"] == "answer"] if name == "kd_weight" else drawn
        drawn = drawn[drawn["series"].isin(TEACHERS)].set_index(["panel", "series", "fraction"])
        drawn.index.names = best.index.names
        assert len(drawn) == len(best)
        for ours, theirs in {value: value, "low": f"{value}_low", "high": f"{value}_high"}.items():
            pd.testing.assert_series_equal(
                drawn[ours].sort_index(), best[theirs].sort_index(), check_names=False, atol=1e-9
            )


def test_the_first_words_answer_the_question(page, curve):
    text = re.search(r"<body>\s*<h1>(.*?)</h1>", page, re.DOTALL)[1]
    few, many = (curve[curve["fraction"] == f]["kd_weight"] for f in (0.1, 0.9))
    assert text == (
        f"Listen to the teacher with a KD weight of {few.min():.2f} to {few.max():.2f} with 10% of "
        f"the data, and of {many.min():.2f} to {many.max():.2f} with 90%"
    )
    assert "The less data is kept, the more the student should listen." in page


def test_it_says_what_a_gain_is(tmp_path, page, runs):
    assert "Gains are those of the fitted surface between the recommended KD weight and 0;" in page
    text = write_report(tmp_path / "r.html", runs, fit_curve(runs, "grid")).read_text("utf-8")
    assert "Gains are mean differences" in text


def test_it_fetches_nothing(page, read):
    assert read.fetched == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_ids_are_unique_and_references_hold(page, read):
    assert len(read.ids) == len(set(read.ids))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page))
    assert used <= set(read.ids)


def test_text_from_the_record_is_escaped(page):
    assert "out of memory &lt;b&gt;" in page
    assert "out of memory <b>" not in page


def test_it_can_be_written_without_a_schedule_and_with_contexts_unanswered(tmp_path, runs, curve):
    thin = curve.copy()
    numbers = [name for name in thin if name.startswith(("kd_weight", "score", "gain"))]
    thin.loc[3:, numbers] = np.nan
    thin.loc[3:, "reason"] = "needs more"
    text = write_report(tmp_path / "r.html", runs, thin).read_text(encoding="utf-8")
    assert "None: a schedule needs answers at two or more fractions" in text
    assert "3 of 16 contexts answered" in text


def test_figures_are_written_as_svg_and_png_and_are_reproducible(tmp_path, runs, curve, schedule):
    before = dict(mpl.rcParams)
    pictures = all_figures(runs, curve, schedule)
    paths = save_figures(tmp_path / "a", pictures)
    drawn = set(FIGURES) - {"learning_curves"}  # no histories were read
    assert {path.name for path in paths} == {f"{n}.{e}" for n in drawn for e in ("svg", "png")}
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    again = save_figures(tmp_path / "b", all_figures(runs, curve, schedule))
    for one, other in zip(paths, again, strict=True):
        if one.suffix == ".svg":
            assert one.read_text() == other.read_text()
    assert dict(mpl.rcParams) == before
    # An answer that has nothing to draw for a figure leaves none of an earlier answer.
    save_figures(tmp_path / "a", {"kd_weight": pictures["kd_weight"]})
    left = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert left == ["kd_weight.png", "kd_weight.svg"]


def test_a_context_without_complete_trials_is_a_panel_without_a_line(runs, curve):
    broken = runs.copy()
    context = curve["context"].iloc[0]
    broken.loc[broken["context"] == context, "outcome"] = Outcome.FAILED
    curve, lines = fit_curve_and_lines(broken)
    drawing = fits.draw(fits.tidy(Findings(broken, curve, lines)))
    texts = [text.get_text() for axes in drawing.figure.axes for text in axes.texts]
    assert texts == ["no answer"]
