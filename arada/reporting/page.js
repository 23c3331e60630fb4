"use strict";
// Without this script the page shows the same, in the order in which it was written.

// Headings sort: ascending, descending, as written. What has no number stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  table.closest("section").querySelector(".downloads").prepend("Headings sort. ");
  const body = table.tBodies[0], written = [...body.rows], headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = {none: "ascending", ascending: "descending", descending: "none"};
      const order = next[heading.getAttribute("aria-sort") ?? "none"];
      headings.forEach(other => other.removeAttribute("aria-sort"));
      if (order !== "none") heading.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const sorted = order === "none" ? written : [...written].sort((a, b) => compare(a.cells[column], b.cells[column], sign));
      body.append(...sorted);
    });
  });
}

function compare(a, b, sign) {
  const [x, y] = [a, b].map(cell => cell.dataset.number);
  // Numbers, then text, then what was not run.
  const [of_x, of_y] = [x, y].map(number => number === undefined ? 1 : number === "" ? 2 : 0);
  if (of_x !== of_y || of_x === 2) return of_x - of_y;
  return sign * (of_x ? a.textContent.localeCompare(b.textContent, undefined, {numeric: true}) : x - y);
}

// Figures can be kept as files that follow the reader's light or dark setting by themselves.
for (const svg of document.querySelectorAll("figure > svg")) {
  const button = document.createElement("button");
  button.textContent = "Save as SVG";
  button.setAttribute("aria-label", `Save as SVG: ${svg.querySelector("title").textContent}`);
  button.addEventListener("click", () => {
    const copy = svg.cloneNode(true), style = document.createElementNS("http://www.w3.org/2000/svg", "style");
    style.textContent = "svg{color:#24292f}@media (prefers-color-scheme:dark){svg{color:#e6edf3}}";
    copy.prepend(style);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], {type: "image/svg+xml"}));
    link.download = `${svg.dataset.name}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  svg.after(button);
}

// A table that is wider than the page says so: a line above it, and a shadow where it goes on.
for (const box of document.querySelectorAll(".scroll")) {
  const line = document.createElement("p");
  line.className = "more";
  box.before(line);
  const update = () => {
    const hidden = box.scrollWidth - box.clientWidth, left = Math.round(box.scrollLeft);
    box.classList.toggle("more-left", left > 0);
    box.classList.toggle("more-right", left < hidden - 1);
    line.textContent = hidden > 1 ? "Scroll the table sideways: more columns →" : "";
  };
  box.addEventListener("scroll", update);
  new ResizeObserver(update).observe(box);
  update();
}
