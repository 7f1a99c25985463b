// Error against depth: a chart per hop, a point per tap in execution order, blocks marked.
const FLOAT16_LARGEST = 65504;
const depth = { zooming: false };

function seriesOf(hop, input) {
  const found = new Array(text.tap.length).fill(null);
  for (let row = 0; row < data.rows; row++) {
    if (columns.hop[row] === hop && columns.input[row] === input) found[columns.tap[row]] = row;
  }
  return found;
}
const valuesOf = (rows, name) => rows.map((row) => (row === null || !has(name) || verdictOf(row) === "missing" ? null : get(row, name)));
const only = (rows, values, verdict) => values.map((value, i) => (isNumber(value) && verdictOf(rows[i]) === verdict ? value : null));

function depthSpec(rows, metric, decades) {
  const values = valuesOf(rows, metric), limits = metric === "magnitude" ? rows.map(() => FLOAT16_LARGEST) : valuesOf(rows, metric + "_limit"), xs = rows.map((_, i) => i);
  // Up to the noise floor an error is what float32 itself costs: 1 on the scale of an excess.
  const floor = metric === "rel_l2" ? valuesOf(rows, "noise_floor") : xs.map(() => 1);
  const series = metric === "magnitude" ? [] : [{ values: floor, kind: "band", colour: "band" }];
  if (limits.some(isNumber)) series.push({ values: limits, kind: "limit", colour: "fail" });
  series.push({ values, kind: "line", colour: "dot" });
  series.push({ values: only(rows, values, "pass"), kind: "point", colour: "dot" }, { values: only(rows, values, "fail"), kind: "point", colour: "fail" });
  if (metric === "excess") {
    const local = valuesOf(rows, "local_excess");
    if (local.some(isNumber)) series.push({ values: local, kind: "line", colour: "local", hollow: true }, { values: local, kind: "overlay", colour: "local" });
  }
  const marks = [];
  rows.forEach((row, x) => {
    if (row === null) return;
    if (verdictOf(row) === "missing") marks.push({ x, kind: "missing" });
    else if (typeof values[x] === "string") marks.push({ x, kind: "cross" });
  });
  const failing = rows.findIndex((row) => row !== null && verdictOf(row) === "fail");
  const starts = data.blocks.map((block, tap) => [block, tap]).filter(([block, tap]) => block >= 0 && data.blocks[tap - 1] !== block);
  const splits = (u, axis, min, max) => {
    const inside = starts.filter(([, tap]) => tap >= min && tap <= max), every = Math.max(1, Math.ceil((inside.length * 24) / Math.max(1, u.bbox.width / devicePixelRatio)));
    return inside.filter((_, i) => i % every === 0).map(([, tap]) => tap);
  };
  return {
    xs, decades, marks, splits, series: series.map((one) => (one.kind === "overlay" ? { ...one, kind: "point", hollow: true, size: 4 } : one)),
    ticks: (u, taps) => taps.map((tap) => "block " + data.blocks[tap]).map((name, i) => (taps.length > 8 ? name.slice(6) : name)),
    first: failing < 0 ? null : { x: failing, label: "first failing tap: " + get(rows[failing], "tap") },
  };
}
function tipOf(row) {
  if (row === null) return "not in this run";
  if (verdictOf(row) === "missing") return `${get(row, "tap")}\nmissing: ${get(row, "why")}`;
  const local = has("local_excess") && get(row, "local_excess") !== null ? `, local ${figure(row, "local_excess")}` : "";
  return `${get(row, "tap")}: ${verdictOf(row)}\nexcess ${figure(row, "excess")}, worst position ${figure(row, "position_excess")}${local}\nrel. L2 ${cell(row, "rel_l2")}, noise floor ${cell(row, "noise_floor")}${rangeOf(row) ? "\n" + rangeOf(row) : ""}`;
}
function drawDepth() {
  const input = Number($("chart-input").value), metric = $("chart-metric").value, charts = $("charts");
  forget(charts);
  for (const key of document.querySelectorAll("#depth .local-key")) key.hidden = metric !== "excess";
  for (const key of document.querySelectorAll("#depth .band-key")) key.hidden = metric === "magnitude";
  // With quantised files there are too many hops for one page: those of one file are drawn.
  const file = data.files.length > 1 ? Number($("chart-file").value) : 0;
  const all = text.hop.map((_, hop) => (data.hop_files[hop] === file ? seriesOf(hop, input) : []));
  const shown = all.flat().filter((row) => row !== null);
  const names = metric === "rel_l2" ? [metric, "noise_floor"] : [metric, metric + "_limit", ...(metric === "excess" ? ["local_excess"] : [])];
  const line = { rel_l2: [], magnitude: [FLOAT16_LARGEST] }[metric] || [1];
  const decades = decadesOf([...names.map((name) => valuesOf(shown, name)), line]);
  all.forEach((rows, hop) => {
    if (data.hop_files[hop] !== file) return;
    const count = (verdict) => rows.filter((row) => row !== null && verdictOf(row) === verdict).length;
    const failing = count("fail"), missing = count("missing"), compared = failing + count("pass");
    const said = [["no tap fails", "1 tap fails"][failing] || `${failing} taps fail`, missing ? `${missing} missing` : ""].filter(Boolean).join(", ");
    const place = element("div", { class: "chart" });
    place.append(element("h3", {}, `${text.hop[hop]}, input ${short(text.input[input], 60)}: ${compared ? said : "nothing compared"}`));
    charts.append(place);
    if (!compared) return;
    // A price, and what is between two sets of kernels, has no excess: float32 does not measure them.
    const own = valuesOf(rows, metric).some((value) => value !== null) ? metric : "rel_l2";
    const range = own === metric ? decades : decadesOf([valuesOf(rows, own), valuesOf(rows, "noise_floor")]);
    if (own !== metric) place.append(element("p", { class: "note" }, "No such figure of this hop; shown is the relative L2 error."));
    const label = `${own} by tap in execution order, ${text.hop[hop]}, input ${text.input[input]}: ${said}. Arrow keys move along the taps.`;
    const made = makeChart(place, label, depthSpec(rows, own, range), {
      tip: (i) => tipOf(rows[i]),
      pick: (i) => rows[i] !== null && showRow(rows[i]),
      zoomed: zoomAll,
    });
    made.box.dataset.hop = text.hop[hop];
    made.box.dataset.missing = missing;
    made.depth = true;
  });
}
// The hops have the same taps, so they are looked at in the same stretch.
function zoomAll(source, min, max) {
  if (depth.zooming || min === null) return;
  depth.zooming = true;
  for (const { chart, depth: mine } of drawn) {
    if (mine && chart !== source && (chart.scales.x.min !== min || chart.scales.x.max !== max)) chart.setScale("x", { min, max });
  }
  depth.zooming = false;
}
function startDepth(worstRow) {
  for (const option of [...$("chart-metric").options]) if (isEmpty(option.value)) option.remove();
  if (isEmpty("local_excess")) document.querySelectorAll(".local-key").forEach((key) => key.remove());
  fill($("chart-input"), text.input, data.fault && data.fault.input !== null ? data.fault.input : worstRow === null ? 0 : columns.input[worstRow]);
  if (data.files.length > 1) fill($("chart-file"), data.files, data.fault && data.fault.hop !== null ? data.hop_files[data.fault.hop] : 0);
  else $("chart-file").parentElement.remove();
  for (const id of ["chart-input", "chart-metric", ...(data.files.length > 1 ? ["chart-file"] : [])]) $(id).addEventListener("input", drawDepth);
  $("zoom-out").addEventListener("click", () => {
    for (const { chart, whole, depth: mine } of drawn) if (mine) chart.setScale("x", { min: whole[0], max: whole[1] });
  });
  drawDepth();
}
