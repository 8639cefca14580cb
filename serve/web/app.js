// The chat page. The server's view of the conversation is the truth: after every change the turns are drawn from it,
// and only those that differ. Text from people, models and galleries goes in through textContent alone.

import * as api from "./api.js";

const $ = (id) => document.getElementById(id);
const log = $("log");
const MAX_PICTURES = 16;
const MAX_BYTES = 14_000_000; // base64 makes it a third longer; the service takes 20 MB
const TYPES = ["image/jpeg", "image/png", "image/webp"];
const KEY = "chatsearch.conversation";

let conversation = null; // the last view from the server
let attachments = []; // {url, name}
let busy = null; // AbortController of the answer under way
let drawn = []; // {json, node} of each turn

// ---- small helpers

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(node.dataset, value);
    else if (name.startsWith("aria-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const short = (fingerprint) => fingerprint.slice(0, 8);

function toast(error) {
  if (error.name === "AbortError") return;
  const lines = [element("strong", { textContent: error.title || "Something went wrong" }), element("p", { textContent: error.message })];
  if (error.action) lines.push(element("p", { className: "what-to-do", textContent: error.action }));
  if (error.traceId) lines.push(element("code", { textContent: `trace ${error.traceId}` }));
  const close = element("button", { type: "button", className: "close", textContent: "×", "aria-label": "Dismiss" });
  const box = element("div", { className: "toast" }, ...lines, close);
  close.addEventListener("click", () => box.remove());
  $("toasts").append(box);
  setTimeout(() => box.remove(), 12_000);
}

function guarded(action) {
  return async (...args) => {
    try {
      await action(...args);
    } catch (error) {
      toast(error);
    }
  };
}

function atEnd() {
  const scroll = $("scroll");
  scroll.scrollTo({ top: scroll.scrollHeight, behavior: "smooth" });
}

// ---- drawing

function candidateNode(hit, retrieval, choose) {
  const picked = retrieval.picked === hit.item_id;
  const image = element("img", { src: hit.image_url, alt: `Candidate ${hit.rank}`, loading: "lazy", decoding: "async" });
  const caption = element(
    "span",
    { className: "facts" },
    element("span", { className: "rank", textContent: `${hit.rank}` }),
    element("span", { className: "score", textContent: hit.score.toFixed(3), title: "Cosine similarity" }),
  );
  const state = picked ? element("span", { className: "state", textContent: retrieval.auto_selected ? "taken for you" : "picked" }) : null;
  const button = element(
    "button",
    {
      type: "button",
      className: "candidate",
      disabled: !choose,
      title: choose ? `Go on with ${hit.item_id}` : hit.item_id,
      "aria-pressed": String(picked),
      "aria-label": `Candidate ${hit.rank}, score ${hit.score.toFixed(3)}${picked ? ", picked" : ""}`,
      dataset: { item: hit.item_id },
    },
    image,
    caption,
    state,
  );
  if (choose) button.addEventListener("click", () => choose(hit.item_id));
  return element("li", {}, button);
}

function retrievalNode(retrieval, choose) {
  if (!retrieval.candidates.length) return element("p", { className: "note", textContent: "Nothing in the gallery is left to show." });
  const list = element("ol", { className: "candidates", "aria-label": "Candidates, best first" });
  list.append(...retrieval.candidates.map((hit) => candidateNode(hit, retrieval, choose)));
  const how = retrieval.forced ? "You asked for pictures." : "The model decided to show pictures.";
  const next = choose && !retrieval.picked ? " Pick one to go on with it." : "";
  const source = `index ${short(retrieval.index_version)}`;
  const partial = retrieval.coverage < 1 ? ` Only ${Math.floor(100 * retrieval.coverage)} % of the gallery could be searched.` : "";
  const note = element("p", { className: "note", textContent: `${how}${partial}${next} `, title: `model ${retrieval.model}` }, element("code", { textContent: source }));
  return element("div", { className: "retrieval" }, list, note);
}

function turnNode(turn, isLast) {
  const node = element("article", { className: `turn ${turn.role}`, "aria-label": turn.role === "user" ? "You" : "chatsearch" });
  let number = 0;
  for (const piece of turn.pieces) {
    if (piece.text != null) node.append(element("p", { className: "text", textContent: piece.text }));
    else if (piece.image_url) node.append(element("img", { className: "shown", src: piece.image_url, alt: "Picture in the message" }));
    else if (piece.retrieval) {
      const which = number++;
      node.append(retrievalNode(piece.retrieval, isLast ? (item) => pick(item, which) : null));
    }
  }
  if (turn.ended === "length") node.append(element("p", { className: "note", textContent: "The answer was cut at its length limit." }));
  if (turn.role === "assistant" && !turn.pieces.length) node.append(element("p", { className: "note", textContent: "(no words)" }));
  return node;
}

function draw() {
  const turns = conversation ? conversation.turns : [];
  turns.forEach((turn, at) => {
    const isLast = at === turns.length - 1;
    const json = JSON.stringify([turn, isLast]);
    if (drawn[at]?.json === json) return;
    const node = turnNode(turn, isLast);
    if (drawn[at]) drawn[at].node.replaceWith(node);
    else log.append(node);
    drawn[at] = { json, node };
  });
  for (const { node } of drawn.splice(turns.length)) node.remove();
  for (const node of log.querySelectorAll(".pending")) node.remove();
  $("welcome").hidden = turns.length > 0;
  if (conversation) names(conversation);
  controls();
}

function names({ model, index_version: index }) {
  const parts = [["model", model], ["index", index]];
  $("served").replaceChildren(...parts.map(([what, value]) => element("span", { title: `${what} ${value}`, textContent: `${what} ${short(value)}` })));
}

function controls() {
  const turns = conversation ? conversation.turns.length : 0;
  $("undo").disabled = Boolean(busy) || !conversation?.can_undo;
  $("export").disabled = Boolean(busy) || !turns;
  $("delete").disabled = Boolean(busy) || !conversation;
  $("send").disabled = Boolean(busy);
  document.body.classList.toggle("busy", Boolean(busy));
  for (const node of log.querySelectorAll(".candidate")) node.toggleAttribute("inert", Boolean(busy));
}

function drawAttachments() {
  $("attachments").replaceChildren(
    ...attachments.map((picture, at) => {
      const remove = element("button", { type: "button", textContent: "×", "aria-label": `Remove ${picture.name}` });
      remove.addEventListener("click", () => {
        attachments.splice(at, 1);
        drawAttachments();
        $("text").focus();
      });
      return element("li", {}, element("img", { src: picture.url, alt: picture.name }), remove);
    }),
  );
}

// ---- answers

// Runs one request that streams an answer; shows it as it comes, then the server's view of the whole.
async function answer(request, userNode) {
  busy = new AbortController();
  $("welcome").hidden = true;
  const text = element("p", { className: "text" });
  const node = element("article", { className: "turn assistant pending", "aria-label": "chatsearch", "aria-busy": "true" }, text);
  text.append(element("span", { className: "thinking", "aria-label": "Thinking" }));
  if (userNode) log.append(userNode);
  log.append(node);
  controls();
  atEnd();
  try {
    await request(
      {
        text: ({ delta }) => {
          if (text.querySelector(".thinking")) text.replaceChildren();
          text.append(delta);
          atEnd();
        },
        candidates: (retrieval) => {
          text.querySelector(".thinking")?.remove();
          node.append(retrievalNode(retrieval, null));
          atEnd();
        },
        done: (view) => {
          conversation = view;
        },
      },
      busy.signal,
    );
  } finally {
    busy = null;
    draw();
    atEnd();
  }
}

const mode = () => document.querySelector("input[name=mode]:checked").value;

async function ensureConversation(signal) {
  if (conversation) return;
  const made = await api.create(signal);
  signal.throwIfAborted();
  conversation = made;
  sessionStorage.setItem(KEY, conversation.id);
}

async function say() {
  const words = $("text").value.trim();
  if (busy || (!words && !attachments.length)) return;
  const pictures = attachments;
  const content = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  if (words) content.push({ type: "text", text: words });
  const mine = element("article", { className: "turn user pending", "aria-label": "You" });
  mine.append(...pictures.map(({ url, name }) => element("img", { className: "shown", src: url, alt: name })));
  if (words) mine.append(element("p", { className: "text", textContent: words }));
  attachments = [];
  $("text").value = "";
  grow();
  drawAttachments();
  try {
    const request = { content, retrieve: mode() };
    await answer(async (on, signal) => {
      await ensureConversation(signal);
      await api.say(conversation.id, request, on, signal);
    }, mine);
  } catch (error) {
    if (error.name === "AbortError") return; // left for a new conversation, where these words do not belong
    attachments = pictures; // nothing was saved: give back what was written
    if (!$("text").value) $("text").value = words;
    grow();
    drawAttachments();
    draw();
    throw error;
  }
}

const pick = guarded(async (item, retrieval) => {
  if (busy) return;
  const request = { item_id: item, retrieval, retrieve: mode() === "never" ? "never" : "auto" };
  for (const node of log.querySelectorAll(".turn:last-child .candidate")) node.setAttribute("aria-pressed", String(node.dataset.item === item));
  drawn.at(-1).json = null; // the mark is only a promise: whatever becomes of the pick, the turn is drawn again
  await answer((on, signal) => api.pick(conversation.id, request, on, signal), null);
  $("text").focus();
});

// ---- attachments

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new api.Problem({ title: "Cannot read the file", detail: file.name, action: "Choose another." }));
    reader.readAsDataURL(file);
  });
}

