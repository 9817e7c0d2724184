// A click on a column's name sorts by it, another one turns the order round. Numbers begin with the highest; cells without
// a value stay last. Buttons bring the keyboard with them.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const words = new Intl.Collator(undefined, {numeric: true});
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const turned = {ascending: "descending", descending: "ascending"};
    const order = turned[head.getAttribute("aria-sort")] || first, sign = order === "ascending" ? 1 : -1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const keys = new Map([...body.rows].map(row => {
      const cell = row.cells[column], value = cell.dataset.value;
      return [row, value === undefined ? cell.textContent.trim() : value && Number(value)];
    }));
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      if (typeof a === "number" && typeof b === "number") return sign * (a - b);
      return sign * words.compare(a, b);
    };
    body.append(...[...body.rows].sort((a, b) => compare(keys.get(a), keys.get(b))));
  }));
}
