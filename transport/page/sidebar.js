// The list of conversations beside the page, and the drawer it is on a phone.
//
// Knows: its entries, which one is shown, how one is deleted. Refuses to know: what a conversation
// holds.

import { api } from "./api.js";
import { button, byId, h } from "./dom.js";
import { confirmed } from "./dialogs.js";

const REFRESH = 15_000; // ms between looks at the list, while the page is seen
const SOON = 2_000; // ms between two of them, however much happens
const TYPING = 250; // ms without a key after which what is sought is asked for
const PAGE = 100; // conversations that one request brings
const BUSY = new Set(["busy", "waking", "interrupting"]);

export class Sidebar {
  constructor({ deleted }) {
    this.deleted = deleted;
    this.current = null;
    this.removing = null; // the id of the one that is being deleted here
    this.entries = [];
    this.length = PAGE; // how many of the list are wanted
    this.sought = ""; // words that all have been said in what is listed
    this.shown = new Map(); // id: {element, update}
    this.asked = 0; // when the list was asked for last, by performance.now()
    for (const opener of document.querySelectorAll('[data-opens="side"]')) opener.addEventListener("click", () => this.open(true));
    byId("side-close").addEventListener("click", () => this.open(false));
    byId("veil").addEventListener("click", () => this.open(false));
    byId("list").addEventListener("click", (event) => event.target.closest("a") && this.open(false));
    byId("list-more").addEventListener("click", () => this.more());
    byId("seek").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.seek(byId("seek").value.trim()), TYPING);
    });
    byId("list").addEventListener("keydown", (event) => this.key(event));
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
    this.asked = performance.now();
    try {
      await this.load();
      const none = this.sought ? "Nothing was found." : "Nothing yet. Write a message to begin.";
      this.note(this.entries.length ? null : none);
    } catch (error) {
      this.note(error.message);
    }
    this.show();
  }

  // As many of the newest conversations as are wanted, page by page.
  async load() {
    const { sought } = this;
    const found = new Map(); // by id: one may move to the next page while that is asked for
    let page;
    do {
      page = await api.conversations(page?.last_id, sought);
      for (const one of page.data) found.set(one.id, one);
    } while (page.has_more && found.size < this.length);
    if (sought !== this.sought) return; // other words were typed meanwhile
    this.entries = [...found.values()];
    byId("list-more").hidden = !page.has_more;
  }

  async seek(words) {
    if (words === this.sought) return;
    this.sought = words;
    this.length = PAGE;
    await this.refresh();
  }

  async more() {
    const button = byId("list-more");
    const last = byId("list").lastElementChild;
    this.length += PAGE;
    button.disabled = true;
    await this.refresh();
    button.disabled = false;
    if (button.hidden || document.activeElement === document.body) last?.nextElementSibling?.querySelector("a").focus();
  }

  // What is known of one conversation better than the list knows it.
  update(conversation) {
    const at = this.entries.findIndex((one) => one.id === conversation.id);
    if (at < 0 && this.sought) return; // it is not known to hold those words
    if (at < 0) this.entries.unshift(conversation);
    else this.entries[at] = { ...this.entries[at], ...conversation };
    this.note(null);
    this.show();
  }

  // What the overview says about the caller's own sessions: what they do, and that there may be a
  // new one.
  know({ sessions, conversations }) {
    const phases = new Map(sessions.filter(({ id }) => id).map(({ id, phase }) => [id, phase]));
    const changed = this.entries.filter((one) => one.id !== this.current && phases.has(one.id) && phases.get(one.id) !== one.phase);
    for (const one of changed) one.phase = phases.get(one.id);
    if (changed.length) this.show();
    if (conversations === this.counted || performance.now() - this.asked < SOON) return;
    if (this.counted !== undefined) this.refresh();
    this.counted = conversations;
  }

  turnTo(id) {
    this.current = id;
    this.show();
  }

  note(text) {
    byId("list-note").hidden = !text;
    byId("list-note").textContent = text ?? "";
  }

  // Entries stay the elements they are: a list that is made anew takes the focus along, and a click
  // that has only half happened.
  show() {
    const list = byId("list");
    const ids = new Set(this.entries.map(({ id }) => id));
    for (const [id, { element }] of this.shown) {
      if (ids.has(id)) continue;
      element.remove();
      this.shown.delete(id);
    }
    this.entries.forEach((one, at) => {
      if (!this.shown.has(one.id)) this.shown.set(one.id, this.entry(one.id));
      const { element, update } = this.shown.get(one.id);
      update(one, one.id === this.current);
      if (list.children[at] !== element) list.insertBefore(element, list.children[at] ?? null);
    });
  }

  entry(id) {
    const light = h("span", { class: "window", "aria-hidden": "true" });
    const name = h("span", {});
    const link = h("a", { href: `#/c/${id}` }, light, name);
    const drop = button("Delete", { icon: "bin", class: "drop" });
    drop.addEventListener("click", () => this.remove(id, name.textContent));
    const update = ({ title, phase, asks }, current) => {
      name.textContent = title ?? "New conversation";
      name.className = title ? "name" : "name none";
      drop.setAttribute("aria-label", `Delete ${name.textContent}`);
      light.dataset.phase = phase ?? "";
      light.toggleAttribute("data-busy", BUSY.has(phase));
      light.toggleAttribute("data-asks", Boolean(asks));
      if (current) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    };
    return { element: h("li", { class: "entry", data: { id } }, link, drop), update };
  }

  // Up and down go from entry to entry, Delete asks to delete the one that has the focus.
  key(event) {
    const entry = event.target.closest(".entry");
    if (!entry) return;
    const to = { ArrowDown: entry.nextElementSibling, ArrowUp: entry.previousElementSibling }[event.key];
    if (to) {
      event.preventDefault();
      to.querySelector("a").focus();
    } else if (event.key === "Delete") {
      this.remove(entry.dataset.id, entry.querySelector(".name").textContent);
    }
  }

  async remove(id, shown) {
    if (!(await confirmed(`Delete “${shown}”?`, "What was said in it is forgotten, and a turn that runs in it stops.", "Delete"))) return;
    this.removing = id;
    try {
      await api.remove(id);
    } catch (error) {
      if (error.status !== 404) return this.note(error.message);
    }
    const at = this.entries.findIndex((one) => one.id === id);
    this.entries = this.entries.filter((one) => one.id !== id);
    this.show();
    (byId("list").children[Math.min(at, this.entries.length - 1)]?.querySelector("a") ?? byId("new")).focus();
    this.deleted(id);
    return undefined;
  }
}
