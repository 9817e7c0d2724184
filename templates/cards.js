// A grid of cards with a large view, for keys and mouse. The page's own script has choose(number), and `more`: what its other keys
// and a card that opens do. Letters also as a Korean keyboard writes them.
const cards = [...document.querySelectorAll(".card")], buttons = [...document.querySelectorAll(".flows button")];
const shown = document.getElementById("shown"), large = document.getElementById("large"), content = document.getElementById("content");
const steps = {j: 1, k: -1, "\u3153": 1, "\u314f": -1, ArrowRight: 1, ArrowLeft: -1};
const more = {};
let current = null;

const visible = () => cards.filter(card => !card.closest("[hidden]"));

function reach(card) {  // Tab reaches one card, keys move from there
  cards.forEach(other => { other.tabIndex = other === card ? 0 : -1; });
}

function show() {  // after other cards were hidden than before
  current = null;
  reach(visible()[0]);
  shown.textContent = `{{ _("${visible().length} of ${cards.length} images shown") }}`;
}

function highlight(flow) {
  buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === flow)));
  const top = document.getElementById("images");
  if (top.getBoundingClientRect().top < 0) top.scrollIntoView();
}

function open(card) {
  current = card;
  content.replaceChildren(...[...card.childNodes].map(node => node.cloneNode(true)));
  more.open?.(card);
  if (!large.open) large.showModal();
}

function go(card) {
  if (!card) return;
  current = card;
  reach(card);
  if (large.open) { open(card); return; }
  card.focus();
  card.scrollIntoView({block: "nearest"});
}

function shut() {  // back to the card that was looked at last, not to the one that was opened first
  const card = current;
  large.close();
  go(card);
}

function move(step) {
  const list = visible(), at = list.indexOf(current);
  go(at < 0 ? list[0] : list[Math.min(Math.max(at + step, 0), list.length - 1)]);
}

function moveRow(direction) {  // to the nearest card of the next row
  const from = current.getBoundingClientRect(), places = visible().map(card => [card, card.getBoundingClientRect()]);
  const ahead = places.filter(([, place]) => direction * (place.top - from.top) > 1);
  const far = ([, place]) => 1e5 * Math.abs(place.top - from.top) + Math.abs(place.left - from.left);
  if (ahead.length) go(ahead.reduce((best, each) => far(each) < far(best) ? each : best)[0]);
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(".scroll, input, select")) return;
  const on = document.activeElement.closest(".card"), key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const row = {ArrowDown: 1, ArrowUp: -1}[key];
  if (key in steps) move(steps[key]);
  else if (row && large.open) move(row);
  else if (row && on) moveRow(row);
  else if (/^[0-9]$/.test(key) && !large.open) choose(Number(key));
  else if (key === "Enter" && on) open(on);
  else if (key === "Escape" && large.open) shut();
  else if (key in more) more[key]();
  else return;
  event.preventDefault();
});
cards.forEach(card => {
  card.addEventListener("click", () => open(card));
  card.addEventListener("focus", () => { current = card; reach(card); });
});
buttons.forEach((button, index) => button.addEventListener("click", () => choose(index)));
large.addEventListener("cancel", event => { event.preventDefault(); shut(); });
large.addEventListener("click", event => { if (event.target === large) shut(); });
document.getElementById("previous").addEventListener("click", () => move(-1));
document.getElementById("next").addEventListener("click", () => move(1));
document.getElementById("close").addEventListener("click", shut);
