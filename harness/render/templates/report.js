"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = Object.fromEntries(data.columns.map((name, i) => [name, i]));
  const text = data.texts;
  const get = (row, name) => (name in text ? text[name][row[at[name]]] : row[at[name]]);
  const verdictOf = (row) => data.verdicts[row[at.verdict]];
  const $ = (id) => document.getElementById(id);
  const isNumber = (value) => typeof value === "number";

  function show(value) {
    if (value === null) return "-";
    if (!isNumber(value)) return value;
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return String(value);
    return size >= 1e-2 && size < 999.5 ? value.toPrecision(3) : value.toExponential(2);
  }
  // A number of a tap: a missing tap says so instead of looking like a small error.
  const cell = (row, name) => (verdictOf(row) === "missing" ? "missing" : show(get(row, name)));
  // A figure beside its limit: "3.20 of 4".
  function figure(row, name) {
    const limit = name + "_limit" in at ? get(row, name + "_limit") : null;
    const said = cell(row, name);
    return limit === null || verdictOf(row) === "missing" || said === "-" ? said : `${said} of ${show(limit)}`;
  }
  function used(row) {
    const value = get(row, "limit_used");
    if (!isNumber(value)) return show(value);
    return value < 1e4 ? Math.round(value * 100) + " %" : (value * 100).toExponential(1) + " %";
  }

  function element(tag, attributes, content) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    if (content !== undefined) made.textContent = content;
    return made;
  }
  function fill(select, names, chosen) {
    names.forEach((name, i) => {
      const label = name.length > 60 ? name.slice(0, 57) + "..." : name;
      select.append(element("option", { value: i }, label));
    });
    if (chosen !== undefined && chosen !== null) select.value = String(chosen);
  }

  // ---- error against depth -------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 190, LEFT = 52, RIGHT = 10, TOP = 18, BOTTOM = 22;
  function draw(svg, tag, attributes, content) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (content !== undefined) made.textContent = content;
    svg.append(made);
    return made;
  }
  function series(hop, input) {
    const rows = data.rows.filter((row) => row[at.hop] === hop && row[at.input] === input);
    return rows.sort((a, b) => a[at.tap] - b[at.tap]);
  }
  function decades(rows, metric) {
    const seen = [];
    for (const row of rows) {
      for (const name of metric === "rel_l2" ? [metric, "noise_floor"] : [metric, metric + "_limit"]) {
        if (!(name in at)) continue;
        const value = get(row, name);
        if (isNumber(value) && value > 0) seen.push(Math.log10(value));
      }
    }
    if (metric !== "rel_l2") seen.push(0);
    if (!seen.length) return [-8, 0];
    const low = seen.reduce((a, b) => Math.min(a, b)), high = seen.reduce((a, b) => Math.max(a, b));
    return [Math.floor(low - 0.1), Math.ceil(high + 0.1)];
  }
  function scales(width, range) {
    const taps = Math.max(1, text.tap.length - 1);
    const [low, high] = range;
    return {
      x: (tap) => LEFT + ((width - LEFT - RIGHT) * tap) / taps,
      // Zero, an exact tap, stands on the axis: a log scale has no other place for it.
      y: (value) => {
        const share = value > 0 ? (Math.log10(value) - low) / (high - low) : 0;
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * Math.min(1, Math.max(0, share));
      },
      bottom: HEIGHT - BOTTOM,
    };
  }
  function axes(svg, width, range, scale) {
    const step = Math.ceil((range[1] - range[0]) / 6);
    for (let power = range[0]; power <= range[1]; power += step) {
      const y = scale.y(10 ** power);
      draw(svg, "line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y });
      draw(svg, "text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, power === 0 ? "1" : "1e" + power);
    }
    const starts = data.blocks.map((block, tap) => [block, tap]).filter(([block, tap]) => block >= 0 && data.blocks[tap - 1] !== block);
    const every = Math.max(1, Math.ceil((starts.length * 24) / (width - LEFT - RIGHT)));
    starts.forEach(([block, tap], i) => {
      const x = scale.x(tap);
      draw(svg, "line", { class: "block", x1: x, x2: x, y1: TOP, y2: scale.bottom });
      if (i % every === 0) draw(svg, "text", { x: x + 2, y: HEIGHT - 8 }, String(block));
    });
    draw(svg, "text", { x: LEFT - 6, y: HEIGHT - 8, "text-anchor": "end" }, "block");
  }
  function noise(svg, rows, scale) {
    const points = rows.filter((row) => isNumber(get(row, "noise_floor"))).map((row) => [scale.x(row[at.tap]), scale.y(get(row, "noise_floor"))]);
    if (!points.length) return;
    const first = points[0][0], last = points[points.length - 1][0];
    draw(svg, "polygon", { class: "band", points: [[first, scale.bottom], ...points, [last, scale.bottom]].join(" ") });
  }
  // The limit belongs to a row: short inputs have a wider one. Drawn in steps.
  function limits(svg, rows, metric, scale) {
    let path = "", last = null;
    for (const row of rows) {
      const limit = get(row, metric + "_limit");
      if (!isNumber(limit)) continue;
      const x = scale.x(row[at.tap]), y = scale.y(limit);
      path += last === null ? `M${x} ${y}` : `H${(last.x + x) / 2}V${y}H${x}`;
      last = { x, y, limit };
    }
    if (last === null) return;
    draw(svg, "path", { class: "limit", d: path });
    draw(svg, "text", { class: "limit-label", x: last.x, y: last.y - 4, "text-anchor": "end" }, "limit " + show(last.limit));
  }
  function trend(svg, rows, metric, scale) {
    let run = [];
    const flush = () => {
      if (run.length > 1) draw(svg, "polyline", { class: "trend", points: run.join(" ") });
      run = [];
    };
    for (const row of rows) {
      const value = get(row, metric);
      if (isNumber(value) && value > 0) run.push([scale.x(row[at.tap]), scale.y(value)]);
      else flush();
    }
    flush();
  }
  function mark(svg, row, metric, scale) {
    const x = scale.x(row[at.tap]), value = get(row, metric), verdict = verdictOf(row);
    if (verdict === "missing") {
      draw(svg, "line", { class: "missing", x1: x, x2: x, y1: scale.bottom, y2: scale.bottom - 7 });
    } else if (isNumber(value)) {
      draw(svg, "circle", { class: verdict, cx: x, cy: scale.y(value), r: verdict === "fail" ? 2.6 : 1.6 });
    } else if (value !== null) {
      draw(svg, "path", { class: "cross", d: `M${x - 3} ${TOP - 3}l6 6m0 -6l-6 6` });
    }
  }
  function firstFailing(svg, rows, width, scale) {
    const row = rows.find((each) => verdictOf(each) === "fail");
    if (!row) return;
    const x = scale.x(row[at.tap]), right = x > width / 2;
    draw(svg, "line", { class: "first", x1: x, x2: x, y1: TOP - 8, y2: scale.bottom });
    draw(svg, "text", { class: "label", x: right ? x - 5 : x + 5, y: TOP - 8, "text-anchor": right ? "end" : "start" }, "first failing tap: " + get(row, "tap"));
  }
  function hover(svg, rows, metric, scale) {
    const ring = draw(svg, "circle", { class: "here", r: 5, visibility: "hidden" });
    const tip = $("tip");
    const nearest = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      return rows.reduce((best, row) => (Math.abs(scale.x(row[at.tap]) - x) < Math.abs(scale.x(best[at.tap]) - x) ? row : best));
    };
    svg.addEventListener("mousemove", (event) => {
      const row = nearest(event), value = get(row, metric);
      ring.setAttribute("cx", scale.x(row[at.tap]));
      ring.setAttribute("cy", isNumber(value) ? scale.y(value) : verdictOf(row) === "missing" ? scale.bottom : TOP);
      ring.setAttribute("visibility", "visible");
      tip.textContent = verdictOf(row) === "missing" ? `${get(row, "tap")}\nmissing: ${get(row, "why")}`
        : `${get(row, "tap")}: ${verdictOf(row)}\nexcess ${figure(row, "excess")}, worst position ${figure(row, "position_excess")}\nrel. L2 ${cell(row, "rel_l2")}, noise floor ${cell(row, "noise_floor")}`;
      tip.hidden = false;
      tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = event.clientY + 14 + "px";
    });
    svg.addEventListener("mouseleave", () => { tip.hidden = true; ring.setAttribute("visibility", "hidden"); });
    svg.addEventListener("click", (event) => {
      const row = nearest(event);
      filters.hop.value = String(row[at.hop]);
      filters.input.value = "";
      filters.verdict.value = "";
      filters.text.value = get(row, "tap");
      refresh();
      $("taps").scrollIntoView({ behavior: "smooth" });
    });
  }
  let drawnWidth = 0;
  function drawCharts() {
    const input = Number($("chart-input").value), metric = $("chart-metric").value, charts = $("charts");
    const width = Math.max(320, charts.clientWidth);
    drawnWidth = charts.clientWidth;
    const all = text.hop.map((_, hop) => series(hop, input));
    const range = decades(all.flat(), metric);
    charts.replaceChildren();
    all.forEach((rows, hop) => {
      const chart = element("div", { class: "chart" });
      const failing = rows.filter((row) => verdictOf(row) === "fail").length;
      const missing = rows.filter((row) => verdictOf(row) === "missing").length;
      const said = [failing ? `${failing} taps fail` : "no tap fails", missing ? `${missing} missing` : ""].filter(Boolean).join(", ");
      chart.append(element("h3", {}, `${text.hop[hop]}: ${missing === rows.length ? "nothing compared" : said}`));
      charts.append(chart);
      if (!rows.length || missing === rows.length) return;
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `${metric} by tap in execution order, ${text.hop[hop]}: ${said}`);
      chart.append(svg);
      const scale = scales(width, range);
      if (metric === "rel_l2") noise(svg, rows, scale);
      axes(svg, width, range, scale);
      if (metric + "_limit" in at) limits(svg, rows, metric, scale);
      trend(svg, rows, metric, scale);
      firstFailing(svg, rows, width, scale);
      rows.forEach((row) => mark(svg, row, metric, scale));
      hover(svg, rows, metric, scale);
    });
  }

  // ---- tap table -----------------------------------------------------------------------------
  const PAGE = 30;
  const ALL_COLUMNS = [
    ["tap", "tap"], ["verdict", "verdict"], ["limit_used", "limit used"], ["excess", "excess"], ["position_excess", "worst position"], ["input", "input"], ["hop", "hop"],
    ["local_excess", "local"], ["total_excess", "total"], ["rel_l2", "rel. L2"],
    ["noise_floor", "noise floor"], ["max_abs_err", "max abs err"], ["snr_db", "SNR dB"], ["nan_count", "NaN"], ["inf_count", "Inf"],
  ];
  const empty = (name) => name in at && !(name in text) && name !== "verdict" && data.rows.every((row) => get(row, name) === null);
  const COLUMNS = ALL_COLUMNS.filter(([name]) => !empty(name));
  const WORDS = new Set(["tap", "input", "hop", "verdict"]);
  const filters = { hop: $("f-hop"), input: $("f-input"), verdict: $("f-verdict"), text: $("f-text") };
  let sorted = { name: "tap", down: false }, page = 0, found = [];

  const haystacks = text.tap.map((tap, i) => [tap, ...data.modules[i]].join(" ").toLowerCase());
  function matches(row, words) {
    for (const name of ["hop", "input", "verdict"]) {
      if (filters[name].value !== "" && row[at[name]] !== Number(filters[name].value)) return false;
    }
    if (!words.length) return true;
    const where = `${haystacks[row[at.tap]]} ${get(row, "rule")} ${get(row, "why")}`.toLowerCase();
    return words.every((word) => where.includes(word));
  }
  // NaN and Inf are worse than any number, a missing value better than none: -1 sorts it last under "worst first".
  function rank(row, name) {
    if (WORDS.has(name)) return row[at[name]];
    const value = get(row, name);
    if (verdictOf(row) === "missing" || value === null) return -Infinity;
    return isNumber(value) ? value : value === "-inf" ? -Infinity : Infinity;
  }
  function refresh() {
    const words = filters.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = data.rows.filter((row) => matches(row, words));
    const sign = sorted.down ? -1 : 1;
    found.sort((a, b) => {
      const x = rank(a, sorted.name), y = rank(b, sorted.name);
      return x === y ? a[at.tap] - b[at.tap] : x < y ? -sign : sign;
    });
    page = 0;
    drawTable();
  }
  function drawTable() {
    const head = $("tap-table").tHead, body = $("tap-table").tBodies[0], pages = Math.max(1, Math.ceil(found.length / PAGE));
    const heading = element("tr");
    for (const [name, title] of COLUMNS) {
      const arrow = sorted.name === name ? (sorted.down ? " \u2193" : " \u2191") : "";
      const th = element("th", { class: WORDS.has(name) ? "" : "n", tabindex: "0" }, title + arrow);
      const sort = () => {
        sorted = { name, down: sorted.name === name ? !sorted.down : !WORDS.has(name) };
        refresh();
      };
      th.addEventListener("click", sort);
      th.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
      heading.append(th);
    }
    head.replaceChildren(heading);
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(tableRow));
    $("count").textContent = `${found.length} of ${data.rows.length} rows, page ${page + 1} of ${pages}`;
    $("previous").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
  }
  function tableRow(row) {
    const tr = element("tr"), verdict = verdictOf(row);
    for (const [name] of COLUMNS) {
      const td = element("td", { class: WORDS.has(name) ? "" : "n" });
      if (name === "verdict") td.append(element("span", { class: "verdict " + verdict }, verdict === "fail" ? "FAIL" : verdict));
      else if (name === "tap") td.append(element("code", {}, get(row, name)));
      else if (WORDS.has(name)) td.textContent = get(row, name).length > 40 ? get(row, name).slice(0, 37) + "..." : get(row, name);
      else if (verdict === "missing") td.textContent = name === "limit_used" ? "missing" : "-";
      else if (name === "limit_used") td.textContent = used(row);
      else if (name === "position_excess" && row[at.worst_position] >= 0) td.textContent = `${figure(row, name)} @${row[at.worst_position]}`;
      else if (name === "excess") td.textContent = figure(row, name);
      else td.textContent = show(get(row, name));
      tr.append(td);
    }
    tr.addEventListener("click", () => toggleDetail(tr, row));
    return tr;
  }
  function toggleDetail(tr, row) {
    const next = tr.nextElementSibling;
    if (next && next.classList.contains("detail")) { next.remove(); return; }
    const list = element("dl");
    const facts = [
      ["why", get(row, "why")], ["judged by", get(row, "rule")], ["hop", get(row, "hop")], ["input", get(row, "input")],
      ["modules", data.modules[row[at.tap]].filter(Boolean).join("  |  ")], ["shape", `${get(row, "shape")} ${get(row, "dtype")}`],
      ["read by", get(row, "how")], ["mean abs err", cell(row, "mean_abs_err")], ["cosine", verdictOf(row) === "missing" ? "missing" : String(get(row, "cosine") ?? "-")],
    ];
    for (const [name, fact] of facts) if (fact.trim()) list.append(element("dt", {}, name), element("dd", {}, fact));
    const detail = element("tr", { class: "detail" }), td = element("td", { colspan: COLUMNS.length });
    td.append(list);
    detail.append(td);
    tr.after(detail);
  }

  // ---- start ---------------------------------------------------------------------------------
  const fault = data.fault;
  const worstRow = data.rows.reduce((best, row) => (best === null || rank(row, "limit_used") > rank(best, "limit_used") ? row : best), null);
  for (const option of [...$("chart-metric").options]) if (empty(option.value)) option.remove();
  fill($("chart-input"), text.input, fault && fault.input !== null ? fault.input : worstRow ? worstRow[at.input] : 0);
  fill(filters.hop, text.hop, fault ? fault.hop : null);
  fill(filters.input, text.input, fault ? fault.input : null);
  fill(filters.verdict, data.verdicts, fault ? data.verdicts.indexOf("fail") : null);
  if (!fault) sorted = { name: "limit_used", down: true };
  for (const control of Object.values(filters)) control.addEventListener("input", refresh);
  $("previous").addEventListener("click", () => { page -= 1; drawTable(); });
  $("next").addEventListener("click", () => { page += 1; drawTable(); });
  $("chart-input").addEventListener("input", drawCharts);
  $("chart-metric").addEventListener("input", drawCharts);
  addEventListener("resize", () => {
    if ($("charts").clientWidth !== drawnWidth) drawCharts();
  });
  drawCharts();
  refresh();
})();
