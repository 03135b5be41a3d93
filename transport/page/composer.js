// The message box: words, pictures and files, and what a new conversation shall be.
//
// Knows: drafts, keys, attachments and their limits, the choice of model. Refuses to know:
// conversations; `send({input, options})` and `stop()` do what it asks for.

import { THOUGHTS } from "./api.js";
import { button, byId, h, icon } from "./dom.js";
import { lasting, tab } from "./keys.js";

const LARGEST = 10 * 1024 * 1024; // bytes of one file; the gateway's own limit is in its error
const PDF = "application/pdf";
const NO_TEXT = /^(image|audio|video|font)\//; // whatever their bytes may be
const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const AGENT = "agent/";

export class Composer {
  constructor({ send, stop }) {
    Object.assign(this, { send, stop });
    this.form = byId("composer");
    this.ask = byId("ask");
    this.attached = []; // {name, type, url}
    this.draftKey = "draft.new";
    this.effortKey = "effort.new";
    this.running = false;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.ask.addEventListener("keydown", (event) => this.key(event));
    this.ask.addEventListener("input", () => this.typed());
    byId("stop").addEventListener("click", () => this.stop());
    byId("attach").addEventListener("click", () => byId("files").click());
    byId("files").addEventListener("change", ({ target }) => {
      this.take([...target.files]);
      target.value = "";
    });
    this.ask.addEventListener("paste", (event) => this.paste(event));
    this.listenForDrops();
    byId("more").addEventListener("click", () => this.showOptions(byId("options").hidden));
    byId("profile").addEventListener("change", () => this.profileChanged());
    byId("effort").addEventListener("change", ({ target }) => {
      if (target.value) tab.set(this.effortKey, target.value);
      else tab.drop(this.effortKey);
    });
    byId("model").addEventListener("change", ({ target }) => {
      if (!this.current) lasting.set("model", target.value);
    });
  }

  // -- words ---------------------------------------------------------------------------------------

