"use strict";
// Sorts tables by a click on a column, filters rows by words, and compares two selected configurations.

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
}

function addFilter(holder, table) {
  const bar = document.createElement("div");
  const input = document.createElement("input");
  const count = document.createElement("span");
  bar.className = "bar";
  input.type = "search";
  input.placeholder = "filter rows by words";
  input.setAttribute("aria-label", "Filter " + holder.querySelector("h3").textContent);
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

for (const holder of document.querySelectorAll(".table")) {
  const table = holder.querySelector("table");
  if (!table) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) =>
    head.firstChild.addEventListener("click", () => sortBy(table, column)));
  if (table.tBodies[0].rows.length > 5) addFilter(holder, table);
}

// Shows the row of a link even if a filter hides it. The link of a configuration marks all of its runs.
function showTarget() {
  document.querySelectorAll("tr.marked").forEach((row) => row.classList.remove("marked"));
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const row = target && target.closest("tr");
  if (!row) return;
  row.closest(".table").showAll?.();
  if (target !== row) {
    const id = row.cells[1].textContent;
    for (const other of row.parentNode.rows) other.classList.toggle("marked", other.cells[1].textContent === id);
  }
  row.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", showTarget);
showTarget();

function setOptions(select, options, selected) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, value === selected, value === selected)));
}

function formatDifference(difference) {
  return (difference > 0 ? "▲ +" : difference < 0 ? "▼ " : "= ") + difference.toFixed(4);
}

for (const chooser of document.querySelectorAll(".chooser")) {
  const data = JSON.parse(chooser.querySelector("script").textContent);
  const [group, metric, left, right] = ["group", "metric", "left", "right"].map((n) => chooser.querySelector(`[name=${n}]`));
  const current = () => data.groups[Number(group.value)];
  const fill = () => {
    const configurations = current().configurations.map((c) => [c.id, `${c.id} ${c.label}`]);
    setOptions(left, configurations, current().left);
    setOptions(right, configurations, current().right);
  };
  const draw = () => {
    const [a, b] = [left, right].map((s) => current().configurations.find((c) => c.id === s.value));
    const head = chooser.querySelector("thead");
    const body = chooser.querySelector("tbody");
    head.innerHTML = '<tr><th>category</th><th class="n"></th><th class="n"></th><th class="n">difference</th></tr>';
    [a, b].forEach((c, i) => { head.rows[0].cells[i + 1].textContent = `${metric.value} ${c.id}`; });
    body.replaceChildren(...current().categories.map((category, i) => {
      const [x, y] = [a, b].map((c) => c.values[metric.value][i]);
      const row = document.createElement("tr");
      row.insertCell().textContent = category;
      for (const [c, v] of [[a, x], [b, y]]) {
        const link = document.createElement("a");
        link.href = c.href;
        link.textContent = v === null ? "–" : v.toFixed(4);
        const cell = row.insertCell();
        cell.className = "n";
        cell.append(link);
      }
      const difference = row.insertCell();
      difference.className = "n " + (x === null || y === null || x === y ? "" : y > x ? "good" : "bad");
      difference.textContent = x === null || y === null ? "–" : formatDifference(y - x);
      return row;
    }));
  };
  setOptions(group, data.groups.map((b, i) => [String(i), b.dataset]), "0");
  setOptions(metric, data.metrics.map((m) => [m, m]), data.metric);
  fill();
  draw();
  group.addEventListener("change", () => { fill(); draw(); });
  for (const select of [metric, left, right]) select.addEventListener("change", draw);
  chooser.hidden = false;
}
