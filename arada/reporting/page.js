"use strict";
// The page is complete without this script, which adds sorting, saving and hints.

// Clicking a heading sorts: ascending, descending, original order. Cells without a number stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  table.closest("section").querySelector(".downloads").prepend("Click a heading to sort. ");
  const body = table.tBodies[0], original = [...body.rows], headings = [...table.tHead.rows[0].cells];
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
      const sorted = order === "none" ? original : [...original].sort((a, b) => compare(a.cells[column], b.cells[column], sign));
      body.append(...sorted);
    });
  });
}

function compare(a, b, sign) {
  const [x, y] = [a, b].map(cell => cell.dataset.number);
  // Numbers, then text, then missing values.
  const [kind_x, kind_y] = [x, y].map(number => number === undefined ? 1 : number === "" ? 2 : 0);
  if (kind_x !== kind_y || kind_x === 2) return kind_x - kind_y;
  return sign * (kind_x ? a.textContent.localeCompare(b.textContent, undefined, {numeric: true}) : x - y);
}

// A figure can be saved as a file that follows the reader's light or dark setting.
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

// A table wider than the page gets a line above it, and a shadow at the edge where it continues.
for (const box of document.querySelectorAll(".scroll")) {
  const line = document.createElement("p");
  line.className = "more";
  box.before(line);
  const update = () => {
    const hidden = box.scrollWidth - box.clientWidth, left = Math.round(box.scrollLeft);
    box.classList.toggle("more-left", left > 0);
    box.classList.toggle("more-right", left < hidden - 1);
    line.textContent = hidden > 1 ? "Scroll sideways for more columns →" : "";
  };
  box.addEventListener("scroll", update);
  new ResizeObserver(update).observe(box);
  update();
}
