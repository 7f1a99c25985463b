// Error against position at a few taps, and what the logits came to at each position.
const positions = { details: null, series: null, logits: null };
const word = (token) => {
  const said = positions.details.words[token];
  return token < 0 ? "NaN" : said === undefined ? "#" + token : JSON.stringify(said);
};
const chosen = (id) => Number($(id).value);

function startPositions() {
  positions.details = data.details;
  const both = [...data.details.excesses, ...data.details.logits], fault = data.fault;
  const hops = [...new Set(both.map((one) => one.hop))].sort((a, b) => a - b);
  const inputs = [...new Set(both.map((one) => one.input))].sort((a, b) => a - b);
  const known = (list, value) => (fault && list.includes(value) ? value : list[0]);
  fill($("p-hop"), hops.map((i) => text.hop[i]), known(hops, fault && fault.hop), hops);
  const longest = inputs.reduce((best, i) => (data.details.inputs[i].length > data.details.inputs[best].length ? i : best), inputs[0]);
  fill($("p-input"), inputs.map((i) => text.input[i]), fault ? known(inputs, fault.input) : longest, inputs);
  fillTaps(fault ? fault.tap : null);
  $("p-hop").addEventListener("input", () => { fillTaps(chosen("p-tap")); drawPositions(); });
  $("p-input").addEventListener("input", drawPositions);
  $("p-tap").addEventListener("input", drawPositions);
  $("p-at").addEventListener("input", drawTokens);
  $("p-flip").addEventListener("click", nextFlip);
  drawPositions();
}
function fillTaps(wanted) {
  const taps = [...new Set(data.details.excesses.filter((one) => one.hop === chosen("p-hop")).map((one) => one.tap))].sort((a, b) => a - b);
  fill($("p-tap"), taps.map((i) => text.tap[i]), taps.includes(wanted) ? wanted : taps[taps.length - 1], taps);
}
function drawPositions() {
  const hop = chosen("p-hop"), input = chosen("p-input"), tap = chosen("p-tap");
  const of = (one) => one.hop === hop && one.input === input;
  positions.series = data.details.excesses.find((one) => of(one) && one.tap === tap) || null;
  positions.logits = data.details.logits.find(of) || null;
  drawExcess();
  drawLogits();
  $("p-at").max = String(data.details.inputs[input].length - 1);
  const one = positions.logits, first = one ? one.flip.findIndex((flip) => flip !== "") : -1;
  if (first >= 0) choose(one.positions[first]);
  else if (one) choose(worstOf(one.positions, one.kl));
  else choose(positions.series ? worstOf(positions.series.positions, positions.series.excess) : 0);
}
function worstOf(at, values) {
  let best = 0;
  values.forEach((value, i) => { if (!isNumber(value) || value > values[best]) best = i; });
  return at[best];
}
const tokenAt = (position) => word(data.details.inputs[chosen("p-input")][position]);
function positionSpec(at, series, marks, first) {
  const decades = decadesOf([...series.map((one) => one.values), []]);
  return { xs: at, decades, series, marks, first, splits: undefined, ticks: (u, values) => values.map((value) => (Number.isInteger(value) ? value : "")) };
}
const crosses = (at, values) => at.map((x, i) => ({ x, kind: "cross", value: values[i] })).filter((mark) => typeof mark.value === "string" && mark.value !== "-inf");

