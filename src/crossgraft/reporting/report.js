"use strict";
// Tables sort by the heading that is pressed; a second press turns the order round. Without a value: last.
for (const table of document.querySelectorAll("table.numbers")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") === "ascending" ? false
        : head.getAttribute("aria-sort") === "descending" ? true
        : head.dataset.kind === "text";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const number = head.dataset.kind === "number";
      const value = (row) => number ? row.cells[column].dataset.value : row.cells[column].textContent;
      const rows = [...body.rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = number ? a - b : a.localeCompare(b, undefined, { numeric: true });
        return rising ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
// What is folded is printed, too.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
