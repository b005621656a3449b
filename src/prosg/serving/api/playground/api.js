// The server's API: its model, and answers as they are written.

const headers = (key) => ({ "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) });

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message ?? `the server says ${response.status}`);
}

/** The server's model: {id, memory, memories}. */
export async function fetchModel(key) {
  const response = await checked(await fetch("/v1/models", { headers: headers(key) }));
  return (await response.json()).data[0];
}

/**
 * Asks for an answer. Yields {text} as it is written, and {prosg, usage} in the end.
 * @param body the request, as of POST /v1/chat/completions
 * @param signal ends it
 */
export async function* streamAnswer(body, key, signal) {
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const options = { method: "POST", headers: headers(key), body: JSON.stringify(request), signal };
  const response = await checked(await fetch("/v1/chat/completions", options));
  for await (const data of eventData(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    if (event.usage) yield { prosg: event.prosg, usage: event.usage };
    const text = event.choices[0]?.delta.content;
    if (text) yield { text };
  }
  throw new Error("the connection ended before the answer did");
}

async function* eventData(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) if (event.startsWith("data: ")) yield event.slice(6);
  }
}
