// Ticked rows make a command to paste: two are compared, more are combined.
const rows = [...document.querySelectorAll("tr[data-pick]")], picked = document.getElementById("picked");
const [line, copy] = picked.children;

rows.forEach(row => {
  const tick = Object.assign(document.createElement("input"), {type: "checkbox", ariaLabel: row.cells[0].textContent.trim()});
  row.cells[0].prepend(tick, " ");
  tick.addEventListener("change", () => {
    const names = rows.filter(each => each.querySelector("input").checked).map(each => each.dataset.pick);
    picked.hidden = names.length < 2;
    line.textContent = `python ${names.length > 2 ? "ensemble.py --models" : "compare.py"} ${names.join(" ")}`;
  });
});
copy.addEventListener("click", () => {
  getSelection().selectAllChildren(line);  // for Ctrl-C, where a page that is a file may not write the clipboard
  navigator.clipboard?.writeText(line.textContent).catch(() => {});
});
