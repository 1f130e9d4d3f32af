"use strict";

// Parts of the page, which playground.js puts together.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function show(cell, alt) {
  return cell.picture
    ? element("img", { src: cell.picture, alt })
    : element("span", { className: "said", textContent: cell.text });
}

function figure(cell, caption, alt, first = false) {
  return element(
    "figure",
    { className: first ? "first" : "" },
    show(cell, alt),
    element("figcaption", { textContent: caption }),
  );
}

function meter(value, max, label) {
  const made = element("meter", { min: 0, max, value });
  made.setAttribute("aria-label", label);
  return made;
}
