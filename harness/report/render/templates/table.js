"use strict";
// Sort and filter the entry table, and send the charts the rows that it shows.
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((tr, index) => (
    { tr, index, text: tr.textContent.toLowerCase() }
  ));
  const heads = [...table.tHead.rows[0].cells];
  const search = document.getElementById("search");
  const axes = [...document.querySelectorAll("[data-axis]")];
  const count = document.getElementById("count");
  const showAll = document.getElementById("all-rows");
  const MAX_ROWS = 500; // a browser takes seconds to lay out more
  const SEARCH_DELAY_MS = 80;
  let maxRows = MAX_ROWS;
  let order = rows;

  const sortKey = (row, column) => {
    const cell = row.tr.cells[column];
    if (cell.dataset.v === undefined) return cell.textContent;
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  };

  const compare = (a, b) => (
    typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true })
  );

  function sort(column) {
    const descending = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.map((row) => [sortKey(row, column), row]);
    keyed.sort(([a, rowA], [b, rowB]) => {
      const tie = rowA.index - rowB.index;
      if (a === null || b === null) return (a === null) - (b === null) || tie; // no value: last
      return (descending ? compare(b, a) : compare(a, b)) || tie;
    });
    order = keyed.map(([, row]) => row);
    show();
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = axes.filter((axis) => axis.value)
      .map((axis) => [Number(axis.dataset.axis), axis.value]);
    const matches = (row) => words.every((word) => row.text.includes(word))
      && chosen.every(([column, label]) => row.tr.cells[column].textContent === label);
    const shown = order.filter(matches);
    body.replaceChildren(...shown.slice(0, maxRows).map((row) => row.tr));
    showAll.hidden = shown.length <= maxRows;
    count.textContent = `${shown.length} of ${rows.length} entries`
      + (showAll.hidden ? "" : `; the first ${maxRows} are shown`);
    const indices = shown.map((row) => row.index);
    document.dispatchEvent(new CustomEvent("shown", { detail: indices }));
  }

  let timer = 0;
  const showSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(show, SEARCH_DELAY_MS);
  };
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => sort(column));
  });
  search.addEventListener("input", showSoon);
  axes.forEach((axis) => axis.addEventListener("change", show));
  search.form.addEventListener("reset", () => setTimeout(show));
  search.form.addEventListener("submit", (event) => event.preventDefault());
  showAll.addEventListener("click", () => {
    maxRows = Infinity;
    show();
  });
  show();
})();
