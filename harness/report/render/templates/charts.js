"use strict";
// Draws the charts in the page's colours, again when these change, and the loss curves of the rows that the table shows.
(() => {
  const { curves, charts } = JSON.parse(document.getElementById("data").textContent);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  const NARROW = 700; // pixels, of the window
  const LEGEND_ROW = 20;
  const kind = document.getElementById("kind");
  const against = document.getElementById("against");
  const drawn = document.getElementById("drawn");
  let shown = curves.entries.map((_, i) => i);

  for (const select of [kind, against]) { // a large study leaves some out
    for (const option of [...select.options]) {
      const there = (curve) => (select === kind ? curve[option.value] : Object.values(curve).some((one) => one[option.value]));
      if (option.index && !curves.entries.some((entry) => there(entry.curves))) option.remove();
    }
  }

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const inked = (text) => text.replaceAll('"#000000"', JSON.stringify(colour("ink")));
  const broken = (text) => text.replace(/([^]{14,}?)(?=[- :])/g, "$1<br>");

  function draw(name, figure) {
    const plot = document.getElementById(`plot-${name}`);
    const { data, layout, rows } = JSON.parse(inked(JSON.stringify(figure)));
    const narrow = innerWidth <= NARROW;
    const axis = { gridcolor: colour("rule"), zerolinecolor: colour("faint"), linecolor: colour("faint"), automargin: true };
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key] = { ...axis, ...layout[key] };
    for (const trace of data) if (trace.type === "bar") trace.marker.line = { color: colour("faint"), width: 0.7 };
    if (narrow && rows) layout.yaxis.ticktext = layout.yaxis.ticktext.map(broken);
    const { grid } = layout; // of small multiples: one column on a narrow screen
    if (grid && narrow) Object.assign(grid, { rows: grid.rows * grid.columns, columns: 1 });
    const nLegend = data.filter((trace) => trace.showlegend !== false).length;
    const below = nLegend > 1 ? Math.ceil(nLegend / (narrow ? 1 : 4)) * LEGEND_ROW : 0;
    const inside = rows ? rows * (narrow ? 58 : 26) : (narrow ? 300 : 400) * (grid ? grid.rows : 1);
    Object.assign(layout, {
      height: inside + below + 110,
      margin: { l: 60, r: 15, t: 30, b: 80 + below, autoexpand: true },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("ink"), family: "system-ui, sans-serif", size: narrow ? 11 : 12 },
      hoverlabel: { bgcolor: colour("field"), bordercolor: colour("faint"), font: { color: colour("ink") }, namelength: -1 },
      legend: { orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom", traceorder: "normal" },
      showlegend: nLegend > 1, hovermode: "closest",
    });
    return Plotly.react(plot, data, layout, config);
  }

  function curvesOf(i) {
    const entry = curves.entries[i];
    const curve = entry.curves[kind.value];
    const x = curve && curve[against.value];
    if (!x) return [];
    const same = { x, legendgroup: String(i), name: entry.label, line: { color: entry.colour, dash: entry.dash } };
    const few = x.length <= 12;
    const line = { ...same, y: curve.y, type: "scatter", mode: few ? "lines+markers" : "lines", marker: { symbol: entry.symbol } };
    line.hovertemplate = "%{x:,.6~g}: %{y:.4f}<extra>%{fullData.name}</extra>";
    if (!curve.low) return [line];
    const band = { x: [...x, ...[...x].reverse()], y: [...curve.high, ...[...curve.low].reverse()], type: "scatter", fill: "toself",
      fillcolor: entry.colour, opacity: 0.15, line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
      legendgroup: String(i) };
    return [band, line];
  }

  function drawCurves() {
    const able = shown.map(curvesOf).filter((traces) => traces.length);
    const data = able.slice(0, curves.shown).flat();
    const all = able.length <= curves.shown;
    drawn.textContent = all ? `${able.length} curves: those of the rows that the table above shows.`
      : `${curves.shown} of ${able.length} curves: those of the first rows that the table above shows; sort or filter it to see others.`;
    const late = data.flatMap((trace) => trace.y.slice(0, trace.fill ? 0 : undefined).slice(Math.floor(trace.y.length * 0.1)));
    const low = Math.min(...late), high = Math.max(...late), spare = 0.06 * (high - low) || 0.1;
    const title = against.value === "x" ? "steps" : "training time, s";
    const yaxis = { title: { text: "loss, nats per token" }, ...(late.length && { range: [low - spare, high + spare] }) };
    const layout = { xaxis: { title: { text: title } }, yaxis };
    return draw("curves", { data, layout, rows: 0 });
  }

  function drawAll() {
    drawCurves();
    Object.entries(charts).forEach(([name, figure]) => draw(name, figure));
  }

  document.addEventListener("shown", (event) => { shown = event.detail; drawCurves(); });
  kind.addEventListener("change", drawCurves);
  against.addEventListener("change", drawCurves);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia(`(max-width: ${NARROW}px)`).addEventListener("change", drawAll);
  const folded = [...document.querySelectorAll("details")];
  addEventListener("beforeprint", () => { folded.forEach((one) => { one.open = true; }); drawAll(); });
  addEventListener("afterprint", drawAll);
  drawAll();
})();
