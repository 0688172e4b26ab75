"use strict";
// Reads the page again while a study runs, and keeps what its reader has chosen and where they are.
(() => {
  const box = document.getElementById("refresh");
  const fields = [...document.querySelectorAll("input, select")];
  const key = `report of ${location.pathname}`;
  const value = (field) => (field.type === "checkbox" ? field.checked : field.value);
  try {
    const kept = JSON.parse(sessionStorage.getItem(key) || "null");
    if (kept && kept.values.length === fields.length) {
      fields.forEach((field, i) => {
        if (value(field) === kept.values[i]) return;
        if (field.type === "checkbox") field.checked = kept.values[i];
        else field.value = kept.values[i];
        field.dispatchEvent(new Event("input", { bubbles: true }));
        field.dispatchEvent(new Event("change", { bubbles: true }));
      });
      setTimeout(() => scrollTo(0, kept.top), 300);
    }
  } catch { /* a browser that keeps nothing for files */ }
  setInterval(() => {
    if (!box.checked || document.hidden) return;
    try {
      sessionStorage.setItem(key, JSON.stringify({ values: fields.map(value), top: scrollY }));
    } catch { /* as above */ }
    location.reload();
  }, 1000 * Number(box.dataset.seconds));
})();
