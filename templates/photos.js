const templates = [...document.querySelectorAll(".cards template")];

function choose(number) {
  if (!buttons[number]) return;
  document.body.dataset.shown = buttons[number].dataset.look;
  highlight(number);
}

more.open = card => content.append(templates[cards.indexOf(card)].content.cloneNode(true));
more.c = more["\u314a"] = () => choose((buttons.findIndex(each => each.getAttribute("aria-pressed") === "true") + 1) % buttons.length);
document.getElementById("look").addEventListener("click", more.c);
document.addEventListener("keydown", event => { if (large.open && /^[0-9]$/.test(event.key)) choose(Number(event.key)); });
show();
