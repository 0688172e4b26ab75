"use strict";
// Write a table as CSV, Markdown or LaTeX.
//
// `columns` are { name, title, numeric }; `rows` are lists of { text, value } in their order. The
// value of a numeric cell is unrounded: a number, [value, low, high] or null.
const tableFormats = (() => {
  const FORMULA = /^[=+\-@\t\r]/; // a spreadsheet would compute such a cell
  const oneLine = (text) => text.replace(/\s+/g, " ").trim();

  const csvText = (text) => {
    const safe = FORMULA.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csvNumber = (value) => (value === null || value === undefined ? "" : String(value));

  // Numbers are unrounded; a column with intervals has two more for their ends.
  function csv(columns, rows) {
    const spread = columns.map((_, i) => rows.some((row) => Array.isArray(row[i].value)));
    const head = columns.flatMap(({ name }, i) => (
      spread[i] ? [name, `${name}_low`, `${name}_high`] : [name]
    ));
    const lines = rows.map((row) => row.flatMap(({ text, value }, i) => {
      if (!columns[i].numeric) return [csvText(oneLine(text))];
      const values = [value].flat();
      return (spread[i] ? [0, 1, 2] : [0]).map((k) => csvNumber(values[k]));
    }));
    return [head.map(csvText), ...lines].map((line) => `${line.join(",")}\r\n`).join("");
  }

  const markdownText = (text) => (
    oneLine(text).replace(/[\\`*_~|[\]<>&$#]/g, (mark) => (
      { "<": "&lt;", ">": "&gt;", "&": "&amp;" }[mark] || `\\${mark}`
    ))
  );

  function markdown(columns, rows) {
    const lines = [
      columns.map(({ title }) => markdownText(title)),
      columns.map(({ numeric }) => (numeric ? "---:" : "---")),
      ...rows.map((row) => row.map(({ text }) => markdownText(text))),
    ];
    return lines.map((line) => `| ${line.join(" | ")} |\n`).join("");
  }

  const LATEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
    "±": "$\\pm$", "×": "$\\times$", "·": "$\\cdot$", "÷": "$\\div$", "−": "$-$", "–": "--",
    "≤": "$\\leq$", "≥": "$\\geq$",
  };
  const latexText = (text) => {
    const escaped = oneLine(text)
      .replace(/[\\~^<>|±×·÷−–≤≥&%$#_{}]/g, (mark) => LATEX[mark] || `\\${mark}`)
      .replace(/(^|[ [(])-(?=\d)/g, "$1$$-$$");
    return /^[[*]/.test(escaped) ? `{}${escaped}` : escaped; // these are arguments of a line break
  };

  function latex(columns, rows) {
    const line = (cells) => `${cells.join(" & ")} \\\\`;
    return [
      `\\begin{tabular}{${columns.map(({ numeric }) => (numeric ? "r" : "l")).join("")}}`,
      "\\hline",
      line(columns.map(({ title }) => latexText(title))),
      "\\hline",
      ...rows.map((row) => line(row.map(({ text }) => latexText(text)))),
      "\\hline",
      "\\end{tabular}",
      "",
    ].join("\n");
  }

  return { csv, markdown, latex };
})();
