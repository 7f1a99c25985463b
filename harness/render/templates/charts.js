// Charts on a logarithmic scale, with bands, limits, zoom, a tip under the pointer and the same by keyboard.
const HEIGHT = 220;
const drawn = new Set();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const powers = (low, high, most) => {
  const step = Math.max(1, Math.ceil((high - low) / most)), found = [];
  for (let power = low; power <= high; power += step) found.push(10 ** power);
  return found;
};
const tick = (value) => (value === 1 ? "1" : "1e" + Math.round(Math.log10(value)));
function decadesOf(lists) {
  let low = Infinity, high = -Infinity;
  for (const list of lists) {
    for (const value of list) {
      if (!isNumber(value) || value <= 0) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low === Infinity ? [-8, 0] : [Math.floor(Math.log10(low) - 0.1), Math.ceil(Math.log10(high) + 0.1)];
}

// place: where it stands; label: what a screen reader says; points: how many values are drawn as points.
// spec: {xs, decades, series: [{values, kind, colour}], marks: [{x, kind}], lines: [{x, label}], splits, ticks, first}
// kinds of series: "point", "line", "limit", "band". on: {tip(i), pick(i), zoomed(min, max)}.
function makeChart(place, label, spec, on) {
  const [low, high] = spec.decades, bottom = 10 ** low, top = 10 ** high;
  // Zero, an exact value, stands on the axis: a log scale has no other place for it.
  const onScale = (value) => (isNumber(value) ? Math.min(top, Math.max(bottom, value)) : null);
  const box = element("div", { class: "plot", tabindex: "0", role: "figure", "aria-label": label });
  box.dataset.points = spec.series.filter((one) => one.kind === "point" && !one.hollow).reduce((sum, one) => sum + one.values.filter(isNumber).length, 0);
  place.append(box);
  const whole = [spec.xs[0] - 0.5, spec.xs[spec.xs.length - 1] + 0.5];
  const series = spec.series.map((one) => {
    if (one.kind === "point") {
      const paths = () => null;
      return { paths, points: { show: true, size: one.size || 5, width: 1, stroke: () => colour(one.colour), fill: () => (one.hollow ? colour("bg") : colour(one.colour)) } };
    }
    const stroke = () => colour(one.colour), points = { show: false };
    if (one.kind === "band") return { fill: stroke, fillTo: () => bottom, points, stroke: "transparent" };
    if (one.kind === "limit") return { stroke, width: 1, dash: [6, 4], points, spanGaps: true, paths: uPlot.paths.stepped({ align: 1 }) };
    return { stroke, width: 0.8, alpha: 0.6, points };
  });
  const tip = $("tip");
  let last = null;
  const showTip = (index, x, y) => {
    tip.textContent = on.tip(index);
    tip.hidden = false;
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.min(y + 14, innerHeight - tip.offsetHeight - 4) + "px";
  };
  const options = {
    width: Math.max(260, place.clientWidth),
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
    scales: { x: { time: false, range: (u, min, max) => [Math.max(min, whole[0]), Math.min(max, whole[1])] }, y: { distr: 3, range: [bottom, top] } },
    axes: [
      { stroke: () => colour("soft"), grid: { stroke: () => colour("line"), width: 0.5 }, ticks: { show: false }, size: 28, gap: 6, font: "11px system-ui, sans-serif", splits: spec.splits, values: spec.ticks },
      { stroke: () => colour("soft"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false }, size: 52, font: "11px system-ui, sans-serif", splits: () => powers(low, high, 6), values: (u, values) => values.map(tick), filter: (u, values) => values },
    ],
    series: [{}, ...series],
    hooks: {
      draw: [(u) => drawMarks(u, spec, top, bottom)],
      setScale: [(u, key) => { if (key === "x" && on.zoomed) on.zoomed(u, u.scales.x.min, u.scales.x.max); }],
      setCursor: [(u) => {
        const event = u.cursor.event;
        if (u.cursor.idx === null || u.cursor.left < 0 || !event) { if (event) tip.hidden = true; return; }
        last = u.cursor.idx;
        showTip(last, event.clientX, event.clientY);
      }],
    },
  };
  const lists = [spec.xs, ...spec.series.map((one) => one.values.map((value) => (value === undefined ? null : onScale(value))))];
  const chart = new uPlot(options, lists, box);
  let pressed = null;
  chart.over.addEventListener("mousedown", (event) => { pressed = event.clientX; });
  chart.over.addEventListener("mouseleave", () => { tip.hidden = true; });
  chart.over.addEventListener("click", (event) => {
    if (pressed !== null && Math.abs(event.clientX - pressed) < 3 && last !== null && on.pick) on.pick(last);
  });
  box.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (move) {
      last = Math.max(0, Math.min(spec.xs.length - 1, last === null && isFinite(move) ? 0 : (last || 0) + move));
      const left = chart.valToPos(spec.xs[last], "x"), place = chart.over.getBoundingClientRect();
      chart.setCursor({ left, top: place.height / 2 });
      showTip(last, place.left + left, place.top + place.height / 2);
    } else if (event.key === "Enter" && last !== null && on.pick) on.pick(last);
    else if (event.key === "+" || event.key === "=" || event.key === "-") zoom(chart, last === null ? null : spec.xs[last], event.key === "-" ? 2 : 0.5, whole);
    else if (event.key === "Escape" || event.key === "0") chart.setScale("x", { min: whole[0], max: whole[1] });
    else return;
    event.preventDefault();
  });
  box.addEventListener("blur", () => { tip.hidden = true; });
  const shown = { chart, box, place, whole };
  drawn.add(shown);
  return shown;
}
function zoom(chart, middle, factor, whole) {
  const { min, max } = chart.scales.x, centre = middle === null ? (min + max) / 2 : middle;
  const half = Math.max(2, ((max - min) / 2) * factor);
  chart.setScale("x", { min: Math.max(whole[0], centre - half), max: Math.min(whole[1], centre + half) });
}
// NaN, Inf and flips as crosses at the top, missing as ticks at the bottom, one dashed line with a label.
function drawMarks(u, spec, top, bottom) {
  const ctx = u.ctx, ratio = devicePixelRatio, at = (x) => u.valToPos(x, "x", true);
  const above = u.valToPos(top, "y", true), below = u.valToPos(bottom, "y", true);
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, 0, u.bbox.width, u.bbox.top + u.bbox.height);
  ctx.clip();
  for (const { x, kind } of spec.marks || []) {
    ctx.strokeStyle = colour(kind === "cross" ? "fail" : "missing");
    ctx.lineWidth = 2 * ratio;
    ctx.beginPath();
    const place = at(x), reach = 3 * ratio;
    if (kind === "missing") { ctx.moveTo(place, below); ctx.lineTo(place, below - 7 * ratio); }
    else for (const side of [-1, 1]) { ctx.moveTo(place - side * reach, above); ctx.lineTo(place + side * reach, above + 2 * reach); }
    ctx.stroke();
  }
  if (spec.first) {
    const place = at(spec.first.x), right = place > u.bbox.left + u.bbox.width / 2;
    ctx.strokeStyle = ctx.fillStyle = colour("fail");
    ctx.lineWidth = ratio;
    ctx.setLineDash([3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(place, above);
    ctx.lineTo(place, below);
    ctx.stroke();
    ctx.font = `600 ${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = right ? "right" : "left";
    ctx.fillText(spec.first.label, place + (right ? -5 : 5) * ratio, above + 12 * ratio);
  }
  ctx.restore();
}
function forget(place) {
  for (const shown of [...drawn]) if (place.contains(shown.box)) { shown.chart.destroy(); drawn.delete(shown); }
  place.replaceChildren();
}
addEventListener("resize", () => {
  for (const { chart, place } of drawn) {
    const width = Math.max(260, place.clientWidth);
    if (width !== chart.width) chart.setSize({ width, height: HEIGHT });
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(({ chart }) => chart.redraw()));
