// Letters also as a Korean keyboard writes them. What was accepted outlives a reload where the browser lets it.
const cards = [...document.querySelectorAll(".card")], sections = [...document.querySelectorAll("section[data-part]")];
const filters = [...document.querySelectorAll("[data-filter]")], list = document.getElementById("accepted");
const save = document.getElementById("save"), count = document.getElementById("count");
const steps = {j: 1, k: -1, "\u3153": 1, "\u314f": -1, ArrowRight: 1, ArrowLeft: -1};
const place = "label noise " + location.pathname;
let current = null, address = null;

const visible = () => cards.filter(card => !card.closest("section").hidden && !card.closest("details:not([open])"));

function update() {
  const taken = cards.filter(card => "accepted" in card.dataset).map(card => card.dataset.fix);
  list.value = ["path,column,value,confidence", ...taken.map(line => line + ",1")].join("\n") + "\n";
  count.textContent = `{{ _("${taken.length} accepted") }}`;
  if (address) URL.revokeObjectURL(address);
  address = save.href = URL.createObjectURL(new Blob([list.value], {type: "text/csv"}));
  try { localStorage.setItem(place, JSON.stringify(taken)); } catch {}
}

function mark(card, on) {
  if (on) card.dataset.accepted = ""; else delete card.dataset.accepted;
  const button = card.querySelector(".accept");
  button.setAttribute("aria-pressed", String(on));
  button.textContent = on ? "{{ _("Accepted") }}" : "{{ _("Accept") }}";
}

function toggle(card) {
  if (!card || !card.dataset.fix) return;
  mark(card, !("accepted" in card.dataset));
  update();
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
  else if (key === "a" || key === "\u3141") toggle(current);
  else if (/^[0-9]$/.test(key)) choose(Number(key));
  else return;
  event.preventDefault();
});
cards.forEach(card => {
  card.addEventListener("focusin", () => { current = card; });
  card.querySelector(".accept")?.addEventListener("click", () => toggle(card));
});
filters.forEach((each, index) => each.addEventListener("click", () => choose(index)));
try {
  const kept = new Set(JSON.parse(localStorage.getItem(place) || "[]"));
  cards.filter(card => kept.has(card.dataset.fix)).forEach(card => mark(card, true));
} catch {}
update();
