// Errors by decode step: what the worst tap and the logits use up of their limits, token by token.
const stepsOf = () => data.steps.find((one) => one.hop === chosen("s-hop") && one.input === chosen("s-input")) || null;

function startSteps() {
  const fault = data.fault, hops = [...new Set(data.steps.map((one) => one.hop))];
  const known = data.steps.some((one) => fault && one.hop === fault.hop);
  fill($("s-hop"), hops.map((i) => text.hop[i]), known ? fault.hop : hops[0], hops);
  fillStepInputs(fault ? fault.input : null);
  $("s-hop").addEventListener("input", () => { fillStepInputs(chosen("s-input")); drawSteps(); });
  $("s-input").addEventListener("input", drawSteps);
  drawSteps();
}
function fillStepInputs(wanted) {
  const mine = data.steps.filter((one) => one.hop === chosen("s-hop")), inputs = mine.map((one) => one.input);
  const most = mine.reduce((best, one) => (one.positions.length > best.positions.length ? one : best), mine[0]);
  fill($("s-input"), inputs.map((i) => text.input[i]), inputs.includes(wanted) ? wanted : most.input, inputs);
}
function drawSteps() {
  const place = $("steps-chart"), one = stepsOf();
  forget(place);
  if (!one) { place.append(element("p", { class: "note" }, "No decode steps here.")); return; }
  const share = (value, limit) => (isNumber(value) ? value / (limit || 1) : value);
  const worst = one.worst.map((value, i) => share(value, one.limits[i])), logits = one.logits.map((value) => share(value, one.limit));
  const xs = one.positions.map((_, i) => i + 1);
  const some = (values, over) => values.map((value) => (isNumber(value) && value > 1 === over ? value : null));
  const series = [
    { values: xs.map(() => 1), kind: "limit", colour: "fail" },
    { values: worst.map((value) => (isNumber(value) ? value : null)), kind: "line", colour: "dot" },
    { values: some(worst, false), kind: "point", colour: "dot" },
    { values: some(worst, true), kind: "point", colour: "fail" },
  ];
  if (logits.length) series.push({ values: logits.map((value) => (isNumber(value) ? value : null)), kind: "point", colour: "local", hollow: true, size: 4 });
  const label = `share of the limit by decode step, ${text.hop[one.hop]}, input ${text.input[one.input]}, ${xs.length} steps`;
  place.append(element("h3", { class: "minor" }, label));
  const spec = positionSpec(xs, series, crosses(xs, worst), null);
  spec.decades = decadesOf([worst, logits, [1]]);
  makeChart(place, label + ". Arrow keys move along the steps.", spec, {
    tip: (i) => `step ${i + 1}, position ${one.positions[i]}\nworst ${one.taps[i]}: ${show(one.worst[i])}${one.limits[i] === null ? "" : " of " + show(one.limits[i])}${logits.length ? `\nlogits ${show(one.logits[i])} of ${show(one.limit)}` : ""}${one.kl.length ? `, KL ${show(one.kl[i])} nats` : ""}`,
  }).box.dataset.of = "steps";
}
