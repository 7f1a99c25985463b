load().then(() => {
  const worst = allRows().reduce((best, row) => (best === null || rank(row, "limit_used") > rank(best, "limit_used") ? row : best), null);
  startTable();
  startDepth(worst);
  if (data.details && $("positions")) startPositions();
  if ($("steps")) startSteps();
  performance.mark("ready");
  document.documentElement.dataset.ready = "yes";
});
