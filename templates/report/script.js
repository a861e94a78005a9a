// Sorting and filtering of the table of cells; everything is readable without it.
"use strict";
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
for (const input of document.querySelectorAll("[data-filter]")) {
  const rows = document.getElementById(input.dataset.filter).tBodies[0].rows;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
for (const table of document.querySelectorAll(".sortable")) {
  const value = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  table.tHead.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].sort((a, b) =>
        value(a, column).localeCompare(value(b, column), "en", { numeric: true }) || 0);
      const numbers = rows.every((row) => value(row, column) === "–" || !isNaN(parseFloat(value(row, column))));
      if (numbers) rows.sort((a, b) => (parseFloat(value(a, column)) || 0) - (parseFloat(value(b, column)) || 0));
      table.tBodies[0].append(...(up ? rows : rows.reverse()));
    });
  });
}
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
