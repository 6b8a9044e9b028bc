"use strict";
// The theme: that of the system, until the button is pressed; nothing is stored.
{
  const dark = document.getElementById("dark"), button = document.getElementById("theme");
  const media = { auto: dark.media, light: "not all", dark: "screen" };
  const names = Object.keys(media);
  let now = 0;
  const show = () => {
    dark.media = media[names[now]];
    button.textContent = `Theme: ${names[now]}`;
  };
  button.hidden = false;
  button.addEventListener("click", () => { now = (now + 1) % names.length; show(); });
  show();
}

// The contents: folded on narrow screens, and marked where the reader is.
{
  const narrow = matchMedia("(max-width: 60rem)"), contents = document.querySelector(".contents");
  const fold = () => { contents.firstElementChild.open = !narrow.matches; };
  if (contents) {
    fold();
    narrow.addEventListener("change", fold);
    const links = new Map([...contents.querySelectorAll("a")].map((a) => [a.hash.slice(1), a]));
    contents.addEventListener("click", (e) => { if (e.target.hash && narrow.matches) fold(); });
    const watch = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) {
        if (isIntersecting) here.add(target);
        else here.delete(target);
      }
      mark();
    }, { rootMargin: "-10% 0px -75%" });
    const sections = [...document.querySelectorAll("main > section[id]")], here = new Set();
    const mark = () => {
      // The last section may be too short to get to the top.
      const end = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
      const marked = end ? new Set(sections.slice(-1)) : here;
      for (const section of sections) {
        const link = links.get(encodeURIComponent(section.id)) ?? links.get(section.id);
        if (marked.has(section)) link?.setAttribute("aria-current", "true");
        else link?.removeAttribute("aria-current");
      }
    };
    sections.forEach((section) => watch.observe(section));
    addEventListener("scroll", mark, { passive: true });
  }
  addEventListener("beforeprint", () => {
    document.querySelectorAll("main details").forEach((details) => { details.open = true; });
    document.querySelectorAll("img[loading]").forEach((image) => { image.loading = "eager"; });
  });
}

// Sorting: numbers by the value at their start, as in "0.979 [0.966, 0.988]"; empty cells last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const severity = { FAIL: 0, WARN: 1, PASS: 2 };
  const read = (row, column) => {
    const text = row.cells[column].textContent.trim();
    if (text in severity) return severity[text];
    const start = /^[+\-\u2212]?[\d,]*\.?\d+(e[+-]?\d+)?/i.exec(text);
    return start ? Number(start[0].replaceAll(",", "").replace("\u2212", "-")) : text;
  };
  const sort = (column, sign) => {
    const keyed = [...body.rows].map((row) => [read(row, column), row]);
    const empty = ([key]) => key === "" || key === "-";
    keyed.sort((a, b) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      if (typeof a[0] === "number" && typeof b[0] === "number") return sign * (a[0] - b[0]);
      return sign * String(a[0]).localeCompare(String(b[0]), "en", { numeric: true });
    });
    body.append(...keyed.map(([, row]) => row));
  };
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(column, ascending ? 1 : -1);
    });
  });
}

// Images open large; arrow keys go through the gallery, and Escape closes.
{
  const viewer = document.createElement("dialog");
  viewer.className = "viewer";
  viewer.setAttribute("aria-label", "Image");
  const [bar, picture, caption] = ["div", "img", "p"].map((tag) => document.createElement(tag));
  const [previous, next, close] = ["Previous", "Next", "Close"].map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    return button;
  });
  bar.append(previous, next, close);
  viewer.append(bar, picture, caption);
  caption.setAttribute("aria-live", "polite");
  let shown = [], at = 0;
  const show = (place) => {
    at = (place + shown.length) % shown.length;
    const image = shown[at].querySelector("img");
    picture.src = image.src;
    picture.alt = image.alt;
    const more = [...(shown[at].closest("figure")?.querySelectorAll("figcaption > *") ?? [])];
    const lines = more.map((line) => line.textContent).filter((text) => !image.alt.includes(text));
    caption.textContent = [image.alt, ...lines].join("\n");
  };
  previous.addEventListener("click", () => show(at - 1));
  next.addEventListener("click", () => show(at + 1));
  close.addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowLeft") show(at - 1);
    if (key === "ArrowRight") show(at + 1);
  });
  viewer.addEventListener("close", () => { viewer.remove(); shown[at].focus(); });
  document.addEventListener("click", ({ target }) => {
    const opener = target.closest?.(".zoom");
    if (!opener) return;
    shown = [...(opener.closest(".gallery") ?? opener.parentElement).querySelectorAll(".zoom")];
    previous.hidden = next.hidden = shown.length < 2;
    show(shown.indexOf(opener));
    document.body.append(viewer);  // only while open: an empty image has no source
    viewer.showModal();
    close.focus();
  });
}