function drawExcess() {
  const place = $("excess-chart"), one = positions.series;
  forget(place);
  if (!one) { place.append(element("p", { class: "note" }, "No excess of single positions here.")); return; }
  const over = one.excess.map((value) => (isNumber(value) && one.limit !== null && value > one.limit ? value : null));
  const under = one.excess.map((value, i) => (isNumber(value) && over[i] === null ? value : null));
  const series = [
    { values: one.positions.map(() => 1), kind: "band", colour: "band" },
    { values: one.excess, kind: "line", colour: "dot" },
    { values: under, kind: "point", colour: "dot" },
    { values: over, kind: "point", colour: "fail" },
  ];
  if (one.limit !== null) series.push({ values: one.positions.map(() => one.limit), kind: "limit", colour: "fail" });
  const label = `excess of ${text.tap[one.tap]} by token position, ${text.hop[one.hop]}, input ${text.input[one.input]}`;
  place.append(element("h3", { class: "minor" }, label));
  makeChart(place, label + ". Arrow keys move along the positions.", positionSpec(one.positions, series, crosses(one.positions, one.excess), null), {
    tip: (i) => `position ${one.positions[i]}, token ${tokenAt(one.positions[i])}\nexcess ${show(one.excess[i])}${one.limit === null ? "" : " of " + show(one.limit)}`,
    pick: (i) => choose(one.positions[i]),
  }).box.dataset.tap = text.tap[one.tap];
}
function drawLogits() {
  const one = positions.logits, kl = $("kl-chart"), margin = $("margin-chart");
  forget(kl);
  forget(margin);
  if (!one) { kl.append(element("p", { class: "note" }, "The logits were not compared on this input.")); return; }
  const flips = one.positions.map((x, i) => ({ x, kind: one.flip[i] === "above noise" ? "cross" : "flip", flip: one.flip[i] })).filter((mark) => mark.flip);
  const where = `${text.hop[one.hop]}, input ${text.input[one.input]}, ${flips.length} flips`;
  const tip = (i) => `position ${one.positions[i]}, token ${tokenAt(one.positions[i])}\nKL ${show(one.kl[i])} nats, margin ${show(one.margin[i])}, noise ${show(one.noise[i])}\n${one.flip[i] ? `flip ${one.flip[i]}: ${word(one.from[i])} to ${word(one.to[i])}` : `most likely: ${word(one.to[i])}`}`;
  const on = { tip, pick: (i) => choose(one.positions[i]) };
  const points = (values) => [{ values, kind: "line", colour: "dot" }, { values: values.map((value) => (isNumber(value) ? value : null)), kind: "point", colour: "dot", size: 4 }];
  kl.append(element("h4", { class: "minor" }, `KL divergence in nats by token position, ${where}`));
  makeChart(kl, `KL divergence by position, ${where}`, positionSpec(one.positions, points(one.kl), [...flips, ...crosses(one.positions, one.kl)], null), on).box.dataset.of = "kl";
  margin.append(element("h4", { class: "minor" }, `top-1 margin of the reference, and the noise, ${where}`));
  makeChart(margin, `top-1 margin of the reference by position, ${where}`, positionSpec(one.positions, [{ values: one.noise, kind: "band", colour: "band" }, ...points(one.margin)], flips, null), on).box.dataset.of = "margin";
}
function choose(position) {
  $("p-at").value = String(position);
  drawTokens();
}
function nextFlip() {
  const one = positions.logits, at = chosen("p-at");
  const flips = one ? one.positions.filter((_, i) => one.flip[i] !== "") : [];
  if (!flips.length) { $("p-said").textContent = "no flip on this input and hop"; return; }
  choose(flips.find((position) => position > at) ?? flips[0]);
}
function drawTokens() {
  const input = chosen("p-input"), at = chosen("p-at"), { stages, tokens } = data.details, one = positions.logits;
  const kept = (tokens[input] || {})[at], head = element("tr"), body = $("token-table").tBodies[0];
  const i = one ? one.positions.indexOf(at) : -1;
  const flip = i >= 0 && one.flip[i] ? `; ${text.hop[one.hop]} flips ${one.flip[i]}: ${word(one.from[i])} to ${word(one.to[i])}` : "";
  $("p-said").textContent = `token ${tokenAt(at)}${kept ? "" : "; the likely tokens of this position were not kept"}${flip}`;
  head.append(element("th", { scope: "col" }, "rank"), ...stages.map((stage) => element("th", { scope: "col" }, stage)));
  $("token-table").tHead.replaceChildren(head);
  const ranks = kept ? Math.max(...kept.map(([ids]) => ids.length)) : 0;
  body.replaceChildren(...Array.from({ length: ranks }, (_, rank) => {
    const tr = element("tr");
    tr.append(element("th", { scope: "row" }, String(rank + 1)));
    for (const [ids, logits, shares] of kept) {
      const other = rank === 0 && ids[0] !== kept[0][0][0];
      const td = element("td", other ? { class: "other" } : { title: ids[rank] === undefined ? "" : `token ${ids[rank]}, logit ${logits[rank]}` });
      if (ids[rank] !== undefined) td.append(element("code", {}, word(ids[rank])), " ", element("small", {}, show(shares[rank])));
      tr.append(td);
    }
    return tr;
  }));
}
// How large the errors of a tap's elements are, where the run kept that.
function histogramOf(row) {
  const found = data.details && data.details.histograms.find((one) => one.hop === code(row, "hop") && one.tap === code(row, "tap") && one.input === code(row, "input"));
  if (!found) return [];
  const sized = found.at_least.map((size, i) => [size, found.count[i]]).filter(([size]) => size > 0);
  const exact = found.at_least[0] === 0 ? found.count[0] : 0;
  if (!sized.length) return [element("p", { class: "note" }, "No element has an error.")];
  const most = Math.max(...sized.map(([, count]) => count)), ends = [sized[0][0], sized[sized.length - 1][0]].map(show);
  const box = element("div", { class: "histogram", role: "img", "aria-label": `sizes of the errors, from ${ends[0]} to ${ends[1]} of the root mean square` });
  for (const [size, count] of sized) {
    const bar = element("i", { title: `${count} elements, ${show(size)} and more` });
    bar.style.height = `${(100 * count) / most}%`;
    box.append(bar);
  }
  return [box, element("p", { class: "note" }, `Errors of the elements, from ${ends[0]} to ${ends[1]} of the reference's root mean square, a quarter of a decade each; ${exact} elements have none.`)];
}
