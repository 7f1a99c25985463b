// The tap table: filtered, sorted, searched, a page at a time.
const PAGE = 30;
const ALL_COLUMNS = [
  ["tap", "tap"], ["verdict", "verdict"], ["limit_used", "limit used"], ["excess", "excess"], ["position_excess", "worst position"], ["input", "input"], ["hop", "hop"],
  ["local_excess", "local"], ["total_excess", "total"], ["rel_l2", "rel. L2"],
  ["noise_floor", "noise floor"], ["max_abs_err", "max abs err"], ["snr_db", "SNR dB"], ["magnitude", "largest"], ["nan_count", "NaN"], ["inf_count", "Inf"],
];
const WORDS = new Set(["tap", "input", "hop", "verdict"]);
const table = { columns: [], sorted: { name: "tap", down: false }, page: 0, found: [], filters: {}, haystacks: [] };

function matches(row, words) {
  for (const name of ["hop", "input", "verdict"]) {
    if (table.filters[name].value !== "" && code(row, name) !== Number(table.filters[name].value)) return false;
  }
  if (!words.length) return true;
  const where = `${table.haystacks[code(row, "tap")]} ${get(row, "rule")} ${get(row, "why")}`.toLowerCase();
  return words.every((word) => where.includes(word));
}
// NaN and Inf are worse than any number, a missing value better than none.
function rank(row, name) {
  if (WORDS.has(name)) return code(row, name);
  const value = get(row, name);
  if (verdictOf(row) === "missing" || value === null) return -Infinity;
  return isNumber(value) ? value : value === "-inf" ? -Infinity : Infinity;
}
function refresh() {
  const words = table.filters.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  table.found = allRows().filter((row) => matches(row, words));
  const { name, down } = table.sorted, sign = down ? -1 : 1;
  table.found.sort((a, b) => {
    const x = rank(a, name), y = rank(b, name);
    return x === y ? code(a, "tap") - code(b, "tap") : x < y ? -sign : sign;
  });
  table.page = 0;
  drawTable();
}
function drawTable() {
  const head = $("tap-table").tHead, body = $("tap-table").tBodies[0], { found, page, sorted } = table;
  const pages = Math.max(1, Math.ceil(found.length / PAGE)), heading = element("tr");
  const focused = head.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  for (const [name, title] of table.columns) {
    const mine = sorted.name === name;
    const th = element("th", { class: WORDS.has(name) ? "" : "n", scope: "col", "aria-sort": mine ? (sorted.down ? "descending" : "ascending") : "none" });
    const button = element("button", { type: "button", class: "sort", "data-name": name }, title + (mine ? (sorted.down ? " \u2193" : " \u2191") : ""));
    button.addEventListener("click", () => {
      table.sorted = { name, down: mine ? !sorted.down : !WORDS.has(name) };
      refresh();
    });
    th.append(button);
    heading.append(th);
  }
  head.replaceChildren(heading);
  if (focused) head.querySelector(`button[data-name="${focused}"]`).focus();
  body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(tableRow));
  $("count").textContent = `${found.length} of ${data.rows} rows, page ${page + 1} of ${pages}`;
  $("previous").disabled = page === 0;
  $("next").disabled = page >= pages - 1;
}
function tableRow(row) {
  const tr = element("tr"), verdict = verdictOf(row);
  for (const [name] of table.columns) {
    const td = element("td", { class: WORDS.has(name) ? "" : "n" });
    if (name === "verdict") td.append(element("span", { class: "verdict " + verdict }, verdict === "fail" ? "FAIL" : verdict));
    else if (name === "tap") {
      const button = element("button", { type: "button", class: "sort", "aria-expanded": "false" });
      button.append(element("code", {}, get(row, name)));
      td.append(button);
    }
    else td.textContent = shownIn(row, name);
    tr.append(td);
  }
  tr.addEventListener("click", () => toggleDetail(tr, row));
  return tr;
}
function shownIn(row, name) {
  if (WORDS.has(name)) return short(get(row, name), 40);
  if (verdictOf(row) === "missing") return name === "limit_used" ? "missing" : "-";
  if (name === "limit_used") return used(row);
  if (name === "position_excess") return `${figure(row, name)} @${columns.worst_position[row]}`;
  return figure(row, name);
}
function toggleDetail(tr, row) {
  const next = tr.nextElementSibling, open = next && next.classList.contains("detail");
  tr.querySelector("button").setAttribute("aria-expanded", String(!open));
  if (open) { next.remove(); return; }
  const list = element("dl"), names = data.modules[code(row, "tap")];
  const facts = [
    ["why", get(row, "why")], ["judged by", get(row, "rule")], ["hop", get(row, "hop")], ["input", get(row, "input")],
    ...data.versions.map((version, i) => [version, names[i]]), ["shape", `${get(row, "shape")} ${get(row, "dtype")}`],
    ["read by", get(row, "how")], ["reference", rangeOf(row)], ["mean abs err", cell(row, "mean_abs_err")], ["cosine", verdictOf(row) === "missing" ? "missing" : String(get(row, "cosine") ?? "-")],
  ];
  for (const [name, fact] of facts) if (fact.trim()) list.append(element("dt", {}, name), element("dd", {}, fact));
  const detail = element("tr", { class: "detail" }), td = element("td", { colspan: table.columns.length });
  td.append(list, ...histogramOf(row));
  detail.append(td);
  tr.after(detail);
}
// Leads to the row of a tap, alone in the table and open.
function showRow(row) {
  table.filters.hop.value = String(code(row, "hop"));
  table.filters.input.value = String(code(row, "input"));
  table.filters.verdict.value = "";
  table.filters.text.value = get(row, "tap");
  refresh();
  const at = table.found.indexOf(row);
  table.page = Math.floor(at / PAGE);
  drawTable();
  const tr = $("tap-table").tBodies[0].rows[at % PAGE];
  toggleDetail(tr, row);
  tr.scrollIntoView({ block: "center" });
  tr.querySelector("button").focus({ preventScroll: true });
}
function csv() {
  const names = ["model", "input", "hop", "tap", ...Object.keys(columns).filter((name) => !["input", "hop", "tap"].includes(name))];
  // A text that a spreadsheet would run as a formula gets an apostrophe.
  const quoted = (value) => {
    const said = value === null || value === undefined ? "" : isNumber(value) ? String(value) : String(value).replace(/^[=+\-@\t\r](?!inf$)/, "'$&");
    return /[",\n\r]/.test(said) ? `"${said.replaceAll('"', '""')}"` : said;
  };
  const value = (row, name) => (name === "model" ? document.querySelector("h1").textContent : name === "verdict" ? verdictOf(row) : get(row, name));
  return [names, ...table.found.map((row) => names.map((name) => value(row, name)))].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
}
async function copyCsv() {
  const copied = csv(), rows = table.found.length;
  try {
    await navigator.clipboard.writeText(copied);
  } catch {
    const area = element("textarea", { class: "offstage", "aria-hidden": "true" });
    area.value = copied;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  $("count").textContent = `${rows} rows copied`;
}
function startTable() {
  const counts = new Set(["nan_count", "inf_count"]);
  const shown = (name) => name in text || name === "verdict" || (counts.has(name) ? columns[name].some((count) => count > 0) : !isEmpty(name));
  table.columns = ALL_COLUMNS.filter(([name]) => shown(name));
  table.haystacks = text.tap.map((tap, i) => [tap, ...data.modules[i]].join(" ").toLowerCase());
  table.filters = { hop: $("f-hop"), input: $("f-input"), verdict: $("f-verdict"), text: $("f-text") };
  const fault = data.fault;
  fill(table.filters.hop, text.hop, fault ? fault.hop : null);
  fill(table.filters.input, text.input, fault ? fault.input : null);
  fill(table.filters.verdict, data.verdicts, fault ? data.verdicts.indexOf("fail") : null);
  if (!fault) table.sorted = { name: "limit_used", down: true };
  for (const control of Object.values(table.filters)) control.addEventListener("input", refresh);
  $("previous").addEventListener("click", () => { table.page -= 1; drawTable(); });
  $("next").addEventListener("click", () => { table.page += 1; drawTable(); });
  $("copy").addEventListener("click", copyCsv);
  refresh();
}
