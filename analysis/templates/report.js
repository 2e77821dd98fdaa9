// What a page can do that paper cannot: point at marks, switch series, sort and filter tables,
// pick a context. Without it the report is complete, but still.
"use strict";
(() => {
  document.documentElement.classList.add("js");
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");
  const REACH = 26; // CSS pixels within which a mark is found

  // Hover, or tap: the nearest mark says its numbers. `data-marks` holds [x, y, series, text].
  const pointable = (svg, marks, hidden) => {
    const ring = document.createElementNS(SVG, "circle");
    ring.setAttribute("class", "ring");
    const leave = () => { tip.hidden = true; ring.remove(); };
    const point = (event) => {
      const matrix = svg.getScreenCTM();
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
      let best = null, least = REACH / matrix.a;
      for (const mark of marks) {
        const distance = Math.hypot(mark[0] - at.x, mark[1] - at.y);
        if (distance < least && !hidden.has(mark[2])) [best, least] = [mark, distance];
      }
      if (!best) return leave();
      for (const [name, value] of [["cx", best[0]], ["cy", best[1]], ["r", 7 / matrix.a]]) ring.setAttribute(name, value);
      ring.style.strokeWidth = 1.5 / matrix.a;
      svg.append(ring);
      tip.textContent = best[3];
      tip.hidden = false;
      const [x, y] = [event.clientX + 14, event.clientY + 16];
      tip.style.left = Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 8)) + "px";
      tip.style.top = (y + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : y) + "px";
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", leave);
  };

  for (const svg of all("svg[data-marks]")) {
    const hidden = new Set();
    pointable(svg, JSON.parse(svg.dataset.marks), hidden);
    // An entry of a legend switches its series.
    for (const entry of all("[data-entry]", svg)) {
      const series = Number(entry.dataset.entry);
      const toggle = () => {
        const off = !hidden.delete(series);
        if (off) hidden.add(series);
        entry.setAttribute("aria-pressed", String(!off));
        for (const each of [entry, ...all(`[data-series="${series}"]`, svg)]) each.classList.toggle("off", off);
      };
      for (const [name, value] of [["role", "button"], ["tabindex", "0"], ["aria-pressed", "true"]]) entry.setAttribute(name, value);
      entry.addEventListener("click", toggle);
      entry.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
      });
    }
  }

  // Tables: a heading sorts, by number where cells begin with one; words filter.
  const key = (cell) => {
    const text = cell.textContent.replaceAll("−", "-");
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    all("thead th", table).forEach((heading, column) => {
      const sort = () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        all("thead th", table).forEach((each) => each.setAttribute("aria-sort", "none"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const order = (a, b) => {
          const [x, y] = [key(a.cells[column]), key(b.cells[column])];
          if (x === "–" || y === "–") return (x === "–") - (y === "–"); // missing ones stay last
          return (up ? 1 : -1) * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
        };
        body.append(...[...body.rows].sort(order));
      };
      heading.setAttribute("aria-sort", "none");
      heading.setAttribute("tabindex", "0");
      heading.addEventListener("click", sort);
      heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
    const filter = document.querySelector(`input[data-filters="${table.id}"]`);
    filter?.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/);
      for (const row of body.rows) {
        const text = [...row.cells].map((cell) => cell.textContent.toLowerCase());
        row.hidden = !words.every((word) => text.some((cell) => cell.includes(word)));
      }
    });
  }

  // One context: its row as a list, its panel of the figure of all fits enlarged.
  const picker = document.getElementById("context"), zoom = document.getElementById("zoom");
  if (picker) {
    const answers = document.getElementById("answers-table");
    const titles = all("thead th", answers).map((heading) => heading.textContent);
    const fits = document.querySelector("#figure-fits svg");
    if (fits) pointable(zoom, JSON.parse(fits.dataset.marks), new Set());
    const pick = (context) => {
      picker.value = context;
      for (const row of all("tr[data-context]", answers)) row.classList.toggle("picked", row.dataset.context === context);
      const row = answers.querySelector("tr.picked"), facts = document.getElementById("facts");
      facts.replaceChildren(...[...row.cells].flatMap((cell, i) => {
        const [term, value] = [document.createElement("dt"), document.createElement("dd")];
        [term.textContent, value.textContent] = [titles[i], cell.textContent];
        return [term, value];
      }));
      zoom.setAttribute("viewBox", picker.selectedOptions[0].dataset.box);
    };
    picker.addEventListener("change", () => pick(picker.value));
    for (const [id, step] of [["before", -1], ["after", 1]])
      document.getElementById(id).addEventListener("click", () => {
        const count = picker.options.length;
        pick(picker.options[(picker.selectedIndex + step + count) % count].value);
      });
    for (const row of all("tr[data-context]", answers)) row.addEventListener("click", () => pick(row.dataset.context));
    pick(picker.value);
  }

  // What a figure draws, as a file.
  for (const button of all("button[data-name]"))
    button.addEventListener("click", () => {
      const { columns, data } = JSON.parse(document.getElementById("data-" + button.dataset.name).textContent);
      const quoted = (value) => (value === null ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
      const text = [columns, ...data].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      link.download = button.dataset.name + ".csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
})();
