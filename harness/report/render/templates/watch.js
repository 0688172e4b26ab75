"use strict";
// Reload the page while a study runs, and restore the inputs and the scroll position.
(() => {
  const checkbox = document.getElementById("refresh");
  const fields = [...document.querySelectorAll("input, select")];
  const key = `report of ${location.pathname}`;
  const RESTORE_DELAY_MS = 300; // until the charts have their height
  const value = (field) => (field.type === "checkbox" ? field.checked : field.value);

  function restore(field, saved) {
    if (value(field) === saved) return;
    if (field.type === "checkbox") field.checked = saved;
    else field.value = saved;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }

  try {
    const saved = JSON.parse(sessionStorage.getItem(key) || "null");
    if (saved && saved.values.length === fields.length) {
      fields.forEach((field, i) => restore(field, saved.values[i]));
      setTimeout(() => scrollTo(0, saved.top), RESTORE_DELAY_MS);
    }
  } catch { /* some browsers have no storage for local files */ }

  function save() {
    try {
      const state = { values: fields.map(value), top: scrollY };
      sessionStorage.setItem(key, JSON.stringify(state));
    } catch { /* as above */ }
  }

  setInterval(() => {
    if (!checkbox.checked || document.hidden) return;
    addEventListener("pagehide", save); // the reader may change inputs while the new page loads
    location.reload();
  }, 1000 * Number(checkbox.dataset.seconds));
})();
