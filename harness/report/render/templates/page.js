"use strict";
// Mark the current section in the list of sections, and prepare the page for paper: open what is
// folded, and announce it to the charts.
(() => {
  const menu = document.getElementById("menu");
  const links = [...menu.querySelectorAll("a")];
  const NEAR_TOP = 120; // pixels
  const wide = matchMedia("(min-width: 75rem)"); // the list is a side bar, which is always open
  const openIfWide = () => {
    menu.open = wide.matches;
  };
  openIfWide();
  wide.addEventListener("change", openIfWide);
  menu.addEventListener("click", (event) => {
    if (event.target.closest("a")) openIfWide();
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || wide.matches) return;
    menu.open = false;
    menu.firstElementChild.focus();
  });

  // The current section is the last that starts above or near the top of the window.
  function markCurrent() {
    const targets = links.map((link) => document.querySelector(link.hash));
    const isAtEnd = scrollY > 0 && scrollY + innerHeight >= document.body.scrollHeight - 2;
    const current = isAtEnd ? links.length - 1 : targets.findLastIndex((target) => (
      target && target.getBoundingClientRect().top < NEAR_TOP
    ));
    links.forEach((link, i) => {
      if (i === Math.max(current, 0)) link.setAttribute("aria-current", "location");
      else link.removeAttribute("aria-current");
    });
  }
  let frame = 0;
  function markSoon() {
    if (!frame) {
      frame = requestAnimationFrame(() => {
        frame = 0;
        markCurrent();
      });
    }
  }
  addEventListener("scroll", markSoon, { passive: true });
  addEventListener("resize", markSoon);
  document.addEventListener("DOMContentLoaded", markSoon);

  let opened = [];
  let onPaper = false;

  // A browser may announce a print by an event, by a media query, or by both.
  function toPaper() {
    if (onPaper) return;
    onPaper = true;
    opened = [...document.querySelectorAll("main details:not([open])")];
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
