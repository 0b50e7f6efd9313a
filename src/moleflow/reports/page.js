"use strict";
// Sorts tables by a click on a column, filters rows by words, copies tables, and shows selected configurations.

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
}

function order(a, b) {
  const numbers = [a, b].map((v) => typeof v === "number");
  if (numbers[0] && numbers[1]) return a - b;
  if (numbers[0] !== numbers[1]) return numbers[0] ? 1 : -1; // texts and missing numbers sort below numbers
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => (down ? -1 : 1) * order(valueOf(a, column), valueOf(b, column)));
  table.tBodies[0].append(...rows);
  document.getElementById("status").textContent = "sorted by " + head.textContent + (down ? ", descending" : ", ascending");
}

function addFilter(holder, table) {
  const bar = document.createElement("div");
  const input = document.createElement("input");
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  bar.className = "bar";
  input.type = "search";
  input.placeholder = "filter rows by words";
  input.setAttribute("aria-label", "Filter " + holder.querySelector("h3, h4").textContent);
  const rows = [...table.tBodies[0].rows];
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? rows.length + " rows" : shown + " of " + rows.length + " rows";
  };
  input.addEventListener("input", show);
  holder.showAll = () => { input.value = ""; show(); };
  bar.append(input, count);
  holder.querySelector(".scroll").before(bar);
  show();
}

