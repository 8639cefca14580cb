// The HTTP API as functions. Errors are thrown as Problem with the fields of the problem document.

export class Problem extends Error {
  constructor(fields) {
    super(fields.detail || fields.title || "Something went wrong.");
    this.title = fields.title || "Something went wrong";
    this.action = fields.action || "";
    this.status = fields.status || 0;
    this.traceId = fields.trace_id || "";
  }
}

async function send(method, path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "No connection", detail: "The service does not answer.", action: "Check that it is running, then try again." });
  }
  if (response.ok) return response;
  const text = await response.text();
  let fields;
  try {
    fields = JSON.parse(text);
  } catch {
    fields = { title: `Error ${response.status}`, detail: text.slice(0, 300), status: response.status };
  }
  throw new Problem(fields);
}

async function json(method, path, signal) {
  return (await send(method, path, undefined, signal)).json();
}

const base = (id) => `/v1/conversations/${encodeURIComponent(id)}`;

export const describe = () => json("GET", "/v1/galleries");
export const create = (signal) => json("POST", "/v1/conversations", signal);
export const load = (id) => json("GET", base(id));
export const undo = (id) => json("POST", `${base(id)}/undo`);
export const exported = (id) => json("GET", `${base(id)}/export`);
export const remove = (id) => send("DELETE", base(id));
export const say = (id, request, on, signal) => stream(`${base(id)}/turns`, request, on, signal);
export const pick = (id, request, on, signal) => stream(`${base(id)}/picks`, request, on, signal);

// Calls on[event](data) for every server-sent event; resolves when the stream ends.
async function stream(path, request, on, signal) {
  const response = await send("POST", path, { ...request, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let finished = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    buffer += value;
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const { event, data } = parse(buffer.slice(0, end));
      buffer = buffer.slice(end + 2);
      if (event === "problem") throw new Problem(data);
      finished = finished || event === "done";
      on[event]?.(data);
    }
  }
  if (!finished) throw new Problem({ title: "Broken off", detail: "The answer broke off before it was complete; nothing was saved.", action: "Send it again." });
}

function parse(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return { event, data: JSON.parse(data.join("\n")) };
}
