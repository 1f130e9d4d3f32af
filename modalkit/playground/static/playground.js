"use strict";

// The page sends a new request whenever the user ticks, chooses or types something.
// This script keeps which modalities are known, and in which order the user added them.

const UNREACHABLE = "The server does not answer. Is it still running?";

const byId = (id) => document.getElementById(id);
const modalities = [...document.querySelectorAll(".modality")].map((box) => ({
  box,
  number: box.dataset.number,
  name: box.dataset.name,
  form: box.dataset.form,
  known: box.querySelector(".known"),
  want: box.querySelector(".want"),
  own: byId(`own-${box.dataset.number}`),
  preview: byId(`preview-${box.dataset.number}`),
  source: byId(`source-${box.dataset.number}`),
  isOwn: false,
  truth: null, // its value in the chosen row
}));
let order = []; // the known modalities, in the order in which they were ticked
let row = null; // the chosen row, while the question is about it
let choice = 0; // counts rows and uploads, so that a row that arrives after a later choice is dropped
let seed = 0;
let loc = [];
let z = [];

// Questions

function values(modality) {
  if (modality.form === "picture") return modality.own.files.length ? [modality.own.files[0]] : [];
  if (modality.form === "flags") {
    const ticked = [...modality.own.querySelectorAll(":checked")].map((box) => box.value);
    return ticked.length ? ticked : [""];
  }
  return [modality.own.value];
}

function question() {
  const form = new FormData();
  for (const modality of order) {
    form.append("known", modality.number);
    if (modality.isOwn) for (const value of values(modality)) form.append(`value-${modality.number}`, value);
  }
  for (const modality of modalities) if (modality.want?.checked) form.append("want", modality.number);
  if (row !== null) form.append("row", row);
  form.append("seed", seed);
  return form;
}

function asker(address, busy) {
  // Only the latest request matters; earlier ones are aborted. Where an answer fails, an older one must not remain.
  let running = null;
  const send = async (form) => {
    running?.abort();
    const mine = (running = new AbortController());
    busy?.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(address, { method: "POST", body: form, signal: mine.signal });
      const said = await response.json().catch(() => ({}));
      if (mine.signal.aborted) return null; // it was aborted while the body arrived
      if (!said.predictions) throw new Error(said.error || `The server could not answer (${response.status}).`);
      byId("error").hidden = true;
      return said;
    } catch (error) {
      if (error.name === "AbortError") return null;
      fail(error instanceof TypeError ? UNREACHABLE : error.message);
      return null;
    } finally {
      if (running === mine) busy?.setAttribute("aria-busy", "false");
    }
  };
  return { send, stop: () => running?.abort() };
}

const askAnswer = asker("answer", byId("answer"));
const askWalk = asker("walk");

async function ask() {
  askWalk.stop(); // it is of the question before
  const said = await askAnswer.send(question());
  if (said === null) return;
  const given = order.map((modality) => modality.name).join(", ") || "nothing";
  const wanted = said.predictions.map((one) => one.name).join(", ") || "nothing is wanted";
  byId("status").textContent = `${wanted}, given ${given} · ${said.seconds.toFixed(2)} s`;
  for (const modality of modalities) {
    const seen = said.seen[modality.number];
    if (seen?.picture && modality.isOwn) modality.preview.replaceChildren(show(seen, `${modality.name}, as the model sees it`));
  }
  byId("answer").replaceChildren(...said.predictions.map(prediction));
  sharpening(said.steps);
  loc = said.loc;
  z = [...loc];
  sliders(said.dimensions);
  walk();
}

let waiting = 0;
function askSoon(wait = 0) {
  clearTimeout(waiting);
  waiting = setTimeout(ask, wait);
}

async function walk() {
  const form = question();
  form.append("z", JSON.stringify(z));
  form.delete("want"); // a walk shows all modalities
  for (const modality of modalities) if (modality.want) form.append("want", modality.number);
  const said = await askWalk.send(form);
  if (said === null) return;
  byId("walked").replaceChildren(
    ...said.predictions.map((one) => figure(one.value, one.name, `${one.name} decoded from this point`, true)),
  );
}

