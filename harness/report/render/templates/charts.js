"use strict";
// Draw each chart in the colours of the page when it comes near the window.
//
// `charts.add(name, make)` registers the chart of `#plot-NAME`; `make()` returns its figure.
// `charts.redraw(name)` draws it again, at once or when it comes near the window.
const charts = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const config = { displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  const NARROW = 700; // pixels, width of the window
  const LEGEND_ROW = 20; // pixels, as all that follow
  const PAPER_WIDTH = 680;
  const PAPER_HEIGHT = 900;
  const NEAR = 600; // distance to the window
  const plots = new Map(); // by name: the element and what makes its figure
  const near = new Set();
  const stale = new Set();
  let onPaper = false;
  let timer = 0;

  const colour = (name) => (
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
  );
  const withInk = (json) => json.replaceAll('"#000000"', JSON.stringify(colour("ink")));
  // Lines end at a space, or after a hyphen within a word, never before a separator.
  const wrapped = (label) => label.replace(/([^]{14,}?)(?: (?![·(])|(?<=\w-)(?=\w))/g, "$1<br>");
  const isNarrow = () => innerWidth <= NARROW && !onPaper;

  // The library is stored as text, so that the page is shown before a browser compiles it.
  function load() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }

  // Return the height of a chart and of its legend.
  function measure({ data: traces, layout, rows, tall = 1 }) {
    const narrow = isNarrow();
    const { grid } = layout;
    const nRows = grid ? grid.rows * (narrow ? grid.columns : 1) : 1;
    const nLegend = traces.filter((trace) => trace.showlegend !== false).length;
    const longest = Math.max(0, ...traces.map(({ name }) => (name || "").length));
    const fitting = Math.max(1, Math.floor((innerWidth - 100) / (45 + 5.5 * longest)));
    const legendRows = nLegend > 1 ? Math.ceil(nLegend / (narrow ? fitting : 4)) : 0;
    const legend = legendRows * LEGEND_ROW;
    const height = rows ? rows * (narrow ? 58 : 26) : nRows * (narrow ? 300 : 400) * tall;
    const total = height + legend + 90;
    return { height: onPaper ? Math.min(total, PAPER_HEIGHT) : total, legend, nLegend };
  }

  function draw(name) {
    load();
    stale.delete(name);
    const { element, make } = plots.get(name);
    const figure = JSON.parse(withInk(JSON.stringify(make())));
    const { layout } = figure;
    const { height, legend, nLegend } = measure(figure);
    const narrow = isNarrow();
    const axis = {
      gridcolor: colour("rule"),
      zerolinecolor: colour("faint"),
      linecolor: colour("faint"),
      automargin: true,
    };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) layout[key] = { ...axis, ...layout[key] };
    }
    for (const trace of figure.data) {
      if (trace.type === "bar") trace.marker.line = { color: colour("faint"), width: 0.7 };
    }
    if (narrow && figure.rows) layout.yaxis.ticktext = layout.yaxis.ticktext.map(wrapped);
    const { grid } = layout; // small multiples: one column on a narrow screen
    if (grid && narrow) {
      Object.assign(grid, { rows: grid.rows * grid.columns, columns: 1 });
      for (const key of Object.keys(layout)) {
        if (key.startsWith("yaxis")) layout[key].showticklabels = true;
      }
    }
    Object.assign(layout, {
      height,
      width: onPaper ? PAPER_WIDTH : undefined,
      autosize: !onPaper,
      margin: { l: 60, r: figure.right || 15, t: 30, b: 60 + legend, autoexpand: true },
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
    Plotly.react(element, figure.data, layout, { ...config, responsive: !onPaper });
  }

  // Draw a chart that is out of date and near the window, then, in another task, the next.
  function drawNext() {
    timer = 0;
    const name = [...stale].find((candidate) => near.has(candidate));
    if (name === undefined) return;
    draw(name);
    drawSoon();
  }

  function drawSoon() {
    if (document.readyState === "loading") return; // the library follows this script
    if (!timer) timer = setTimeout(drawNext);
  }

  // Reserve the height of a chart, so that drawing it moves nothing.
  function reserve(name) {
    const { element, make } = plots.get(name);
    element.style.minHeight = `${measure(make()).height}px`;
  }

  function redraw(name) {
    reserve(name);
    stale.add(name);
    drawSoon();
  }

  const redrawAll = () => [...plots.keys()].forEach(redraw);

  const observer = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) near.add(target.dataset.name);
      else near.delete(target.dataset.name);
    }
    drawSoon();
  }, { rootMargin: `${NEAR}px 0px` });

  function add(name, make) {
    const element = document.getElementById(`plot-${name}`);
    element.dataset.name = name;
    plots.set(name, { element, make });
    redraw(name);
    observer.observe(element);
  }

  document.addEventListener("DOMContentLoaded", drawSoon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  matchMedia(`(max-width: ${NARROW}px)`).addEventListener("change", redrawAll);
  document.addEventListener("paper", ({ detail }) => {
    onPaper = detail;
    redrawAll();
    if (onPaper) [...plots.keys()].forEach(draw); // before the browser takes the picture
  });
  for (const [name, figure] of Object.entries(data.charts)) add(name, () => figure);
  return { add, redraw, data };
})();
