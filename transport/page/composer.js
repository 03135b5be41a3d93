// The message box: words, pictures and files, and what a new conversation shall be.
//
// Knows: drafts, keys, attachments and their limits, the choice of model. Refuses to know:
// conversations; `send({input, options})` and `stop()` do what it asks for.

import { THOUGHTS } from "./api.js";
import { button, byId, h, icon } from "./dom.js";
import { lasting, tab } from "./keys.js";

const LARGEST = 10 * 1024 * 1024; // bytes of one file; the gateway's own limit is told by its error
const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const AGENT = "agent/";

export class Composer {
  constructor({ send, stop }) {
    Object.assign(this, { send, stop });
    this.form = byId("composer");
    this.ask = byId("ask");
    this.attached = []; // {name, type, url}
    this.draftKey = "draft.new";
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

  // Another conversation's box: its draft, and no attachments of the last one.
  turnTo(name) {
    this.draftKey = `draft.${name}`;
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
    this.complain(null);
    for (const file of files) {
      if (!PICTURES.includes(file.type) && file.type !== "application/pdf") {
        this.complain(`${file.name} is neither a picture (PNG, JPEG, GIF, WebP) nor a PDF.`);
      } else if (file.size > LARGEST) {
        this.complain(`${file.name} is larger than ${LARGEST / 1024 / 1024} MB.`);
      } else {
        this.attached.push({ name: file.name, type: file.type, url: await read(file) });
      }
    }
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

  offer(names, chosen) {
    byId("model").replaceChildren(...names.map((id) => h("option", { value: id }, id.replace(AGENT, ""))));
    if (chosen) byId("model").value = chosen;
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

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
