"use strict";
// Sort, filter, expand and copy the table, choose its columns, and announce the rows that it shows.
(() => {
  const MAX_ROWS = 500; // candidates that are laid out; a browser takes seconds for more
  const MAX_CARDS = 24; // the same on a narrow screen, where each takes half its height
  const SEARCH_DELAY_MS = 80;
  const STORAGE_KEY = `columns of ${location.pathname}`;
  const element = (id) => document.getElementById(id);
  const table = element("table");
  const body = table.tBodies[0];
  const data = JSON.parse(element("table-data").textContent);
  const heads = [...table.tHead.rows[0].cells];
  const search = element("search");
  const sortSelect = element("sort");
  const axes = [...document.querySelectorAll("[data-axis]")];
  const checkboxes = [...document.querySelectorAll("[data-column]")];
  const count = element("count");
  const showAll = element("all-rows");
  const expandAll = element("expand-all");
  const narrow = matchMedia("(max-width: 40rem)");
  let maxRows = narrow.matches ? MAX_CARDS : MAX_ROWS;

  // A row of a candidate has those of its contexts.
  const rows = [];
  [...body.rows].forEach((tr, position) => {
    const row = { tr, position, contexts: [], expanded: false };
    if (tr.className === "context") rows.at(-1).contexts.push(row);
    else rows.push(row);
  });
  const textOf = (row) => row.tr.textContent.toLowerCase();
  for (const row of rows) row.text = [row, ...row.contexts].map(textOf).join(" ");
  let order = rows;

  // -- sorting ----------------------------------------------------------------------------------

  function sortKey(row, column) {
    const { values, ranks } = data.columns[column];
    if (values) return [values[row.position]].flat()[0];
    if (ranks) return ranks[row.position];
    const text = row.tr.cells[column].textContent;
    return text === "–" ? null : text;
  }

  const compare = (a, b) => (
    typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true })
  );

  // Sort by a column, or with null as the page began: best first.
  function sort(column, descending) {
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    sortSelect.value = column === null ? "" : String(column);
    order = rows;
    if (column !== null) {
      heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
      const keyed = rows.map((row) => [sortKey(row, column), row]);
      keyed.sort(([a, rowA], [b, rowB]) => {
        const tie = rowA.position - rowB.position;
        if (a === null || b === null) return (a === null) - (b === null) || tie; // no value: last
        return (descending ? compare(b, a) : compare(a, b)) || tie;
      });
      order = keyed.map(([, row]) => row);
    }
    show();
  }

  // The first click sorts ascending, the second descending, the third as the page began.
  function nextSort(column) {
    const state = heads[column].getAttribute("aria-sort");
    sort(state === "descending" ? null : column, state === "ascending");
  }

  // -- rows -------------------------------------------------------------------------------------

  // Return the candidates that match, each with the rows of its contexts to show.
  function matching() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = axes.filter((axis) => axis.value)
      .map((axis) => [Number(axis.dataset.axis), axis.value]);
    const hasLabels = (row) => (
      chosen.every(([column, label]) => row.tr.cells[column].textContent === label)
    );
    const found = [];
    for (const row of order) {
      const parts = row.contexts.length ? row.contexts.filter(hasLabels) : [row].filter(hasLabels);
      if (!parts.length || !words.every((word) => row.text.includes(word))) continue;
      const isNarrowed = row.contexts.length > 0 && parts.length < row.contexts.length;
      const isOpen = row.expanded || isNarrowed;
      found.push({ row, isOpen, parts, contexts: isOpen && row.contexts.length ? parts : [] });
    }
    return found;
  }

  // A table that is laid out as cards keeps its roles for screen readers.
  function setRoles(trs) {
    const role = (item, name) => {
      if (narrow.matches) item.setAttribute("role", name);
      else item.removeAttribute("role");
    };
    role(table, "table");
    role(body, "rowgroup");
    for (const tr of trs) {
      role(tr, "row");
      for (const cell of tr.cells) role(cell, cell.tagName === "TH" ? "rowheader" : "cell");
    }
  }

  function show() {
    const found = matching();
    const laidOut = found.slice(0, maxRows);
    const trs = laidOut.flatMap(({ row, contexts }) => [row, ...contexts].map(({ tr }) => tr));
    for (const { row, isOpen } of laidOut) {
      const button = row.contexts.length && row.tr.querySelector("button");
      if (button) button.setAttribute("aria-expanded", String(isOpen));
    }
    const { activeElement } = document;
    body.replaceChildren(...trs);
    if (body.contains(activeElement)) activeElement.focus({ preventScroll: true });
    setRoles(trs);
    showAll.hidden = found.length <= maxRows;
    count.textContent = `${found.length} of ${rows.length} candidates`
      + (showAll.hidden ? "" : `; the first ${maxRows} are shown`);
    const indices = found.flatMap(({ parts }) => (
      parts.map((part) => data.entries[part.position])
    ));
    document.dispatchEvent(new CustomEvent("shown", { detail: indices }));
  }

  let timer = 0;
  const showSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(show, SEARCH_DELAY_MS);
  };

  body.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const row = button && rows.find(({ tr }) => tr.contains(button));
    if (!row) return;
    row.expanded = button.getAttribute("aria-expanded") !== "true";
    show();
  });
  if (expandAll) {
    expandAll.addEventListener("click", () => {
      const expanded = expandAll.getAttribute("aria-pressed") !== "true";
      expandAll.setAttribute("aria-pressed", String(expanded));
      for (const row of rows) row.expanded = expanded;
      show();
    });
  }
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => nextSort(column));
  });
  sortSelect.addEventListener("change", () => {
    sort(sortSelect.value === "" ? null : Number(sortSelect.value), false);
  });
  search.addEventListener("input", showSoon);
  axes.forEach((axis) => axis.addEventListener("change", show));
  search.form.addEventListener("reset", () => setTimeout(() => sort(null)));
  search.form.addEventListener("submit", (event) => event.preventDefault());
  showAll.firstElementChild.addEventListener("click", () => {
    maxRows = Infinity;
    show();
  });
  narrow.addEventListener("change", show);

  // -- columns ----------------------------------------------------------------------------------

  const columnOf = (checkbox) => Number(checkbox.dataset.column);
  const nameOf = (checkbox) => data.columns[columnOf(checkbox)].name;

  function hideColumns() {
    element("hidden-columns").textContent = checkboxes
      .filter((checkbox) => !checkbox.checked)
      .map((checkbox) => `#table tr > :nth-child(${columnOf(checkbox) + 1}) { display: none; }`)
      .join("\n");
  }

  // Some browsers have no storage for local files.
  function remember() {
    const changed = checkboxes.filter((checkbox) => checkbox.checked !== checkbox.defaultChecked);
    const choice = Object.fromEntries(changed.map((item) => [nameOf(item), item.checked]));
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(choice));
    } catch { /* the choice lasts as long as the page */ }
  }

  function recall() {
    try {
      const choice = JSON.parse(localStorage.getItem(STORAGE_KEY)) || {};
      for (const checkbox of checkboxes) {
        const isShown = choice[nameOf(checkbox)];
        if (typeof isShown === "boolean") checkbox.checked = isShown;
      }
    } catch { /* the default columns */ }
  }

  const columnsChanged = () => {
    hideColumns();
    remember();
  };
  checkboxes.forEach((checkbox) => checkbox.addEventListener("change", columnsChanged));
  const columnForm = document.querySelector("#columns form");
  columnForm.addEventListener("reset", () => setTimeout(columnsChanged));
  columnForm.addEventListener("submit", (event) => event.preventDefault());

  // -- copying ----------------------------------------------------------------------------------

  // Return the columns and the rows that are shown, those beyond the laid out ones included.
  function shownTable() {
    const shown = [0, ...checkboxes.filter((checkbox) => checkbox.checked).map(columnOf)];
    const columns = shown.map((i) => ({ ...data.columns[i], numeric: !!data.columns[i].values }));
    const nameOfRow = (row) => row.tr.cells[0].firstElementChild.textContent;
    const cells = (row, name) => shown.map((i) => ({
      text: i === 0 ? name : row.tr.cells[i].textContent,
      value: data.columns[i].values ? data.columns[i].values[row.position] : null,
    }));
    const lines = [];
    for (const { row, contexts } of matching()) {
      const name = nameOfRow(row);
      lines.push(cells(row, name));
      for (const part of contexts) lines.push(cells(part, `${name} · ${nameOfRow(part)}`));
    }
    return { columns, lines };
  }

  async function copy(button) {
    const { columns, lines } = shownTable();
    const text = tableFormats[button.dataset.format](columns, lines);
    const status = element("copied");
    const field = element("to-copy");
    status.hidden = false;
    try {
      await navigator.clipboard.writeText(text);
      field.hidden = true;
      status.textContent = `Copied ${lines.length} rows.`;
    } catch { // a browser may have no clipboard for local files
      field.hidden = false;
      const area = field.querySelector("textarea");
      area.value = text;
      area.select();
      status.textContent = `${lines.length} rows, selected below.`;
    }
  }
  for (const button of document.querySelectorAll("[data-format]")) {
    button.addEventListener("click", () => copy(button));
  }

  document.documentElement.classList.add("scripted");
  recall();
  hideColumns();
  show();
})();
