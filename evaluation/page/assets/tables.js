// The per-patient table: a click on a header sorts, words in the box filter, chips show measures.
"use strict";
(() => {
  const table = document.getElementById("patients-table");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const box = document.getElementById("patients-filter");
  const counter = document.getElementById("patients-count");

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.v === undefined) return cell.textContent;
    return cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
  };

  const sortBy = (column) => {
    const rising = heads[column].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head, place) =>
      head.setAttribute("aria-sort", place !== column ? "none" : rising ? "ascending" : "descending"));
    const order = new Map(rows.map((row, place) => [row, place]));
    const sorted = [...body.rows].sort((first, second) => {
      const [a, b] = [valueOf(first, column), valueOf(second, column)];
      let found;
      if (typeof a === "string") found = a.localeCompare(b, "en", {numeric: true});
      else if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      else found = a === b ? 0 : a < b ? -1 : 1;
      return (rising ? found : -found) || order.get(first) - order.get(second);
    });
    body.append(...sorted);
  };

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(column));
  });

  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const named = [...row.cells].filter((cell) => cell.classList.contains("text"));
      const text = named.map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    counter.textContent = `${shown} of ${rows.length} rows`;
  };
  box.addEventListener("input", filter);
  filter();

  const show = (family, visible) => {
    heads.forEach((head, column) => {
      if (head.dataset.family !== family) return;
      head.hidden = !visible;
      for (const row of rows) row.cells[column].hidden = !visible;
    });
  };
  for (const chip of document.querySelectorAll("#patients-measures button")) {
    show(chip.dataset.family, chip.getAttribute("aria-pressed") === "true");
    chip.addEventListener("click", () => {
      const pressed = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(pressed));
      show(chip.dataset.family, pressed);
    });
  }
})();
