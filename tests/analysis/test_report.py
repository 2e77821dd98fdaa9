import re
import warnings
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest

from analysis.curve import fit_curve
from analysis.format import curve_table, family_table, outcome_table, schedule_table
from analysis.plots import plot_fits, save_figures
from analysis.report import write_report
from trainables.record import Outcome


class Reader(HTMLParser):
    """Collects the tables' cells, the ids, and whatever would be fetched."""

    def __init__(self):
        super().__init__()
        self.tables, self.ids, self.fetched, self.cell = [], [], [], None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        links = [attrs.get(name) for name in ("src", "href", "xlink:href", "data")]
        self.fetched += [link for link in links if link and not link.startswith("#")]
        if tag in ("script", "iframe", "link", "img"):
            self.fetched.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

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


def test_it_says_what_a_gain_is(tmp_path, page, runs):
    assert "Gains are those of the fitted surface between the recommended KD weight and 0;" in page
    text = write_report(tmp_path / "r.html", runs, fit_curve(runs, "grid")).read_text("utf-8")
    assert "Gains are mean differences" in text


def test_it_fetches_nothing(page, read):
    assert read.fetched == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


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
    paths = save_figures(tmp_path / "a", runs, curve, schedule)
    assert sorted(path.name for path in paths) == [
        "accuracy.png", "accuracy.svg", "fits.png", "fits.svg", "kd_weight.png", "kd_weight.svg",
    ]  # fmt: skip
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    again = save_figures(tmp_path / "b", runs, curve, schedule)
    assert paths[0].read_text() == again[0].read_text()
    assert dict(mpl.rcParams) == before


def test_a_context_without_complete_trials_is_a_panel_without_a_line(runs, curve):
    broken = runs.copy()
    context = curve["context"].iloc[0]
    broken.loc[broken["context"] == context, "outcome"] = Outcome.FAILED
    figure = plot_fits(broken, fit_curve(broken))
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no answer"]
