const [truth, fold, least, person] = ["truth", "fold", "least", "person"].map(id => document.getElementById(id));
const strips = new Map([...document.querySelectorAll("template[data-person]")].map(each => [each.dataset.person, each]));
let flow = "";

function filter() {
  const wanted = person.value.trim().toLowerCase();
  cards.forEach(card => {
    const own = card.dataset;
    card.hidden = (flow && own.flow !== flow) || (truth.value && own.truth !== truth.value) || (fold.value && own.fold !== fold.value)
      || Number(own.confidence) < Number(least.value) || !own.person.toLowerCase().includes(wanted);
  });
  show();
}

function choose(number) {
  if (!buttons[number]) return;
  flow = buttons[number].dataset.flow;
  filter();
  highlight(number);
}

more.open = card => content.append(strips.get(card.dataset.person).content.cloneNode(true));
more.c = more["\u314a"] = () => document.body.classList.toggle("plain");
document.getElementById("heat")?.addEventListener("click", more.c);
[truth, fold, least, person].forEach(each => each.addEventListener("input", filter));
document.querySelectorAll("[data-find]").forEach(each => each.addEventListener("click", () => {
  person.value = each.dataset.find;
  choose(0);
  document.getElementById("images").scrollIntoView();
}));
filter();
