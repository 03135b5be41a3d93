// Permission an agent asks for, and the answer a person gives.
//
// Knows: the card in the transcript, the bar above the message box, what a reply may hold. Refuses
// to know: sockets (`reply(message)` sends one) and which conversation it is.

import { announce, button, h, icon } from "./dom.js";

const pretty = (value) => JSON.stringify(value ?? {}, null, 2);

const PLAIN = ["command", "file_path", "path", "url", "pattern", "query", "description", "prompt"];

// The one thing of a tool's input that says most.
export function gist(input) {
  if (!input || typeof input !== "object") return "";
  const name = PLAIN.find((key) => typeof input[key] === "string" && input[key]);
  return name ? input[name] : "";
}

// The end of a text says more than its beginning where it is a path.
function tail(text, most) {
  const line = text.split("\n")[0];
  if (line.length <= most) return line;
  return line.startsWith("/") ? `…${line.slice(-most)}` : `${line.slice(0, most)}…`;
}

export class Permissions {
  constructor({ bar, reply, show }) {
    Object.assign(this, { bar, reply, show });
    this.cards = new Map();
    this.clock = setInterval(() => this.tick(), 1000);
  }

  // The card of one request, made once.
  card(permission) {
    const id = permission.request_id;
    if (!this.cards.has(id)) {
      this.cards.set(id, new Card(permission, (message) => this.reply({ type: "permission.reply", request_id: id, ...message })));
      announce(`${permission.tool} asks for permission. ${gist(permission.input)}`);
      this.refresh();
    }
    return this.cards.get(id).element;
  }

  settled(permission, behavior, by) {
    this.cards.get(permission.request_id)?.settle(behavior, by);
    this.refresh();
  }

  // A reply was refused by the gateway: the card says why.
  refused(requestId, error) {
    this.cards.get(requestId)?.complain(error.message);
  }

  clear() {
    this.cards.clear();
    this.refresh();
  }

  get open() {
    return [...this.cards.values()].filter((card) => !card.done);
  }

  refresh() {
    const [card, ...others] = this.open;
    this.bar.hidden = !card;
    document.documentElement.toggleAttribute("data-asked", Boolean(card));
    if (!card) {
      this.bar.replaceChildren();
      return;
    }
    const { tool, input } = card.permission;
    const more = others.length ? ` (and ${others.length} more)` : "";
    this.bar.replaceChildren(
      icon("hand"),
      h("p", {}, h("strong", {}, tool), ` asks for permission${more} `, h("code", {}, tail(gist(input), 42))),
      h(
        "div",
        { class: "acts" },
        button("Review", { on: { click: () => this.show(card.element) } }),
        button("Deny", { on: { click: () => card.deny() } }),
        button("Allow once", { class: "first", on: { click: () => card.allow() } }),
      ),
    );
  }

  tick() {
    for (const card of this.open) card.count();
  }
}

class Card {
  constructor(permission, reply) {
    this.permission = permission;
    this.reply = reply;
    this.done = false;
    this.until = h("p", { class: "until" });
    this.wrong = h("p", { class: "wrong", role: "alert", hidden: true });
    this.message = h("input", { type: "text", placeholder: "Why not (the model receives this)", "aria-label": "Why it is denied; the model receives this" });
    this.message.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) {
        event.preventDefault();
        this.deny();
      }
    });
    this.input = h("pre", { tabindex: "0", "aria-label": "Input of the tool" }, pretty(permission.input));
    this.editor = null;
    this.rule = this.ruleChoice(permission.suggestions ?? []);
    this.element = h("section", { class: "permit", tabindex: "-1", "aria-label": `Permission for ${permission.tool}` }, ...this.asking());
    this.count();
  }

  asking() {
    const { tool, title, description } = this.permission;
    const edit = button("Change the input", { class: "quiet", on: { click: () => this.edit(edit) } }, "Change the input first");
    return [
      h("h4", {}, title && title !== tool ? title : `May ${tool} run?`),
      description ? h("p", { class: "why" }, description) : null,
      this.until,
      this.input,
      h("div", { class: "under" }, edit),
      this.wrong,
      h(
        "div",
        { class: "row" },
        button("Allow once", { class: "do", on: { click: () => this.allow() } }),
        button("Allow always in this conversation", { class: "also", on: { click: () => this.allow(true) } }),
        this.rule,
      ),
      h("div", { class: "row" }, h("div", { class: "deny" }, this.message, button("Deny", { class: "also", on: { click: () => this.deny() } }))),
    ].filter(Boolean);
  }

  // Which rule "always" makes, where the agent suggests some.
  ruleChoice(suggestions) {
    if (!suggestions.length) return null;
    return h(
      "select",
      { "aria-label": "What is always allowed" },
      ...suggestions.map(({ id, label }) => h("option", { value: id }, label)),
      h("option", { value: "" }, `every use of ${this.permission.tool}`),
    );
  }

  edit(trigger) {
    this.editor = h("textarea", { class: "json", spellcheck: "false", "aria-label": "Input of the tool, as JSON", rows: Math.min(14, pretty(this.permission.input).split("\n").length + 1) });
    this.editor.value = pretty(this.permission.input);
    this.input.replaceWith(this.editor);
    trigger.remove();
    this.editor.focus();
  }

  allow(always = false) {
    const message = { behavior: "allow", always };
    if (this.editor) {
      try {
        message.updated_input = JSON.parse(this.editor.value);
      } catch (error) {
        this.complain(`The input is no JSON yet: ${error.message}`);
        this.editor.focus();
        return;
      }
    }
    if (always && this.rule?.value) message.suggestion = this.rule.value;
    this.send(message);
  }

  deny() {
    const message = this.message.value.trim();
    this.send(message ? { behavior: "deny", message } : { behavior: "deny" });
  }

  send(message) {
    if (this.reply(message)) this.busy(true);
    else this.complain("Not connected: this can be answered once the connection is back.");
  }

  busy(is) {
    for (const control of this.element.querySelectorAll("button")) control.disabled = is;
  }

  complain(text) {
    this.busy(false);
    this.wrong.textContent = text;
    this.wrong.hidden = false;
  }

  count() {
    const left = Math.round(this.permission.expires_at - Date.now() / 1000);
    if (!Number.isFinite(left)) return;
    const minutes = Math.floor(left / 60);
    const time = left >= 90 ? `${minutes} min ${String(left % 60).padStart(2, "0")} s` : `${left} s`;
    this.until.textContent = left > 0 ? `Denied by itself in ${time}` : "Time is over";
  }

  settle(behavior, by) {
    if (this.done) return;
    this.done = true;
    const { tool, input } = this.permission;
    const who = { watcher: "", http: " over HTTP", timeout: ": no client answered in time", turn: ": the turn ended first" }[by] ?? "";
    const outcome = behavior === "allow" ? "Allowed" : behavior === "deny" ? "Denied" : "Answered";
    const hadFocus = this.element.contains(document.activeElement);
    this.element.dataset.settled = behavior ?? "";
    const what = gist(input);
    this.element.replaceChildren(
      h("p", { class: "outcome" }, h("strong", {}, `${outcome}${who}: `), tool, " ", what ? h("code", {}, what) : null),
    );
    if (hadFocus) this.element.focus();
    announce(`${outcome}${who}: ${tool}`);
  }
}
