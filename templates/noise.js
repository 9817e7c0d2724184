// Letters also as a Korean keyboard writes them. What was decided outlives a reload where the browser lets it.
const cards = [...document.querySelectorAll(".card")], sections = [...document.querySelectorAll("section[data-part]")];
const filters = [...document.querySelectorAll("[data-filter]")], list = document.getElementById("accepted");
const save = document.getElementById("save"), count = document.getElementById("count");
const steps = {j: 1, k: -1, "\u3153": 1, "\u314f": -1, ArrowRight: 1, ArrowLeft: -1};
const verdicts = {a: "1", u: "0.5", r: "0", "\u3141": "1", "\u3155": "0.5", "\u3131": "0"};  // and their confidence in the csv
const others = {{ others|tojson }};  // lines that were decided and have no card
let marks = Object.fromEntries(cards.filter(card => card.dataset.mark).map(card => [card.dataset.fix, card.dataset.mark]));
const decided = Object.keys(marks).length || others.length ? JSON.stringify([marks, others]) : "";
const place = "label noise " + location.pathname + decided;
let current = null, address = null;

const visible = () => cards.filter(card => !card.closest("section").hidden && !card.closest("details:not([open])"));

function update() {
  const taken = cards.filter(card => card.dataset.fix in marks).map(card => [card.dataset.fix, marks[card.dataset.fix]]);
  const [accepted, unsure, right] = ["1", "0.5", "0"].map(mark => taken.filter(([, each]) => each === mark).length);
  list.value = ["path,column,value,confidence", ...taken, ...others].join("\n") + "\n";
  count.textContent = `{{ _("${accepted} accepted, ${unsure} unsure, ${right} right") }}`;
  if (address) URL.revokeObjectURL(address);
  address = save.href = URL.createObjectURL(new Blob([list.value], {type: "text/csv"}));
}

function show(card) {
  const mark = marks[card.dataset.fix] ?? "";
  card.dataset.mark = mark;
  card.querySelectorAll("button").forEach(button => button.setAttribute("aria-pressed", String(button.dataset.mark === mark)));
}

function decide(card, mark) {  // the same again takes it back
  if (!card?.dataset.fix) return;
  if (marks[card.dataset.fix] === mark) delete marks[card.dataset.fix]; else marks[card.dataset.fix] = mark;
  show(card);
  update();
  try { localStorage.setItem(place, JSON.stringify(marks)); } catch {}
}

function choose(index) {
  const wanted = filters[index];
  if (!wanted) return;
  filters.forEach(each => each.setAttribute("aria-pressed", String(each === wanted)));
  sections.forEach(each => { each.hidden = !["", each.dataset.part].includes(wanted.dataset.filter); });
  current = null;
}

function move(step) {
  const shown = visible(), at = shown.indexOf(current);
  const card = at < 0 ? shown[0] : shown[Math.min(Math.max(at + step, 0), shown.length - 1)];
  if (!card) return;
  current = card;
  card.focus({preventScroll: true});
  card.scrollIntoView({block: "center"});
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("textarea, .scroll")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in steps) move(steps[key]);
  else if (key in verdicts) decide(current, verdicts[key]);
  else if (/^[0-9]$/.test(key)) choose(Number(key));
  else return;
  event.preventDefault();
});
cards.forEach(card => {
  card.addEventListener("focusin", () => { current = card; });
  card.querySelectorAll("button").forEach(button => button.addEventListener("click", () => decide(card, button.dataset.mark)));
});
filters.forEach((each, index) => each.addEventListener("click", () => choose(index)));
try {
  const kept = JSON.parse(localStorage.getItem(place));  // a list of what was accepted, where an older page left it
  if (kept) marks = Array.isArray(kept) ? Object.fromEntries(kept.map(fix => [fix, "1"])) : kept;
} catch {}
cards.forEach(show);
update();