// Answers

function fail(message) {
  byId("error").textContent = message;
  byId("error").hidden = false;
  clearAnswers();
}

function clearAnswers() {
  for (const asked of [askAnswer, askWalk]) asked.stop(); // what has not arrived is of the same question
  byId("status").textContent = "";
  for (const id of ["answer", "steps", "sliders", "walked"]) byId(id).replaceChildren();
}

function prediction(one) {
  const modality = modalities.find((other) => other.name === one.name);
  const pictures = Boolean(one.value.picture);
  const cells = [figure(one.value, pictures ? "mean" : "predicted", `${one.name}, predicted mean`, true)];
  const ofRow = modality.truth && !order.some((known) => known.isOwn); // the question is about the chosen row
  if (ofRow) cells.unshift(figure(modality.truth, "truth", `${one.name}, the truth`, true));
  one.samples.forEach((sample, i) => cells.push(figure(sample, `sample ${i + 1}`, `${one.name}, sample ${i + 1}`)));
  const title = element("h3", { textContent: one.name }, element("small", { textContent: one.sure }));
  const classes = element("dl", { className: "classes" });
  for (const [name, probability] of one.classes) {
    classes.append(
      element("dt", { textContent: name }),
      element("dd", {}, meter(probability, 1, `probability of ${name}`), probability.toFixed(3)),
    );
  }
  const line = element("div", { className: pictures ? "line" : "line texts" }, ...cells);
  return element("div", { className: "prediction" }, title, ...(one.classes.length ? [classes] : []), line);
}

function sharpening(steps) {
  const most = Math.max(1, ...steps.map((step) => step.kl ?? 0));
  const measure = (value, digits, max, label) =>
    value === null
      ? element("td", { className: "quiet", textContent: "no posterior of these" })
      : element("td", {}, element("div", { className: "measure" }, value.toFixed(digits), meter(value, max, label)));
  byId("steps").replaceChildren(
    ...steps.map((step) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", textContent: step.added === null ? "nothing: the prior" : `+ ${step.added}` }),
        measure(step.scale, 3, 1, "mean scale"),
        measure(step.kl, 1, most, "KL to the prior"),
      ),
    ),
  );
}

function sliders(dimensions) {
  byId("sliders").replaceChildren(
    ...dimensions.map((one) => {
      const id = `z-${one.dimension}`;
      const reach = Math.max(4, Math.ceil(Math.abs(one.loc) + 1));
      const output = element("span", { className: "at", textContent: one.loc.toFixed(2), ariaHidden: "true" });
      const input = element("input", { id, type: "range", min: -reach, max: reach, step: 0.05 });
      input.value = one.loc;
      input.addEventListener("input", () => {
        z[one.dimension] = Number(input.value);
        output.textContent = Number(input.value).toFixed(2);
        walk();
      });
      const about = element("small", { textContent: ` KL ${one.kl.toFixed(2)}, scale ${one.scale.toFixed(2)}` });
      const label = element("label", { htmlFor: id, textContent: `z${one.dimension}` }, about);
      return element("div", { className: "slider" }, label, output, input);
    }),
  );
}

// Known values

function know(modality, known) {
  modality.known.checked = known;
  order = order.filter((one) => one !== modality);
  if (known) order.push(modality);
}

function owned(modality) {
  modality.isOwn = true;
  modality.source.textContent = "your own value";
  if (modality.form !== "picture") modality.preview.replaceChildren();
}

function startAnew() {
  // An upload shows another thing than the chosen row, whose values and answers do not belong to it.
  choice += 1;
  row = null;
  for (const radio of document.querySelectorAll(".strip input")) radio.checked = false;
  for (const modality of modalities) {
    modality.truth = null;
    if (!modality.isOwn) forget(modality);
  }
  clearAnswers();
}

