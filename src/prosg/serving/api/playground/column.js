// One column: a choice of memory, and a conversation under it.

import { streamAnswer } from "/playground/api.js";
import { compare, marked, summary } from "/playground/facts.js";

const NAMES = {
  none: "none: the state alone",
  anchor: "anchor",
  update: "update",
  both: "anchor and update",
  auto: "auto",
};

export class Column {
  /** @param root the element that it fills; @param changed is called when there is something to keep */
  constructor(root, memory, changed) {
    this.turns = [];
    this.distance = null;
    this.changed = changed;
    this.select = document.createElement("select");
    this.select.ariaLabel = "Memory";
    this.select.add(new Option(memory, memory));
    this.select.onchange = () => {
      this.wanted = this.select.value;
      changed();
    };
    this.info = document.createElement("span");
    this.info.className = "distance";
    this.list = document.createElement("div");
    this.list.className = "turns";
    this.list.ariaLive = "polite";
    const label = document.createElement("label");
    const caption = document.createElement("span");
    caption.textContent = "Memory";
    label.append(caption, this.select);
    const header = document.createElement("header");
    header.append(label, this.info);
    root.replaceChildren(header, this.list);
    this.wanted = memory;
  }

  /** Offers the memories that the model can have. */
  offer(memories) {
    this.select.replaceChildren(...memories.map((memory) => new Option(NAMES[memory] ?? memory, memory)));
    if (!memories.includes(this.wanted)) this.wanted = memories[0];
    this.select.value = this.wanted;
  }

  toJSON() {
    return { memory: this.wanted, turns: this.turns, distance: this.distance };
  }

  restore({ memory, turns, distance }) {
    this.wanted = memory;
    this.turns = turns;
    this.distance = distance;
    this.list.replaceChildren();
    turns.forEach((turn, index) => {
      const element = this.show(turn.role, turn.content);
      if (turn.role === "assistant") this.annotate(element, turns.slice(0, index), turn);
    });
    this.showDistance();
  }

  clear() {
    this.restore({ memory: this.wanted, turns: [], distance: null });
  }

  show(role, text) {
    const element = document.createElement("p");
    element.className = `turn ${role}`;
    element.textContent = text;
    this.list.append(element);
    this.list.scrollTop = this.list.scrollHeight;
    return element;
  }

  /** Marks what an answer repeats of its prompt, and says it below, with how far away the prompt was. */
  annotate(element, before, turn) {
    const found = compare(before, turn.content);
    const note = document.createElement("small");
    const parts = summary(found);
    if (turn.distance != null) parts.unshift(`${turn.distance.toLocaleString("en")} tokens since the prompt`);
    note.textContent = parts.join(" · ");
    element.replaceChildren(...marked(turn.content, found), note);
    this.list.scrollTop = this.list.scrollHeight;
  }

  showDistance() {
    const bold = document.createElement("b");
    bold.textContent = (this.distance ?? 0).toLocaleString("en");
    this.info.replaceChildren(...(this.distance === null ? [] : [bold, " tokens since the prompt"]));
  }

  /** Sends a question; the conversation stays as it was where there is no answer. */
  async ask(question, system, options, key, signal) {
    const before = this.turns;
    if (system && !before.length) this.turns = [{ role: "system", content: system }];
    this.turns = [...this.turns, { role: "user", content: question }];
    if (this.turns.length > before.length + 1) this.show("system", system);
    this.show("user", question);
    const element = this.show("assistant", "");
    element.classList.add("writing");
    let answer = "";
    try {
      const messages = this.turns.map(({ role, content }) => ({ role, content }));
      const body = { ...options, messages, memory: this.wanted };
      for await (const event of streamAnswer(body, key, signal)) {
        if (event.text) {
          answer += event.text;
          element.textContent = answer;
          this.list.scrollTop = this.list.scrollHeight;
        } else {
          this.distance = event.prosg.distance;
          this.showDistance();
        }
      }
      const turn = { role: "assistant", content: answer.trim() ? answer : "…", distance: this.distance };
      this.annotate(element, this.turns, turn);
      this.turns = [...this.turns, turn];
    } catch (error) {
      this.turns = before;
      element.classList.add("error");
      element.textContent = `${answer}${answer ? "\n" : ""}${signal.aborted ? "stopped" : error.message}`;
    } finally {
      element.classList.remove("writing");
      this.changed();
    }
  }
}
