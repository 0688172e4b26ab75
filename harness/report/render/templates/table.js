"use strict";
// Sorts and filters the table of entries, and tells the charts which rows it shows.
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((tr, place) => ({ tr, place, text: tr.textContent.toLowerCase() }));
  const heads = [...table.tHead.rows[0].cells];
  const search = document.getElementById("search");
  const axes = [...document.querySelectorAll("[data-axis]")];
  const count = document.getElementById("count");
  const all = document.getElementById("all-rows");
  const MANY = 500; // rows, beyond which a browser takes seconds to lay them out
  let most = MANY;
  let order = rows;

  const value = (row, column) => {
    const cell = row.tr.cells[column];
    if (cell.dataset.v === undefined) return cell.textContent;
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  };

  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

  function sort(column) {
    const descending = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.map((row) => [value(row, column), row]);
    keyed.sort(([a, one], [b, other]) => {
      if (a === null || b === null) return (a === null) - (b === null) || one.place - other.place; // none comes last
      return (descending ? compare(b, a) : compare(a, b)) || one.place - other.place;
    });
    order = keyed.map(([, row]) => row);
    show();
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = axes.filter((axis) => axis.value).map((axis) => [Number(axis.dataset.axis), axis.value]);
    const shown = order.filter((row) => words.every((word) => row.text.includes(word))
      && chosen.every(([column, level]) => row.tr.cells[column].textContent === level));
    body.replaceChildren(...shown.slice(0, most).map((row) => row.tr));
    all.hidden = shown.length <= most;
    count.textContent = `${shown.length} of ${rows.length} entries` + (all.hidden ? "" : `; the first ${most} rows show`);
    document.dispatchEvent(new CustomEvent("shown", { detail: shown.map((row) => row.place) }));
  }

  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(show, 80); };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sort(column)));
  search.addEventListener("input", soon);
  axes.forEach((axis) => axis.addEventListener("change", show));
  search.form.addEventListener("reset", () => setTimeout(show));
  search.form.addEventListener("submit", (event) => event.preventDefault());
  all.addEventListener("click", () => { most = Infinity; show(); });
  show();
})();