function forget(modality) {
  know(modality, false);
  modality.isOwn = false;
  modality.source.textContent = "";
  modality.preview.replaceChildren();
  if (modality.form === "picture" || modality.form === "text") modality.own.value = "";
  if (modality.form === "choice") modality.own.selectedIndex = 0;
  if (modality.form === "flags") for (const box of modality.own.querySelectorAll("input")) box.checked = false;
}

function fromRow(modality, cell, key) {
  modality.isOwn = false;
  modality.truth = cell;
  modality.source.textContent = cell ? `row ${key}` : `absent in row ${key}`;
  modality.preview.replaceChildren(...(cell?.picture ? [show(cell, `${modality.name} of row ${key}`)] : []));
  if (modality.form === "picture") modality.own.value = "";
  if (!cell?.text) return;
  if (modality.form === "text") modality.own.value = cell.text;
  if (modality.form === "choice") {
    for (const option of modality.own.options) if (option.textContent === cell.text) modality.own.value = option.value;
  }
  if (modality.form === "flags") {
    const set = cell.text.split(", ");
    for (const label of modality.own.children) {
      label.querySelector("input").checked = set.includes(label.querySelector("span").textContent);
    }
  }
}

async function chooseRow(chosen, key, first) {
  const mine = (choice += 1);
  const response = await fetch(`rows/${chosen}`).catch(() => null);
  const { cells } = (await response?.json().catch(() => null)) ?? {};
  if (mine !== choice) return;
  if (!cells) return fail(UNREACHABLE);
  row = chosen;
  modalities.forEach((modality, i) => {
    fromRow(modality, cells[i], key);
    if (!cells[i]) know(modality, false);
  });
  if (!order.length) {
    const there = modalities.filter((modality) => modality.truth);
    const opening = (role) => there.find((modality) => first && modality.box.dataset.first === role);
    const known = opening("known") ?? there.find((modality) => "alone" in modality.box.dataset) ?? there[0];
    if (known) know(known, true);
    if (opening("known") && opening("want")) opening("want").want.checked = true;
  }
  if (!modalities.some((modality) => modality.want?.checked)) wantTheRest();
  ask();
}

function wantTheRest() {
  for (const modality of modalities) if (modality.want) modality.want.checked = !modality.known.checked;
}

for (const modality of modalities) {
  modality.known.addEventListener("change", () => {
    const missing = { picture: "upload a picture first", none: "choose a held-out row first" }[modality.form];
    if (modality.known.checked && !modality.isOwn && !modality.truth) {
      if (missing) {
        modality.known.checked = false;
        modality.source.textContent = missing;
        modality.own?.focus();
        return;
      }
      owned(modality);
    }
    know(modality, modality.known.checked);
    askSoon();
  });
  modality.want?.addEventListener("change", () => askSoon());
  modality.own?.addEventListener(modality.form === "text" ? "input" : "change", () => {
    if (modality.form === "picture" && !modality.own.files.length) {
      forget(modality); // the user took the upload back
      return askSoon();
    }
    owned(modality);
    if (modality.form === "picture") {
      modality.preview.replaceChildren(); // the answer shows how the model sees it
      startAnew();
      know(modality, true);
      if (!modalities.some((other) => other.want?.checked && !other.known.checked)) wantTheRest();
    }
    if (!modality.known.checked) know(modality, true);
    askSoon(modality.form === "text" ? 300 : 0);
  });
}
for (const radio of document.querySelectorAll(".strip input")) {
  radio.addEventListener("change", () => chooseRow(radio.value, radio.closest("label").title, false));
}
byId("question").addEventListener("submit", (event) => event.preventDefault());
byId("again").addEventListener("click", () => {
  seed += 1;
  ask();
});
byId("home").addEventListener("click", () => {
  z = [...loc];
  for (const slider of document.querySelectorAll(".slider")) {
    const input = slider.querySelector("input");
    input.value = loc[Number(input.id.slice(2))];
    slider.querySelector(".at").textContent = Number(input.value).toFixed(2);
  }
  walk();
});

const start = document.querySelector(".strip input[data-start]");
if (start) {
  start.checked = true;
  chooseRow(start.value, start.closest("label").title, true);
} else {
  wantTheRest();
  ask();
}
