const sections = [...document.querySelectorAll("section.flow")];

function choose(flow) {
  if (!buttons[flow]) return;
  sections.forEach(section => { section.hidden = flow !== 0 && section.dataset.flow !== String(flow); });
  show();
  highlight(flow);
}

choose(0);
