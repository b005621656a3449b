"use strict";
const scales = [...document.querySelectorAll("fieldset")];
const perAnswer = scales.filter((one) => one.dataset.letter === scales[0].dataset.letter).length;
const told = document.getElementById("status");
const wrong = document.getElementById("error");
// Ratings are sent one after the other, so that they are written in the order in which they were given.
let sent = Promise.resolve();
let failures = 0;

const focused = () => scales.indexOf(document.activeElement.closest("fieldset"));
const open = () => scales.filter((one) => one.dataset.saved === "");
const input = (scale, value) => scale.querySelector(`input[value="${value}"]`);

function focus(place, options) {
  const scale = scales[place];
  if (scale) (scale.querySelector("input:checked") ?? scale.querySelector("input")).focus(options);
}

function save(scale, value) {
  sent = sent.then(() => send(scale, value));
}

async function send(scale, value) {
  const { letter, scale: name } = scale.dataset;
  const rating = { token: document.body.dataset.token, letter, scale: name, value: Number(value) };
  let reason = "the server does not answer; start prosg rate again, what was saved is safe";
  try {
    const reply = await fetch("/rate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(rating),
    });
    const content = await reply.json();
    if (reply.ok) {
      scale.dataset.saved = value;
      document.getElementById("finished").textContent = content.finished;
      document.getElementById("bar").value = content.finished;
      const left = open().length;
      wrong.textContent = "";
      told.textContent = `${name} of answer ${letter}: ${value}, saved; ` + (left ? `${left} to go` : "all set");
      return;
    }
    reason = content.detail;
  } catch (error) {
    // No reply, or none of ours: said below.
  }
  // The page shows what is on the disk: the rating that could not be saved goes.
  for (const one of scale.querySelectorAll("input")) one.checked = one.value === scale.dataset.saved;
  failures += 1;
  focus(scales.indexOf(scale));
  told.textContent = "";
  wrong.textContent = `${name} of answer ${letter} is not saved: ${reason}`;
}

async function leave(address) {
  const before = failures;
  await sent;
  if (failures === before) location.href = address;
}

async function next() {
  const before = failures;
  await sent;
  if (failures > before) return;
  const left = open();
  if (!left.length) return leave(document.getElementById("next").href);
  focus(scales.indexOf(left[0]));
  told.textContent = `${left.length} scales are not set yet`;
}

function act(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return false;
  const here = focused();
  const steps = { ArrowDown: 1, ArrowUp: -1, ArrowRight: perAnswer, ArrowLeft: -perAnswer };
  if (event.key in steps && here >= 0) {
    focus(here + steps[event.key]);
  } else if (/^[0-5]$/.test(event.key) && here >= 0) {
    if (event.repeat) return true; // a key held down is one rating
    input(scales[here], event.key).checked = true;
    save(scales[here], event.key);
    focus(here + 1 < scales.length ? here + 1 : here);
  } else if (event.key === "Enter" && !event.target.closest("a")) {
    if (!event.repeat) next();
  } else if (event.key.toLowerCase() === "b" && document.getElementById("back")) {
    leave(document.getElementById("back").href);
  } else {
    return false;
  }
  return true;
}

if (scales.length) {
  document.addEventListener("keydown", (event) => {
    if (act(event)) event.preventDefault();
  });
  for (const scale of scales) scale.addEventListener("change", (event) => save(scale, event.target.value));
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      leave(link.href);
    });
  }
  focus(Math.max(0, scales.indexOf(open()[0])), { preventScroll: true }); // the prompt is read first
}
// A page that the browser kept may be older than the file.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
