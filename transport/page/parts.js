// The parts of an answer as elements: words, thoughts, tools at work.
//
// Knows: how each kind of part looks and how it grows. Refuses to know: turns, sockets.

import { h, icon } from "./dom.js";
import { Flow } from "./flow.js";
import { gist } from "./permissions.js";

// A view has `element`, `grow(text)` for new text, `change()` after the part changed otherwise, and
// `end()` once it is whole.
export function partView(part) {
  switch (part.kind) {
    case "text": return new Words(part);
    case "refusal": return new Words(part, "refusal");
    case "reasoning": return new Thought(part);
    default: return new Step(part);
  }
}

class Words {
  constructor(part, kind = "") {
    this.element = h("div", { class: `md ${kind}`.trim() });
    this.flow = new Flow(this.element);
    this.flow.write(part.text);
  }

  grow(text) {
    this.flow.write(text);
  }

  change() {}

  end() {
    this.flow.end();
  }
}

class Thought {
  constructor(part) {
    this.body = h("div", { class: "md" });
    this.flow = new Flow(this.body);
    this.label = h("span", {}, part.open ? "Thinking" : "Thought");
    this.element = h("details", { class: "thought" }, h("summary", {}, this.label), this.body);
    this.flow.write(part.text);
  }

  grow(text) {
    this.flow.write(text);
  }

  change() {}

  end() {
    this.label.textContent = "Thought";
    this.flow.end();
  }
}

const SAID = { running: "running", done: "", failed: "failed", dropped: "not finished", asked: "asked of the client" };

class Step {
  constructor(part) {
    this.part = part;
    this.gist = h("span", { class: "gist" });
    this.how = h("span", { class: "how" });
    this.io = h("div", { class: "io" });
    this.element = h(
      "details",
      { class: "step" },
      h("summary", {}, h("span", { class: "dot", "aria-hidden": "true" }), h("span", { class: "tool" }, part.name), this.gist, this.how),
      this.io,
    );
    // What is inside is made when it is opened: an agent's outputs may be long, and many.
    this.element.addEventListener("toggle", () => this.fill());
    this.change();
  }

  get state() {
    const { kind, open, failed, dropped, output } = this.part;
    if (dropped) return "dropped";
    if (failed) return "failed";
    if (open) return "running";
    return kind === "call" && output === undefined ? "asked" : "done";
  }

  grow() {}

  change() {
    this.element.dataset.state = this.state;
    this.how.textContent = SAID[this.state];
    const input = read(this.part.arguments);
    this.gist.textContent = gist(input) || (input === null ? "" : brief(input));
    this.fill();
  }

  end() {
    this.change();
  }

  fill() {
    if (!this.element.open) return;
    const { arguments: given, output, failed } = this.part;
    const input = read(given);
    const shown = [pane("Input", input === null ? given : JSON.stringify(input, null, 2))];
    if (output !== undefined) shown.push(pane(failed ? "Error" : "Output", asText(output)));
    this.io.replaceChildren(...shown);
  }
}

function pane(title, text) {
  return h("div", {}, h("h4", {}, title), h("pre", { tabindex: "0", "aria-label": title }, text || "nothing"));
}

function read(text) {
  try {
    return JSON.parse(text || "{}");
  } catch {
    return null; // still on its way
  }
}

function brief(input) {
  const text = JSON.stringify(input);
  return text === "{}" ? "" : text.slice(0, 160);
}

function asText(output) {
  if (typeof output === "string") return output;
  if (Array.isArray(output) && output.every((one) => typeof one?.text === "string")) {
    return output.map((one) => one.text).join("\n");
  }
  return JSON.stringify(output, null, 2);
}

// What was asked: text in a bubble, pictures and files above it.
export function questionElement(items) {
  const shown = [];
  const pictures = [];
  for (const item of items) {
    if (item.type === "function_call_output") {
      shown.push(h("p", { class: "note" }, "A client brought the result of its tool."));
      continue;
    }
    const contents = typeof item.content === "string" ? [{ type: "input_text", text: item.content }] : item.content ?? [];
    for (const content of contents) {
      if (content.type === "input_image") pictures.push(pictureElement(content));
      else if (content.type === "input_file") pictures.push(h("span", { class: "chip" }, icon("file"), content.filename ?? "A file"));
      else if (content.text && item.role === "user") shown.push(h("div", { class: "said" }, content.text));
      else if (content.text) shown.push(h("p", { class: "note" }, `${item.role}: ${content.text}`));
    }
  }
  const row = pictures.length ? [h("div", { class: "pictures" }, ...pictures)] : [];
  return h("div", { class: "question" }, h("h3", { class: "vh" }, "You"), ...row, ...shown);
}

function pictureElement({ image_url: url }) {
  if (/^data:image\/(?:png|jpeg|gif|webp);base64,/.test(url ?? "")) {
    return h("img", { src: url, alt: "A picture you sent" });
  }
  return h("span", { class: "chip" }, icon("file"), "A picture"); // from elsewhere: not fetched
}
