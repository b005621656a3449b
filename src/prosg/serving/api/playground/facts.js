// What of its prompt an answer repeats, word for word: numbers and names. Nothing else can be told without knowing what
// was asked; an answer that was not asked for them need not have them.

const NUMBER = /\d{2,}/g;
const NAME = /(?<=[\p{L}\p{N},;] )\p{Lu}\p{Ll}+/gu; // within a sentence: at its beginning every word has a capital
const LONG_NUMBER = /\d{4,}/g;

const unique = (text, pattern) => [...new Set(text.match(pattern) ?? [])];
const words = (text) => new Set(text.match(/\d+|\p{L}+/gu) ?? []);

/** What of a prompt can be found again. */
export function factsOf(prompt) {
  return [...unique(prompt, NUMBER), ...unique(prompt, NAME)];
}

/**
 * Which facts an answer has, and which it has not; and its long numbers that no turn before it has.
 * @param turns the turns before it, the first of which is the prompt
 */
export function compare(turns, answer) {
  const there = words(answer);
  const said = new Set(turns.flatMap((turn) => [...words(turn.content)]));
  const facts = factsOf(turns[0]?.content ?? "");
  return {
    repeated: facts.filter((fact) => there.has(fact)),
    missing: facts.filter((fact) => !there.has(fact)),
    invented: unique(answer, LONG_NUMBER).filter((number) => !said.has(number)),
  };
}

/** An answer as nodes, in which what it repeats and what it invents is marked. */
export function marked(answer, { repeated, invented }) {
  return answer.split(/(\d+|\p{L}+)/u).map((part) => {
    const kind = invented.includes(part) ? "invented" : repeated.includes(part) ? "repeated" : "";
    if (!kind) return part;
    const mark = document.createElement("mark");
    mark.className = kind;
    mark.textContent = part;
    return mark;
  });
}

/** The same in words. */
export function summary({ repeated, missing, invented }) {
  const parts = [
    [repeated, "repeats"],
    [missing, "without"],
    [invented, "in no message:"],
  ];
  return parts.filter(([facts]) => facts.length).map(([facts, what]) => `${what} ${facts.join(", ")}`);
}
