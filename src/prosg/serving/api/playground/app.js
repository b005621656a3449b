// The page: two columns, one question to both, kept in this tab so that a reload goes on.

import { fetchModel } from "/playground/api.js";
import { Column } from "/playground/column.js";

const KEPT = "prosg-playground";
const $ = (id) => document.getElementById(id);
const settings = ["system", "seed", "temperature", "tokens", "key"];
const roots = document.querySelectorAll(".column");
const columns = ["none", "anchor"].map((memory, index) => new Column(roots[index], memory, keep));
let model = null;
let running = null;
let answered = null;
let isNew = true;

function keep() {
  const values = Object.fromEntries(settings.map((id) => [id, $(id).value]));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ values, columns }));
  } catch {
    sessionStorage.removeItem(KEPT); // it is more than a tab may keep
  }
}

/** Takes up what was kept; whether there was something. */
function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT));
    for (const id of settings) $(id).value = kept.values[id] ?? $(id).value;
    columns.forEach((column, index) => column.restore(kept.columns[index]));
    return true;
  } catch {
    sessionStorage.removeItem(KEPT); // nothing was kept, or by another version of this page
    return false;
  }
}

async function connect() {
  try {
    model = await fetchModel($("key").value);
  } catch (error) {
    $("model").textContent = error.message;
    $("settings").open = true;
    return false;
  }
  $("model").textContent = model.id;
  if (isNew && model.memory !== "none") columns[1].wanted = model.memory;
  isNew = false;
  for (const column of columns) column.offer(model.memories);
  return true;
}

async function ask(event) {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const question = $("question").value.trim();
  if (!question || (!model && !(await connect())) || running) return; // it may have been sent again meanwhile
  running = new AbortController();
  $("question").value = "";
  $("send").textContent = "Stop";
  const options = {
    model: model.id,
    seed: Number($("seed").value) || 0,
    temperature: Number($("temperature").value),
    max_tokens: Number($("tokens").value) || 200,
  };
  const system = $("system").value.trim();
  answered = Promise.all(columns.map((column) => column.ask(question, system, options, $("key").value, running.signal)));
  await answered;
  running = null;
  $("send").textContent = "Send";
  $("question").focus();
}

$("ask").addEventListener("submit", ask);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
});
$("reset").addEventListener("click", async () => {
  running?.abort();
  await answered; // columns whose answer was stopped put back the turns before it
  for (const column of columns) column.clear();
  keep();
  $("question").focus();
});
for (const id of settings) $(id).addEventListener("change", keep);
$("key").addEventListener("change", connect);

isNew = !restore();
await connect();
document.body.dataset.ready = String(model !== null);
