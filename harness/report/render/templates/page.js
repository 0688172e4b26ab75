"use strict";
// Prepare the page for paper: open what is folded, and announce it to the charts.
(() => {
  let opened = [];
  let onPaper = false;

  // A browser may announce a print by an event, by a media query, or by both.
  function toPaper() {
    if (onPaper) return;
    onPaper = true;
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
    document.documentElement.classList.add("paper");
    document.dispatchEvent(new CustomEvent("paper", { detail: true }));
  }

  function toScreen() {
    if (!onPaper) return;
    onPaper = false;
    for (const details of opened) details.open = false;
    document.documentElement.classList.remove("paper");
    document.dispatchEvent(new CustomEvent("paper", { detail: false }));
  }

  addEventListener("beforeprint", toPaper);
  addEventListener("afterprint", toScreen);
  matchMedia("print").addEventListener("change", (query) => {
    if (query.matches) toPaper();
    else toScreen();
  });
})();
