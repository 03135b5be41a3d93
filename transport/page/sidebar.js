// The list of conversations beside the page, and the drawer it is on a phone.
//
// Knows: its entries, which one is shown, how one is deleted. Refuses to know: what a conversation
// holds.

import { api } from "./api.js";
import { button, byId, h } from "./dom.js";
import { confirmed } from "./dialogs.js";

const REFRESH = 15_000; // ms between looks at the list, while the page is seen
const BUSY = new Set(["busy", "waking", "interrupting"]);

export class Sidebar {
  constructor({ deleted }) {
    this.deleted = deleted;
    this.current = null;
    this.removing = null; // the id of the one that is being deleted here
    this.entries = [];
    for (const opener of document.querySelectorAll('[data-opens="side"]')) opener.addEventListener("click", () => this.open(true));
    byId("side-close").addEventListener("click", () => this.open(false));
    byId("veil").addEventListener("click", () => this.open(false));
    byId("list").addEventListener("click", (event) => event.target.closest("a") && this.open(false));
    setInterval(() => document.visibilityState === "visible" && this.refresh(), REFRESH);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh());
  }

  open(is) {
    byId("side").classList.toggle("open", is);
    byId("veil").hidden = !is;
    if (is) byId("side-close").focus();
  }

  get isOpen() {
    return byId("side").classList.contains("open");
  }

  async refresh() {
    try {
      this.entries = (await api.conversations()).data;
      this.note(this.entries.length ? null : "Nothing yet. Write a message to begin.");
    } catch (error) {
      this.note(error.message);
    }
    this.show();
  }

  // What is known of one conversation better than the list knows it.
  update(conversation) {
    const at = this.entries.findIndex((one) => one.id === conversation.id);
    if (at < 0) this.entries.unshift(conversation);
    else this.entries[at] = { ...this.entries[at], ...conversation };
    this.note(null);
    this.show();
  }

  turnTo(id) {
    this.current = id;
    this.show();
  }

  note(text) {
    byId("list-note").hidden = !text;
    byId("list-note").textContent = text ?? "";
  }

  show() {
    const focused = document.activeElement?.closest?.(".entry")?.dataset.id;
    byId("list").replaceChildren(...this.entries.map((one) => this.entry(one)));
    this.light();
    if (focused) byId("list").querySelector(`[data-id="${CSS.escape(focused)}"] a`)?.focus();
  }

  // A window of the house is lit for each conversation at work, and warm for each that is awake.
  light() {
    const count = (which) => this.entries.filter(which).length;
    const busy = count(({ phase }) => BUSY.has(phase));
    const awake = count(({ phase }) => phase && phase !== "asleep");
    [...document.querySelectorAll("#mark rect")].forEach((window, at) => {
      window.setAttribute("class", at < busy ? "lit" : at < awake ? "warm" : "");
    });
    byId("brand-state").textContent = busy ? `${busy} at work` : "";
  }

  entry({ id, title, phase, asks }) {
    const shown = title ?? "New conversation";
    const light = h("span", { class: "window", "aria-hidden": "true", data: { phase, busy: BUSY.has(phase) ? "" : null, asks: asks ? "" : null } });
    const drop = button(`Delete ${shown}`, { icon: "bin", class: "drop" });
    drop.addEventListener("click", () => this.remove(id, shown));
    return h(
      "li",
      { class: "entry", data: { id } },
      h("a", { href: `#/c/${id}`, "aria-current": id === this.current ? "page" : null }, light, h("span", { class: title ? "name" : "name none" }, shown)),
      drop,
    );
  }

  async remove(id, shown) {
    if (!(await confirmed(`Delete “${shown}”?`, "What was said in it is forgotten, and a turn that runs in it stops.", "Delete"))) return;
    this.removing = id;
    try {
      await api.remove(id);
    } catch (error) {
      if (error.status !== 404) return this.note(error.message);
    }
    this.entries = this.entries.filter((one) => one.id !== id);
    this.show();
    this.deleted(id);
    return undefined;
  }
}
