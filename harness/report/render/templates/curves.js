"use strict";
// Draw the loss curves of the rows that the entry table shows, and their differences.
(() => {
  const { curves } = charts.data;
  const FEW_POINTS = 12; // curves with no more points have markers
  const SETTLED = 0.3; // fraction of the curve, at the start, that the axis need not show
  const FAILED = 0.3; // of the decline from the first loss to the lowest
  const MIN_SPAN = 0.01; // nats
  const LABEL_HEIGHT = 15; // pixels, as PANEL_HEIGHT
  const PANEL_HEIGHT = 290;
  const NARROW = "(max-width: 900px)";
  const GREY = "#808080";
  const BASELINE = "#000000";
  const lossSelect = document.getElementById("curve-loss");
  const xSelect = document.getElementById("curve-x");
  const contextSelect = document.getElementById("curve-context");
  const logBox = document.getElementById("curve-log");
  const curveCount = document.getElementById("curve-count");
  let shown = curves.best;

  // Remove the options for which a large study has no data.
  function removeMissing(select, hasData) {
    for (const option of [...select.options].slice(1)) {
      if (!curves.entries.some((entry) => hasData(entry.curves, option.value))) option.remove();
    }
  }
  removeMissing(lossSelect, (byLoss, loss) => byLoss[loss]);
  removeMissing(xSelect, (byLoss, x) => Object.values(byLoss).some((curve) => curve[x]));

  const context = () => (contextSelect ? contextSelect.value : curves.main.length ? "main" : "all");

  // Return the indices of the entries to draw: one of each candidate of the shown rows, or all.
  function chosen() {
    const mode = context();
    if (mode === "all") return shown;
    const candidates = [...new Set(shown.map((i) => curves.entries[i].candidate))];
    if (mode === "main") return candidates.map((candidate) => curves.main[candidate]);
    return candidates.map((candidate) => curves.entries.findIndex((entry) => (
      entry.candidate === candidate && entry.context === Number(mode)
    ))).filter((i) => i >= 0);
  }

  const isFaint = (i, indices) => (
    indices.indexOf(i) >= curves.named && !curves.entries[i].is_baseline
  );
  const nameOf = (i) => curves.entries[i][context() === "all" ? "label" : "name"];
  const pointsOf = (i) => curves.entries[i].curves[lossSelect.value];
  const available = () => chosen().filter((i) => pointsOf(i) && pointsOf(i)[xSelect.value]);

  const drawn = () => available().slice(0, curves.shown);

  // Return the traces of a curve: its band, if it has one, and the line.
  function traces(i, points, x, faint, isDifference) {
    const entry = curves.entries[i];
    const place = isDifference ? { yaxis: "y2", xaxis: "x" } : { yaxis: "y", xaxis: "x" };
    const digits = isDifference ? "+.4f" : ".4f";
    const name = nameOf(i);
    const colour = faint ? GREY : entry.colour;
    const range = points.low && points.y.map((_, k) => (
      points.low[k] === null ? "" : `<br>${points.low[k]} to ${points.high[k]}`
    ));
    const line = {
      ...place,
      type: "scatter",
      x,
      y: points.y,
      text: range,
      name,
      legendgroup: String(i),
      mode: x.length <= FEW_POINTS && !faint ? "lines+markers" : "lines",
      line: { color: colour, dash: entry.dash, width: faint ? 1 : entry.is_baseline ? 3.5 : 2 },
      opacity: faint ? 0.5 : 1,
      marker: { symbol: entry.symbol, size: 5 },
      hovertemplate: `%{x:,.6~g}: %{y:${digits}}%{text}<extra>%{fullData.name}</extra>`,
      showlegend: !isDifference && !faint,
    };
    if (!points.low || faint) return [line];
    const known = points.y.map((_, k) => k).filter((k) => points.low[k] !== null);
    const back = [...known].reverse();
    const band = {
      ...place,
      type: "scatter",
      x: [...known.map((k) => x[k]), ...back.map((k) => x[k])],
      y: [...known.map((k) => points.high[k]), ...back.map((k) => points.low[k])],
      legendgroup: String(i),
      mode: "lines",
      line: { width: 0 },
      fill: "toself",
      fillcolor: colour,
      opacity: isDifference ? 0.18 : 0.14,
      hoverinfo: "skip",
      showlegend: false,
    };
    return [band, line];
  }

  // Return the running median of a curve, which a short spike does not change.
  function withoutSpikes(values) {
    const half = Math.max(1, Math.floor(values.length / 16));
    return values.map((value, k) => {
      if (k === values.length - 1 || values.length < 3) return value;
      const near = [];
      for (let j = k - half; j <= k + half; j += 1) {
        near.push(values[Math.min(Math.max(j, 0), values.length - 1)]);
      }
      return near.sort((a, b) => a - b)[half];
    });
  }

  function late(points, values) {
    const { x } = points;
    const found = withoutSpikes(values.filter((value) => value !== null));
    const start = x.findIndex((value) => value >= SETTLED * x[x.length - 1]);
    return found.length - start < 2 ? found : found.slice(start);
  }

  // Return the limits that show the ends of the curves; failed runs and spikes are beyond them.
  function lossRange(all) {
    const ends = all.map(({ y }) => y[y.length - 1]);
    const best = Math.min(...ends);
    const first = Math.max(...all.map(({ y }) => y[0]));
    const limit = best + FAILED * Math.max(first - best, MIN_SPAN);
    const learned = all.filter((_, k) => ends[k] <= limit);
    let low = Math.min(...learned.flatMap((points) => late(points, points.low || points.y)));
    const high = Math.max(...learned.flatMap((points) => late(points, points.high || points.y)));
    const space = Math.max(high - low, MIN_SPAN);
    if (curves.floor !== null && low - space < curves.floor && curves.floor < low) low = curves.floor;
    return [low - 0.09 * space, high + 0.04 * space];
  }

  function differenceRange(all) {
    const values = all.flatMap((points) => late(points, points.y));
    let low = Math.min(0, ...values);
    let high = Math.max(0, ...values);
    const span = Math.max(high - low, MIN_SPAN);
    const lows = all.map(({ low: ends }) => (ends ? ends[ends.length - 1] : 0));
    const highs = all.map(({ high: ends }) => (ends ? ends[ends.length - 1] : 0));
    if (curves.margin !== null) {
      lows.push(-curves.margin);
      highs.push(curves.margin);
    }
    low = Math.min(low, ...lows.map((end) => Math.max(end, low - span)));
    high = Math.max(high, ...highs.map((end) => Math.min(end, high + span)));
    const space = 0.06 * (high - low);
    return [low - space, high + space];
  }

  // Return triangles at the edge where curves are beyond the limits, but not before they enter.
  function marksBeyond(indices, all, range, yaxis) {
    const marks = [];
    indices.forEach((i, k) => {
      const { x, y } = all[k];
      let within = false;
      y.forEach((value, j) => {
        const isBeyond = value !== null && (value > range[1] || value < range[0]);
        within = within || (value !== null && !isBeyond);
        const isPeak = !(Math.abs(y[j - 1]) > Math.abs(value)) && !(Math.abs(y[j + 1]) > Math.abs(value));
        if (isBeyond && ((within && isPeak) || (!within && j === y.length - 1))) {
          marks.push({ x: x[j], side: value > range[1] ? 1 : 0, colour: curves.entries[i].colour, value });
        }
      });
    });
    if (!marks.length) return [];
    return [{
      type: "scatter",
      mode: "markers",
      xaxis: "x",
      yaxis,
      x: marks.map((mark) => mark.x),
      y: marks.map((mark) => range[mark.side]),
      text: marks.map((mark) => mark.value.toFixed(4)),
      marker: {
        symbol: marks.map((mark) => (mark.side ? "triangle-up" : "triangle-down")),
        color: marks.map((mark) => mark.colour),
        size: 9,
      },
      cliponaxis: false,
      hovertemplate: "beyond the axis: %{text}<extra></extra>",
      showlegend: false,
    }];
  }

  const across = (y, ref) => ({
    type: "line", layer: "below", xref: "paper", x0: 0, x1: 1, yref: ref, y0: y, y1: y,
    line: { color: BASELINE, width: 1, dash: "dot" },
  });
  const note = (text, ref, y, yanchor) => ({
    text, xref: "paper", x: 0, xanchor: "left", yref: ref, y, yanchor, showarrow: false,
    font: { size: 11 },
  });

  // Return the names and last values of curves at their ends, without overlap.
  function endLabels(indices, all, range, ref, height, digits) {
    const gap = (LABEL_HEIGHT / height) * (range[1] - range[0]);
    const labels = indices.map((i, k) => ({ i, y: all[k].y[all[k].y.length - 1] }))
      .filter(({ i, y }) => y !== null && !isFaint(i, drawn()))
      .map((label) => ({ ...label, place: Math.min(Math.max(label.y, range[0]), range[1]) }))
      .sort((a, b) => a.place - b.place);
    labels.forEach((label, k) => {
      if (k) label.place = Math.max(label.place, labels[k - 1].place + gap);
    });
    let limit = range[1];
    for (const label of [...labels].reverse()) {
      label.place = Math.min(label.place, limit);
      limit = label.place - gap;
    }
    return labels.map(({ i, y, place }) => ({
      text: `${nameOf(i)}  <b>${digits(y)}</b>`,
      font: { size: 11 },
      xref: "paper",
      x: 1,
      xanchor: "left",
      xshift: 12,
      yref: ref,
      y: place,
      yanchor: "middle",
      align: "left",
      showarrow: false,
    }));
  }

  function makeFigure() {
    const indices = drawn();
    const time = xSelect.value === "time";
    const isLog = logBox.checked;
    const losses = indices.map((i) => ({ ...pointsOf(i), x: pointsOf(i)[xSelect.value] }));
    const different = lossSelect.value === "validation" && !time
      ? indices.filter((i) => curves.entries[i].difference) : [];
    const differences = different.map((i) => curves.entries[i].difference);
    // the named curves are drawn last, the baseline above all
    const order = (list) => list.map((_, k) => k).reverse();
    let data = [];
    for (const k of order(indices)) data.push(...traces(indices[k], losses[k], losses[k].x, isFaint(indices[k], indices), false));
    for (const k of order(different)) {
      data.push(...traces(different[k], differences[k], differences[k].x, isFaint(different[k], indices), true));
    }
    const shapes = [];
    const annotations = [];
    const xaxis = {
      title: { text: time ? "training time, s" : curves.unit },
      type: isLog ? "log" : "linear",
      anchor: different.length ? "y2" : "y",
    };
    const layout = { xaxis, shapes, annotations };
    const isWide = !matchMedia(NARROW).matches;
    const height = different.length ? PANEL_HEIGHT : 2 * PANEL_HEIGHT;
    const minus = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(4)}`;
    layout.yaxis = { title: { text: lossSelect.value === "training" ? "loss, nats per token" : curves.y } };
    if (losses.length) {
      layout.yaxis.range = lossRange(losses);
      data.push(...marksBeyond(indices, losses, layout.yaxis.range, "y"));
      const { range } = layout.yaxis;
      const digits = (value) => value.toFixed(4);
      if (isWide) annotations.push(...endLabels(indices, losses, range, "y", height, digits));
      const ends = losses.flatMap(({ x }) => x.filter((value) => value > 0));
      const first = Math.min(...ends);
      const last = Math.max(...ends);
      xaxis.range = isLog ? [Math.log10(first), Math.log10(last)] : [0, last];
    }
    if (curves.floor !== null && losses.length && lossSelect.value === "validation") {
      const [low, high] = layout.yaxis.range;
      const text = `corpus entropy: ${curves.floor.toFixed(3)}`;
      if (curves.floor >= low && curves.floor <= high) {
        shapes.push(across(curves.floor, "y"));
        annotations.push(note(text, "y", curves.floor, "bottom"));
      } else annotations.push(note(`${text}, ${curves.floor < low ? "below" : "above"} this axis`, "y", low, "bottom"));
    }
    if (different.length) {
      layout.yaxis.domain = [0.56, 1];
      layout.yaxis2 = {
        title: { text: curves.difference },
        domain: [0, 0.46],
        range: differenceRange(differences),
      };
      shapes.push(across(0, "y2"));
      if (curves.margin !== null) {
        shapes.push({
          type: "rect", layer: "below", xref: "paper", x0: 0, x1: 1, yref: "y2",
          y0: -curves.margin, y1: curves.margin, fillcolor: "rgba(128,128,128,0.2)",
          line: { width: 0 },
        });
      }
      const { range } = layout.yaxis2;
      data.push(...marksBeyond(different, differences, range, "y2"));
      if (isWide) annotations.push(...endLabels(different, differences, range, "y2", height, minus));
      annotations.push({
        ...note("<b>Minus the baseline, paired by seed</b>", "y2 domain", 1, "bottom"),
        font: { size: 12 },
      });
    }
    // In the order of the table, and not of drawing.
    const rank = new Map(indices.map((i, k) => [String(i), k]));
    data.forEach((trace) => { trace.legendrank = 1000 + (rank.get(trace.legendgroup) ?? 0); });
    const longest = Math.max(0, ...indices.filter((i) => !isFaint(i, indices))
      .map((i) => nameOf(i).length));
    const right = isWide ? Math.min(80 + 6.4 * longest, innerWidth / 3) : 15;
    return { data, layout, rows: 0, right, tall: different.length ? 1.7 : 1.1 };
  }

  function update() {
    const n = available().length;
    const kind = context() === "all" ? "entries" : "candidates";
    curveCount.textContent = n <= curves.shown
      ? `${n} curves: the ${kind} of the rows shown in the table above.`
      : `${curves.shown} of ${n} curves: the ${kind} of the first rows shown in the table above. `
        + "Sort or filter the table to see others.";
    if (Math.min(n, curves.shown) > curves.named) {
      curveCount.textContent += ` The first ${curves.named} are in colour, the others grey.`;
    }
    charts.redraw("curves");
  }

  charts.add("curves", makeFigure);
  document.addEventListener("shown", (event) => {
    shown = event.detail;
    update();
  });
  for (const control of [lossSelect, xSelect, contextSelect, logBox]) {
    if (control) control.addEventListener("change", update);
  }
  update();
})();
