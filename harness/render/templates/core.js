// The page's data and small helpers. Everything that a string goes into is made by textContent.
const $ = (id) => document.getElementById(id);
const isNumber = (value) => typeof value === "number";
let data = null;
let columns = null;
let text = null;

async function load() {
  const bytes = Uint8Array.from(atob($("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  data = JSON.parse(await new Response(stream).text());
  columns = data.columns;
  text = data.texts;
}

// A row is its number; a value of it is looked up in its column.
const get = (row, name) => (name in text ? text[name][columns[name][row]] : columns[name][row]);
const code = (row, name) => columns[name][row];
const has = (name) => name in columns;
const verdictOf = (row) => data.verdicts[columns.verdict[row]];
const allRows = () => Array.from({ length: data.rows }, (_, row) => row);

function show(value) {
  if (value === null || value === undefined) return "-";
  if (!isNumber(value)) return value;
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  return size >= 1e-2 && size < 999.5 ? value.toPrecision(3) : value.toExponential(2);
}
// A number of a tap: a missing tap says so instead of looking like a small error.
const cell = (row, name) => (verdictOf(row) === "missing" ? "missing" : show(get(row, name)));
const limitOf = (row, name) => (has(name + "_limit") ? get(row, name + "_limit") : null);
// A figure beside its limit: "3.20 of 4".
function figure(row, name) {
  const limit = limitOf(row, name), said = cell(row, name);
  return limit === null || verdictOf(row) === "missing" || said === "-" ? said : `${said} of ${show(limit)}`;
}
function used(row) {
  const value = get(row, "limit_used");
  if (!isNumber(value)) return show(value);
  return value < 1e4 ? Math.round(value * 100) + " %" : (value * 100).toExponential(1) + " %";
}
// How large the reference's values get at a tap; empty in runs of older versions.
function rangeOf(row) {
  if (!has("value_min") || get(row, "value_min") === null) return "";
  const share = (name, what) => (get(row, name) ? `, ${(100 * get(row, name)).toPrecision(2)} % ${what}` : "");
  return `values ${show(get(row, "value_min"))} to ${show(get(row, "value_max"))}${share("overflow_share", "beyond float16")}${share("subnormal_share", "subnormal in float16")}`;
}
const isEmpty = (name) => !has(name) || columns[name].every((value) => value === null);

function element(tag, attributes, content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (content !== undefined) made.textContent = content;
  return made;
}
const short = (name, most) => (name.length > most ? name.slice(0, most - 3) + "..." : name);
function fill(select, names, chosen, values) {
  const keep = [...select.options].filter((option) => option.value === "");
  select.replaceChildren(...keep);
  names.forEach((name, i) => select.append(element("option", { value: values ? values[i] : i }, short(name, 60))));
  if (chosen !== undefined && chosen !== null) select.value = String(chosen);
}
