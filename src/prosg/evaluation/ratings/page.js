"use strict";
const scales = [...document.querySelectorAll("fieldset")];
const perAnswer = scales.filter((scale) => scale.dataset.letter === scales[0].dataset.letter).length;
const statusLine = document.getElementById("status");
const errorLine = document.getElementById("error");
// Ratings are sent one after the other, so that they are written in the order in which they were given.
let sent = Promise.resolve();
let failures = 0;
let waiting = 0;

const focused = () => scales.indexOf(document.activeElement.closest("fieldset"));
const open = () => scales.filter((scale) => scale.dataset.saved === "");
const input = (scale, value) => scale.querySelector(`input[value="${value}"]`);

function focus(index, options) {
  const scale = scales[index];
  if (scale) (scale.querySelector("input:checked") ?? scale.querySelector("input")).focus(options);
}

// The page shows what is on disk.
function showSaved(scale) {
  for (const radio of scale.querySelectorAll("input")) radio.checked = radio.value === scale.dataset.saved;
}

function save(scale, value) {
  waiting += 1;
  sent = sent.then(() => send(scale, value)).finally(() => (waiting -= 1));
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
      errorLine.textContent = "";
      statusLine.textContent = `${name} of answer ${letter}: ${value}, saved; ` + (left ? `${left} to go` : "all set");
      return;
    }
    reason = content.detail;
  } catch (error) {
    // No reply, or not JSON: reported below.
  }
  showSaved(scale); // the rating that could not be saved is taken back
  failures += 1;
  focus(scales.indexOf(scale));
  statusLine.textContent = "";
  errorLine.textContent = `${name} of answer ${letter} is not saved: ${reason}`;
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
  statusLine.textContent = `${left.length} scales are not set yet`;
}

function handleKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return false;
  const current = focused();
  const steps = { ArrowDown: 1, ArrowUp: -1, ArrowRight: perAnswer, ArrowLeft: -perAnswer };
  if (event.key in steps && current >= 0) {
    focus(current + steps[event.key]);
  } else if (/^[0-5]$/.test(event.key) && current >= 0) {
    if (event.repeat) return true; // a key held down is one rating
    input(scales[current], event.key).checked = true;
    save(scales[current], event.key);
    focus(current + 1 < scales.length ? current + 1 : current);
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
    if (handleKey(event)) event.preventDefault();
  });
  for (const scale of scales) {
    showSaved(scale); // what was clicked before this script ran was not sent
    scale.addEventListener("change", (event) => save(scale, event.target.value));
  }
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      leave(link.href);
    });
  }
  focus(Math.max(0, scales.indexOf(open()[0])), { preventScroll: true }); // the prompt is read first
}
// Ratings that are still to be sent would be lost: the browser asks before it leaves or reloads the page.
addEventListener("beforeunload", (event) => {
  if (waiting) event.preventDefault();
});
// A page that the browser kept may be older than the file.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