// Copies the visible rows of a table as CSV, Markdown or LaTeX.
const emphasis = {
  csv: (text) => (/^\s*[=+\-@]/.test(text) && Number.isNaN(Number(text)) ? "'" : "") + text,
  markdown: (text, tag) => {
    const escaped = text.replace(/([\\`*<>[\]|])/g, "\\$1");
    return tag === "STRONG" ? `**${escaped}**` : tag === "U" ? `<u>${escaped}</u>` : escaped;
  },
  latex: (text, tag) => {
    const names = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
      ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "–": "--", "▲": "$\\uparrow$", "▼": "$\\downarrow$" };
    const escaped = text.replace(/[\\~^<>|±–▲▼]|[&%$#_{}]/g, (c) => names[c] || "\\" + c);
    return tag === "STRONG" ? `\\textbf{${escaped}}` : tag === "U" ? `\\underline{${escaped}}` : escaped;
  },
};

function textOf(table, format) {
  const cellText = (cell) => {
    const marked = cell.querySelector("strong, u");
    return emphasis[format](cell.textContent.replace(/\s+/g, " ").trim(), marked && marked.tagName);
  };
  const rowsOf = (part) => (part ? [...part.rows] : []).filter((row) => !row.hidden).map((row) => [...row.cells].map(cellText));
  const head = rowsOf(table.tHead)[0];
  const [body, foot] = [rowsOf(table.tBodies[0]), rowsOf(table.tFoot)];
  if (format === "csv") {
    return [head, ...body, ...foot].map((row) => row.map((t) => (/[",]/.test(t) ? '"' + t.replaceAll('"', '""') + '"' : t)).join(",")).join("\n");
  }
  if (format === "markdown") {
    return [head, head.map(() => "---"), ...body, ...foot].map((row) => "| " + row.join(" | ") + " |").join("\n");
  }
  const line = (row) => row.join(" & ") + " \\\\";
  const columns = [...table.tHead.rows[0].cells].map((cell) => (cell.classList.contains("n") ? "r" : "l")).join("");
  return [`\\begin{tabular}{${columns}}`, "\\toprule", line(head), "\\midrule", ...body.map(line),
    ...(foot.length ? ["\\midrule", ...foot.map(line)] : []), "\\bottomrule", "\\end{tabular}"].join("\n");
}

function copyText(text, what) {
  const focused = document.activeElement;
  const area = document.createElement("textarea"); // a page opened as a file may not use the clipboard interface
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused.focus();
  document.getElementById("status").textContent = what + " copied";
}

function addCopies(bar, table) {
  for (const [format, name] of [["csv", "CSV"], ["markdown", "Markdown"], ["latex", "LaTeX"]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "copy " + name;
    button.setAttribute("aria-describedby", table.getAttribute("aria-labelledby"));
    button.addEventListener("click", () => {
      copyText(textOf(table, format), name);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy " + name; }, 1500);
    });
    bar.append(button);
  }
}

for (const holder of document.querySelectorAll(".table")) {
  const table = holder.querySelector("table");
  if (!table) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) =>
    head.firstChild.addEventListener("click", () => sortBy(table, column)));
  if (table.tBodies[0].rows.length > 5) addFilter(holder, table);
  if (holder.id.startsWith("table-benchmark") || holder.id.startsWith("table-leaderboard")) {
    if (!holder.querySelector(".bar")) {
      const bar = document.createElement("div");
      bar.className = "bar";
      holder.querySelector(".scroll").before(bar);
    }
    addCopies(holder.querySelector(".bar"), table);
  }
}

// Links of a row to the same place are one stop of the tab key.
for (const row of document.querySelectorAll("tr")) {
  const targets = new Set();
  for (const link of row.querySelectorAll("a[href]")) {
    if (targets.has(link.href)) link.tabIndex = -1;
    targets.add(link.href);
  }
}

// Shows the row of a link even if a filter hides it. The link of a configuration marks all of its runs.
function showTarget() {
  document.querySelectorAll("tr.marked").forEach((row) => row.classList.remove("marked"));
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const row = target && target.closest("tr");
  if (!row) return;
  const section = row.closest("section");
  section.style.contentVisibility = "visible"; // else its height is an estimate and the row is not at its place
  row.closest(".table").showAll?.();
  if (target !== row) {
    const id = row.cells[1].textContent;
    for (const other of row.parentNode.rows) other.classList.toggle("marked", other.cells[1].textContent === id);
  }
  row.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", showTarget);
showTarget();

// Lays out the other sections once the page is open: a section that was never drawn is not in the accessibility tree.
function drawNext([section, ...others]) {
  if (!section) return;
  section.style.contentVisibility = "visible";
  setTimeout(drawNext, 0, others);
}
addEventListener("load", () => setTimeout(drawNext, 100, [...document.querySelectorAll("section")]));

function setOptions(select, options, selected) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, value === selected, value === selected)));
}

function formatDifference(difference) {
  return (difference > 0 ? "▲ +" : difference < 0 ? "▼ " : "= ") + difference.toFixed(4);
}

const results = JSON.parse((document.getElementById("results") || { textContent: "null" }).textContent);

function cell(tag, text, className, href) {
  const element = document.createElement(tag);
  let inner = element;
  if (href) {
    inner = document.createElement("a");
    inner.href = href;
    element.append(inner);
  }
  inner.textContent = text;
  if (className) element.className = className;
  return element;
}

function header(scope, text, className) {
  const element = cell("th", text, className);
  element.scope = scope;
  return element;
}

function rowOf(...cells) {
  const row = document.createElement("tr");
  row.append(...cells);
  return row;
}

function fillSelects(widget) {
  const selects = Object.fromEntries([...widget.querySelectorAll("select")].map((s) => [s.name, s]));
  setOptions(selects.group, results.groups.map((g, i) => [String(i), g.dataset]), "0");
  selects.current = () => results.groups[Number(selects.group.value)];
  selects.fill = () => {
    const group = selects.current();
    setOptions(selects.metric, group.metrics.map((m) => [m, m]), results.metric);
    const configurations = group.configurations.map((c) => [c.id, `${c.label} (${c.id})`]);
    for (const side of ["left", "right"]) if (selects[side]) setOptions(selects[side], configurations, group[side]);
  };
  return selects;
}

function runWidget(widget, selects, draw) {
  selects.fill();
  draw();
  for (const select of widget.querySelectorAll("select")) {
    select.addEventListener("change", () => { if (select === selects.group) selects.fill();
      draw(); });
  }
  widget.hidden = false;
}

function comparison(widget) {
  const selects = fillSelects(widget);
  const table = widget.querySelector("table");
  runWidget(widget, selects, () => {
    const group = selects.current();
    const [a, b] = [selects.left, selects.right].map((s) => group.configurations.find((c) => c.id === s.value));
    const heads = [a, b].map((c) => header("col", `${selects.metric.value} ${c.id}`, "n"));
    table.tHead.replaceChildren(rowOf(header("col", "category"), ...heads, header("col", "difference", "n")));
    const rows = [...group.categories, "mean"].map((category, i) => {
      const [x, y] = [a, b].map((c) => c.values[selects.metric.value][0][i] ?? null);
      const values = [[a, x], [b, y]].map(([c, v]) => cell("td", v === null ? "–" : v.toFixed(4), "n", c.href));
      const known = x !== null && y !== null;
      const better = results.lower.includes(selects.metric.value) ? y < x : y > x;
      const tone = !known || x === y ? "" : better ? "good" : "bad";
      return rowOf(header("row", category), ...values, cell("td", known ? formatDifference(y - x) : "–", "n " + tone));
    });
    table.tFoot.replaceChildren(rows.pop());
    table.tBodies[0].replaceChildren(...rows);
  });
}

function benchmark(widget) {
  const selects = fillSelects(widget);
  const table = widget.querySelector("table");
  const bar = document.createElement("div");
  bar.className = "bar";
  addCopies(bar, table);
  widget.querySelector(".scroll").before(bar);
  runWidget(widget, selects, () => {
    const group = selects.current();
    const chosen = group[selects.shown.value];
    const shown = chosen ? group.configurations.filter((c) => chosen.includes(c.id)) : group.configurations;
    const lower = results.lower.includes(selects.metric.value);
    table.tHead.replaceChildren(rowOf(header("col", "category"), ...shown.map((c) => header("col", `${c.label} (${c.id})`, "n"))));
    const rows = [...group.categories, "mean"].map((category, i) => {
      const values = shown.map((c) => c.values[selects.metric.value][Number(selects.mode.value)][i] ?? null);
      const texts = values.map((v) => (v === null ? "–" : (100 * v).toFixed(2)));
      const ranked = [...new Set(texts.filter((t) => t !== "–").map(Number))].sort((x, y) => (lower ? x - y : y - x));
      return rowOf(header("row", category), ...texts.map((text, j) => {
        const rank = ranked.length > 1 && text !== "–" ? ranked.indexOf(Number(text)) : -1;
        const element = cell("td", text, "n", shown[j].href);
        if (rank === 0 || rank === 1) {
          const mark = document.createElement(rank ? "u" : "strong");
          mark.append(...element.childNodes);
          element.append(mark);
        }
        return element;
      }));
    });
    table.tFoot.replaceChildren(rows.pop());
    table.tBodies[0].replaceChildren(...rows);
  });
}

for (const widget of results ? document.querySelectorAll("[data-widget]") : []) {
  (widget.dataset.widget === "benchmark" ? benchmark : comparison)(widget);
}