  key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.submit();
  }

  typed() {
    if (this.ask.value) tab.set(this.draftKey, this.ask.value);
    else tab.drop(this.draftKey);
    this.grow();
    this.refresh();
  }

  grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.ask.style.height = "auto";
    this.ask.style.height = `${this.ask.scrollHeight}px`;
  }

  // Another conversation's box: its draft and its thinking, and no attachments of the last one.
  turnTo(name) {
    this.draftKey = `draft.${name}`;
    this.effortKey = `effort.${name}`;
    byId("effort").value = tab.get(this.effortKey) ?? "";
    this.ask.value = tab.get(this.draftKey) ?? "";
    this.attached = [];
    this.showAttached();
    this.complain(null);
    this.grow();
    this.refresh();
  }

  fill(text) {
    this.ask.value = text;
    this.typed();
    this.ask.focus();
  }

  submit() {
    const text = this.ask.value.trim() ? this.ask.value : "";
    if (!text && !this.attached.length) return;
    const input = this.attached.length ? [{ type: "message", role: "user", content: this.content(text) }] : text;
    const effort = byId("effort").value;
    const options = effort ? { reasoning: { ...THOUGHTS.reasoning, effort } } : { ...THOUGHTS };
    const model = byId("model").value;
    if (this.current && model && model !== this.current) options.model = model;
    if (!this.send({ input, options })) return;
    this.ask.value = "";
    this.attached = [];
    this.showAttached();
    this.complain(null);
    this.typed();
  }

  content(text) {
    const files = this.attached.map(({ name, type, url }) =>
      PICTURES.includes(type)
        ? { type: "input_image", image_url: url, detail: "auto" }
        : { type: "input_file", filename: name, file_data: url });
    return text ? [...files, { type: "input_text", text }] : files;
  }

  // -- pictures and files --------------------------------------------------------------------------

  paste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    this.take(files);
  }

  listenForDrops() {
    const over = (is) => this.form.classList.toggle("over", is);
    addEventListener("dragover", (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      over(true);
    });
    addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
    addEventListener("drop", (event) => {
      over(false);
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.take([...event.dataTransfer.files]);
    });
  }

  async take(files) {
    const wrong = [];
    for (const file of files) {
      if (file.size > LARGEST) {
        wrong.push(`${file.name} is larger than ${LARGEST / 1024 / 1024} MB.`);
        continue;
      }
      const kind = PICTURES.includes(file.type) || file.type === PDF ? file.type : null;
      const content = kind ? file : await textOf(file);
      if (content) this.attached.push({ name: file.name, type: kind ?? "text/plain", url: await read(content) });
      else wrong.push(`${file.name} is neither a picture (PNG, JPEG, GIF, WebP), a PDF, nor text.`);
    }
    this.complain(wrong.join(" "));
    this.showAttached();
    this.refresh();
    this.ask.focus();
  }

  showAttached() {
    const list = byId("attached");
    list.hidden = !this.attached.length;
    list.replaceChildren(...this.attached.map((file) => {
      const shown = PICTURES.includes(file.type)
        ? h("img", { src: file.url, alt: file.name })
        : h("span", { class: "doc" }, icon("file"), h("span", {}, file.name));
      const remove = button(`Remove ${file.name}`, { icon: "close" });
      remove.addEventListener("click", () => {
        this.attached = this.attached.filter((one) => one !== file);
        this.showAttached();
        this.refresh();
        this.ask.focus();
      });
      return h("li", {}, shown, remove);
    }));
  }

  // -- models --------------------------------------------------------------------------------------

  models(list) {
    this.known = list.map((model) => model.id);
    this.names = new Map(list.map((model) => [model.id, model.name]));
    const agents = this.known.some((id) => id.startsWith(AGENT));
    byId("profile").hidden = !agents;
    const kept = lasting.get("profile");
    if (agents && kept) this.form.elements.profile.value = kept;
    this.profileChanged();
  }

  get profile() {
    return byId("profile").hidden ? "chat" : this.form.elements.profile.value;
  }

  profileChanged() {
    const agent = this.profile === "agent";
    lasting.set("profile", this.profile);
    byId("workspace-field").hidden = !agent;
    const names = (this.known ?? []).filter((id) => id.startsWith(AGENT) === agent);
    const wanted = lasting.get("model");
    const plain = wanted?.replace(AGENT, "");
    const same = names.find((id) => id.replace(AGENT, "") === plain) ?? names.find((id) => id.replace(AGENT, "") === "sonnet");
    this.offer(names, same);
  }

  // "Claude Sonnet 5.5 (sonnet)": what people call it, and by which name it is asked for.
  titleOf(id) {
    const plain = id.replace(AGENT, "");
    const name = this.names?.get(id)?.replace(" (agent)", "");
    return !name || name === plain ? plain : `${name} (${plain})`;
  }

  offer(names, chosen) {
    byId("model").replaceChildren(...names.map((id) => h("option", { value: id }, this.titleOf(id))));
    if (chosen) byId("model").value = chosen;
  }

  // A conversation was made with what was wanted: the next one is another.
  made(id) {
    const effort = byId("effort").value;
    if (effort) tab.set(`effort.${id}`, effort);
    tab.drop(this.effortKey);
    byId("system").value = "";
    byId("workspace").value = "";
    this.ask.value = "";
    this.attached = [];
    this.typed();
    this.showOptions(false);
  }

  // What is in the box is meant for this conversation now.
  takeAlong(id) {
    tab.drop(this.draftKey);
    this.draftKey = `draft.${id}`;
    this.effortKey = `effort.${id}`;
    byId("effort").dispatchEvent(new Event("change"));
    this.typed();
  }

  // What a new conversation is made with.
  wanted() {
    const made = { model: byId("model").value };
    const system = byId("system").value.trim();
    const workspace = byId("workspace").value.trim();
    if (system) made.system = system;
    if (workspace && this.profile === "agent") made.workspace = workspace;
    return made;
  }

  // A conversation that exists has its profile and its system prompt; another model of the same
  // profile may take the next turn. `model` is the conversation's, null while it is not known.
  forConversation(exists, model = null) {
    byId("profile").hidden = exists || !(this.known ?? []).some((id) => id.startsWith(AGENT));
    byId("model").hidden = exists && !model;
    if (exists && model && model !== this.current) {
      const alike = (this.known ?? []).filter((id) => id.startsWith(AGENT) === model.startsWith(AGENT));
      this.offer(alike.includes(model) ? alike : [model, ...alike], model);
    } else if (!exists && this.current) this.profileChanged();
    this.current = exists ? model : null;
    byId("system-field").hidden = exists;
    byId("workspace-field").hidden = exists || this.profile !== "agent";
  }

  showOptions(is) {
    byId("options").hidden = !is;
    byId("more").setAttribute("aria-expanded", String(is));
  }

  // -- how it stands -------------------------------------------------------------------------------

  busy(running) {
    this.running = running;
    this.refresh();
  }

  refresh() {
    const empty = !this.ask.value.trim() && !this.attached.length;
    byId("send").disabled = empty;
    byId("send").hidden = this.running && empty;
    byId("stop").hidden = !this.running;
  }

  complain(text) {
    const box = byId("trouble");
    box.hidden = !text;
    box.replaceChildren(...(text ? [h("p", {}, text), button("Close", { icon: "close", class: "quiet", on: { click: () => this.complain(null) } })] : []));
  }
}

// A file as text in UTF-8, whatever its name or its system calls it: source code has no type of its
// own that all systems know. Null where it is no text.
async function textOf(file) {
  if (NO_TEXT.test(file.type) && file.type !== "image/svg+xml") return null;
  const bytes = await file.arrayBuffer();
  const [first, second] = new Uint8Array(bytes, 0, Math.min(2, bytes.byteLength));
  const coding = first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : "utf-8";
  try {
    const text = new TextDecoder(coding, { fatal: true }).decode(bytes);
    return text && !text.includes("\0") ? new Blob([text], { type: "text/plain" }) : null;
  } catch {
    return null;
  }
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