const attach = guarded(async (files) => {
  for (const file of files) {
    if (!TYPES.includes(file.type)) throw new api.Problem({ title: "Not a picture we can read", detail: `${file.name || "This"} is ${file.type || "of unknown type"}.`, action: "Use JPEG, PNG or WebP." });
    if (file.size > MAX_BYTES) throw new api.Problem({ title: "Picture too large", detail: `${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${MAX_BYTES / 1e6} MB fit.`, action: "Scale it down." });
    if (attachments.length >= MAX_PICTURES) throw new api.Problem({ title: "Too many pictures", detail: `At most ${MAX_PICTURES} fit into one message.`, action: "Remove some." });
    attachments.push({ url: await read(file), name: file.name || "pasted picture" });
  }
  drawAttachments();
  $("text").focus();
});

// ---- wiring

function grow() {
  const field = $("text");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 180)}px`;
}

function startAgain() {
  busy?.abort();
  conversation = null;
  sessionStorage.removeItem(KEY);
  draw();
  $("text").focus();
}

const send = guarded(say);
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("input", grow);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("text").addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    attach(files);
  }
});
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  attach([...$("file").files]);
  $("file").value = "";
});
$("new").addEventListener("click", startAgain);
$("undo").addEventListener("click", guarded(async () => {
  conversation = await api.undo(conversation.id);
  draw();
}));
$("delete").addEventListener("click", guarded(async () => {
  if (!window.confirm("Delete this conversation and its pictures for good?")) return;
  await api.remove(conversation.id);
  startAgain();
}));
$("export").addEventListener("click", guarded(async () => {
  const data = await api.exported(conversation.id);
  const url = URL.createObjectURL(new Blob([JSON.stringify(data, null, 2)], { type: "application/json" }));
  const link = element("a", { href: url, download: "conversation.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}));

let chosen = false; // a mode by hand, perhaps before the service has said which one it begins with
document.querySelector(".modes").addEventListener("change", () => { chosen = true; });

let depth = 0; // dragenter and dragleave also fire for every child
const hasFiles = (event) => [...event.dataTransfer.types].includes("Files");
window.addEventListener("dragenter", (event) => {
  if (!hasFiles(event)) return;
  depth += 1;
  $("drop").hidden = false;
});
window.addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  $("drop").hidden = depth === 0;
});
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("drop").hidden = true;
  attach([...event.dataTransfer.files]);
});
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape") $("toasts").replaceChildren();
});

function suggest(text) {
  const button = element("button", { type: "button", textContent: text });
  button.addEventListener("click", () => {
    $("text").value = text;
    grow();
    $("text").focus();
  });
  $("suggestions").append(element("li", {}, button));
}

guarded(async () => {
  const served = await api.describe();
  names(served);
  served.page.examples.forEach(suggest);
  if (!chosen) document.querySelector(`input[name=mode][value=${served.page.mode}]`).checked = true;
  const id = sessionStorage.getItem(KEY);
  if (!id) return;
  try {
    conversation = await api.load(id);
    draw();
    atEnd();
  } catch (error) {
    sessionStorage.removeItem(KEY);
    if (error.status !== 404) throw error;
  }
})();
