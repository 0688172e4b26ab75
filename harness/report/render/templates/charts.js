"use strict";
// Draw the charts in the colours of the page, and the loss curves of the rows that the table shows.
(() => {
  const { curves, charts } = JSON.parse(document.getElementById("data").textContent);
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d"],
  };
  const NARROW = 700; // pixels, width of the window
  const LEGEND_ROW = 20; // pixels
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

  const colour = (name) => (
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
  );
  const withInk = (json) => json.replaceAll('"#000000"', JSON.stringify(colour("ink")));
  const wrapped = (label) => label.replace(/([^]{14,}?)(?=[- :])/g, "$1<br>");

  function draw(name, figure) {
    const plot = document.getElementById(`plot-${name}`);
    const { data, layout, rows } = JSON.parse(withInk(JSON.stringify(figure)));
    const narrow = innerWidth <= NARROW;
    const axis = {
      gridcolor: colour("rule"),
      zerolinecolor: colour("faint"),
      linecolor: colour("faint"),
      automargin: true,
    };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) layout[key] = { ...axis, ...layout[key] };
    }
    for (const trace of data) {
      if (trace.type === "bar") trace.marker.line = { color: colour("faint"), width: 0.7 };
    }
    if (narrow && rows) layout.yaxis.ticktext = layout.yaxis.ticktext.map(wrapped);
    const { grid } = layout; // small multiples: one column on a narrow screen
    if (grid && narrow) Object.assign(grid, { rows: grid.rows * grid.columns, columns: 1 });
    const nLegend = data.filter((trace) => trace.showlegend !== false).length;
    const legendRows = nLegend > 1 ? Math.ceil(nLegend / (narrow ? 1 : 4)) : 0;
    const panelHeight = (narrow ? 300 : 400) * (grid ? grid.rows : 1);
    const plotHeight = rows ? rows * (narrow ? 58 : 26) : panelHeight;
    const legendHeight = legendRows * LEGEND_ROW;
    Object.assign(layout, {
      height: plotHeight + legendHeight + 110,
      margin: { l: 60, r: 15, t: 30, b: 80 + legendHeight, autoexpand: true },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("ink"), family: "system-ui, sans-serif", size: narrow ? 11 : 12 },
      hoverlabel: {
        bgcolor: colour("field"),
        bordercolor: colour("faint"),
        font: { color: colour("ink") },
        namelength: -1,
      },
      legend: {
        orientation: "h",
        x: 0,
        xanchor: "left",
        yref: "container",
        y: 0,
        yanchor: "bottom",
        traceorder: "normal",
      },
      showlegend: nLegend > 1,
      hovermode: "closest",
    });
    return Plotly.react(plot, data, layout, config);
  }

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

  function drawCurves() {
    const available = shown.map(curveTraces).filter((traces) => traces.length);
    const data = available.slice(0, curves.shown).flat();
    curveCount.textContent = available.length <= curves.shown
      ? `${available.length} curves: the rows shown in the table above.`
      : `${curves.shown} of ${available.length} curves: the first rows shown in the table above. `
        + "Sort or filter the table to see others.";
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
    return draw("curves", { data, layout, rows: 0 });
  }

  function drawAll() {
    drawCurves();
    Object.entries(charts).forEach(([name, figure]) => draw(name, figure));
  }

  document.addEventListener("shown", (event) => {
    shown = event.detail;
    drawCurves();
  });
  lossSelect.addEventListener("change", drawCurves);
  xSelect.addEventListener("change", drawCurves);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia(`(max-width: ${NARROW}px)`).addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => {
      details.open = true;
    });
    drawAll();
  });
  addEventListener("afterprint", drawAll);
  drawAll();
})();
