"use strict";
// Draw the loss curves of the rows that the entry table shows.
(() => {
  const { curves } = charts.data;
  const FEW_POINTS = 12; // curves with no more points have markers
  const SKIPPED = 0.1; // fraction of the points, at the start, that the y axis need not show
  const lossSelect = document.getElementById("curve-loss");
  const xSelect = document.getElementById("curve-x");
  const curveCount = document.getElementById("curve-count");
  let shown = curves.entries.map((_, i) => i);

  // Remove the options for which a large study has no data.
  function removeMissing(select, hasData) {
    for (const option of [...select.options].slice(1)) {
      if (!curves.entries.some((entry) => hasData(entry.curves, option.value))) option.remove();
    }
  }
  removeMissing(lossSelect, (byLoss, loss) => byLoss[loss]);
  removeMissing(xSelect, (byLoss, x) => Object.values(byLoss).some((curve) => curve[x]));

  // Return the traces of an entry's curve: its band, if it has one, and the line.
  function curveTraces(i) {
    const entry = curves.entries[i];
    const curve = entry.curves[lossSelect.value];
    const x = curve && curve[xSelect.value];
    if (!x) return [];
    const line = {
      type: "scatter",
      x,
      y: curve.y,
      name: entry.label,
      legendgroup: String(i),
      mode: x.length <= FEW_POINTS ? "lines+markers" : "lines",
      line: { color: entry.colour, dash: entry.dash },
      marker: { symbol: entry.symbol },
      hovertemplate: "%{x:,.6~g}: %{y:.4f}<extra>%{fullData.name}</extra>",
    };
    if (!curve.low) return [line];
    const band = {
      type: "scatter",
      x: [...x, ...[...x].reverse()],
      y: [...curve.high, ...[...curve.low].reverse()],
      legendgroup: String(i),
      mode: "lines",
      line: { width: 0 },
      fill: "toself",
      fillcolor: entry.colour,
      opacity: 0.15,
      hoverinfo: "skip",
      showlegend: false,
    };
    return [band, line];
  }

  const available = () => shown.map(curveTraces).filter((traces) => traces.length);

  function makeFigure() {
    const data = available().slice(0, curves.shown).flat();
    const lines = data.filter((trace) => !trace.fill);
    const losses = lines.flatMap((line) => line.y.slice(Math.floor(line.y.length * SKIPPED)));
    const yaxis = { title: { text: "loss, nats per token" } };
    if (losses.length) {
      const low = Math.min(...losses);
      const high = Math.max(...losses);
      const space = 0.06 * (high - low) || 0.1;
      yaxis.range = [low - space, high + space];
    }
    const xTitle = xSelect.value === "x" ? curves.unit : "training time, s";
    const layout = { xaxis: { title: { text: xTitle } }, yaxis };
    return { data, layout, rows: 0 };
  }

  function update() {
    const n = available().length;
    curveCount.textContent = n <= curves.shown
      ? `${n} curves: the rows shown in the table above.`
      : `${curves.shown} of ${n} curves: the first rows shown in the table above. `
        + "Sort or filter the table to see others.";
    charts.redraw("curves");
  }

  charts.add("curves", makeFigure);
  document.addEventListener("shown", (event) => {
    shown = event.detail;
    update();
  });
  lossSelect.addEventListener("change", update);
  xSelect.addEventListener("change", update);
  update();
})();
