"""The report in a browser: headless Chromium, cut off from any network."""

import html
import json
import re
import shutil
import subprocess

import pytest

from analysis.figures.learning_curves import chosen
from analysis.histories import load_histories
from analysis.plots import all_figures
from analysis.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VISIT = """
<script>
window.addEventListener("load", () => {
  const $ = (what) => document.querySelector(what);
  const $$ = (what) => [...document.querySelectorAll(what)];
  const shown = (each) => getComputedStyle(each).display !== "none";
  const point = (svg, x, y) => {
    svg.scrollIntoView({ block: "center" });
    const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    svg.dispatchEvent(new PointerEvent("pointermove", { clientX: at.x, clientY: at.y }));
    const tip = $("#tip");
    return tip.hidden ? null : tip.textContent;
  };
  const found = { tips: {}, wide: document.documentElement.scrollWidth - innerWidth };
  for (const svg of $$("svg[data-marks]")) {
    const name = svg.closest("figure").id, marks = JSON.parse(svg.dataset.marks);
    if (svg.closest("details")) svg.closest("details").open = true;
    found.tips[name] = [point(svg, marks[0][0], marks[0][1]), marks.map((mark) => mark[3])];
  }
  // Switch the first teacher off and on again.
  const svg = $("#figure-kd_weight svg"), entry = svg.querySelector("[data-entry]");
  const series = [...svg.querySelectorAll(`[data-series="${entry.dataset.entry}"]`)];
  const number = Number(entry.dataset.entry);
  const [x, y, , text] = JSON.parse(svg.dataset.marks).find((mark) => mark[2] === number);
  const state = () => [
    series.filter((each) => each.classList.contains("off")).length / series.length,
    entry.getAttribute("aria-pressed"),
    point(svg, x, y) === text,
  ];
  entry.dispatchEvent(new MouseEvent("click"));
  found.off = state();
  entry.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
  found.on = state();
  // Sort by the best KD weight, then find one teacher at one fraction.
  const rows = () => $$("#answers-table tbody tr").filter(shown);
  const column = (i) => rows().map((row) => row.cells[i].textContent);
  $$("#answers-table th")[3].click();
  found.sorted = column(3);
  const filter = $("[data-filters=answers-table]");
  filter.value = "cnn32 10%";
  filter.dispatchEvent(new Event("input"));
  found.filtered = [column(1), column(2)];
  filter.value = "";
  filter.dispatchEvent(new Event("input"));
  // Pick a context by its row and go on to the next one.
  $$("#answers-table tbody tr")[4].click();
  const facts = () => [...$("#facts").querySelectorAll("dd")].map((each) => each.textContent);
  const cells = () => [...$("tr.picked").cells].map((each) => each.textContent);
  const box = $("#zoom").getAttribute("viewBox");
  found.picked = [facts(), cells(), $("#context").value === $("tr.picked").dataset.context];
  const used = $("#zoom use").getBoundingClientRect();
  found.zoom = [used.width > 0, $("#zoom").getBoundingClientRect().width > 100];
  $("#after").click();
  found.moved = $("#zoom").getAttribute("viewBox") !== box;
  $("button[data-name=kd_weight]").click();
  const result = document.createElement("pre");
  result.id = "found";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
</script>
"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory, runs, curve, schedule, uri):
    folder = tmp_path_factory.mktemp("page")
    histories = load_histories(chosen(runs), uri)
    pictures = all_figures(runs, curve, schedule, histories=histories)
    page = write_report(folder / "report.html", runs, curve, schedule, pictures=pictures)
    # The visitor comes with the page, as a script of the same origin.
    text = page.read_text(encoding="utf-8").replace("</body>", VISIT + "</body>")
    page.write_text(text, encoding="utf-8")
    return page


@pytest.fixture(scope="module", params=[(1280, "wide"), (500, "narrow")], ids=lambda p: p[1])
def visited(request, tmp_path_factory, page):
    """What was found on the page, and what the browser said."""
    profile = tmp_path_factory.mktemp("profile")
    browser = subprocess.run(
        [
            *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=5000"),
            # Nothing can be reached: names do not resolve, and the proxy is not there.
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"),
            *(f"--user-data-dir={profile}", f"--window-size={request.param[0]},900"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    result = re.search(r'<pre id="found">(.*?)</pre>', browser.stdout, re.DOTALL)
    assert result, browser.stderr[-3000:]
    return json.loads(html.unescape(result[1])), browser.stderr


def test_the_console_stays_empty(visited):
    _, said = visited
    assert [line for line in said.splitlines() if "CONSOLE" in line] == []


def test_every_figure_says_its_numbers_when_pointed_at(visited):
    found, _ = visited
    assert len(found["tips"]) == 10
    for name, (tip, marks) in found["tips"].items():
        assert tip in marks, name


def test_the_legend_switches_a_series_off_and_on(visited):
    found, _ = visited
    assert found["off"] == [1, "false", False]
    assert found["on"] == [0, "true", True]


def test_tables_sort_and_filter(visited):
    found, _ = visited
    weights = [float(text.split()[0]) for text in found["sorted"]]
    assert len(weights) == 16
    assert weights == sorted(weights)
    assert found["filtered"] == [["cnn32", "cnn32"], ["10%", "10%"]]


def test_a_context_can_be_picked(visited):
    found, _ = visited
    facts, cells, same = found["picked"]
    assert facts == cells
    assert same
    assert found["zoom"] == [True, True]
    assert found["moved"]


def test_the_page_is_never_wider_than_the_window(visited):
    found, _ = visited
    assert found["wide"] <= 0
