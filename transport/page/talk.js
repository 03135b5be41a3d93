// One conversation on the page: joined, shown, spoken to.
//
// Knows: how the join socket, the story, the transcript, the outbox and the permissions work
// together. Refuses to know: the list of conversations, and the message box.

import { ApiError, THOUGHTS, api, socketAddress } from "./api.js";
import { Channel } from "./channel.js";
import { announce, button, byId, h } from "./dom.js";
import { socketProtocols, tab } from "./keys.js";
import { Outbox } from "./outbox.js";
import { Permissions } from "./permissions.js";
import { LOST, Story, questionText } from "./story.js";
import { Transcript } from "./transcript.js";

const IDLE = 5 * 60_000; // ms in which no gateway forgets a conversation that was open until then
const RESTARTED = "The gateway has restarted, and this conversation is not there any more.";
const RESTARTED_OR_IDLE = "This conversation is not there any more: the gateway has restarted, or no client had it open for too long.";
const SETTLED = 2_000; // ms in which a turn that waited has surely begun

// By conversation: what waits to be sent goes on waiting while another one is looked at.
const outboxes = new Map();

function outboxOf(id) {
  const key = `outbox.${id}`;
  const store = { get: () => tab.get(key), set: (text) => (text ? tab.set(key, text) : tab.drop(key)) };
  if (!outboxes.has(id)) outboxes.set(id, new Outbox({ store }));
  return outboxes.get(id);
}

// What waited for a conversation that is gone waits for the one that takes its place; whatever was on
// its way did not arrive.
export function takeAlong(from, to) {
  const messages = outboxOf(from).messages.filter((message) => !message.regenerate);
  for (const message of messages) if (message.state !== "queued" && message.state !== "failed") message.state = "lost";
  outboxOf(to).messages.push(...messages);
  outboxOf(to).keep();
  outboxOf(from).messages = [];
  outboxOf(from).keep();
  outboxes.delete(from);
}

// The words that wait for a conversation; they do so no longer.
export function waitingTexts(id) {
  const texts = outboxOf(id).messages.map(({ input }) => (typeof input === "string" ? input : questionText(input)));
  outboxOf(id).messages = [];
  outboxOf(id).keep();
  return texts.filter(Boolean);
}

export class Talk {
  // `changed()` is called when the title, the phase or who watches may be others; `edit(text)` puts
  // a question back into the message box; `gone(reason)` when there is no such conversation, and
  // nothing of it is shown. One that is shown stays where it is when its gateway does not have it
  // any more: `goOn()` is to begin another one with what was said in it.
  constructor({ id, changed, edit, gone, goOn, complain }) {
    Object.assign(this, { id, changed, edit, gone, goOn, complain });
    this.story = new Story();
    this.permissions = new Permissions({
      bar: byId("asking"),
      reply: (message) => this.reply(message),
      show: (card) => {
        card.scrollIntoView({ block: "center" });
        card.focus();
      },
    });
    this.transcript = new Transcript({
      log: byId("log"),
      scroll: byId("scroll"),
      jump: byId("jump"),
      permissions: this.permissions,
      acts: {
        earlier: (more) => this.earlier(more),
        ask: (question) => this.ask({ input: plain(question), options: THOUGHTS }),
        edit: (question) => edit(questionText(question)),
        regenerate: () => this.ask({ input: "", options: THOUGHTS, regenerate: true }),
      },
    });
    this.outbox = outboxOf(id);
    this.outbox.changed = () => this.showOutbox();
    this.showOutbox();
    this.channel = new Channel({
      address: () => this.address(),
      protocols: socketProtocols,
      received: (message) => this.receive(message),
      changed: (state) => this.connection(state),
      refused: () => this.refused(),
    });
    this.channel.start();
  }

  close() {
    this.channel.stop();
    this.outbox.changed = () => {};
    this.permissions.clear();
    clearInterval(this.permissions.clock);
    clearInterval(this.countdown);
    byId("log").replaceChildren();
    byId("state").hidden = true;
  }

  address() {
    const url = socketAddress(`v1/conversations/${encodeURIComponent(this.id)}/events`);
    if (this.story.last !== null) url.searchParams.set("after", this.story.last);
    return url;
  }

  // Whether connecting again is of no use; a key that is missing is asked for meanwhile.
  async refused() {
    try {
      await api.conversation(this.id);
      return false;
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) {
        const soon = Date.now() - this.receivedAt < IDLE;
        this.missing(soon ? RESTARTED : RESTARTED_OR_IDLE, "This conversation does not exist (any more).");
        return true;
      }
      return false;
    }
  }

  // The gateway does not have the conversation: `words` where some of it is shown here, `otherwise`
  // where nothing is.
  missing(words, otherwise) {
    if (!this.story.turns.length || this.story.closed === "deleted") return this.gone(otherwise);
    this.isMissing = true;
    this.story.phase = null;
    for (const message of this.outbox.messages) if (["unsure", "accepted"].includes(message.state)) message.state = "lost";
    // A question whose answer had not begun is a message that waits again.
    const unanswered = this.story.turns.filter((turn) => turn.state === "running" && !turn.parts.length);
    for (const turn of unanswered) {
      for (const change of this.story.drop(turn)) this.take(change);
      this.outbox.add({ input: plain(turn.question), options: THOUGHTS, state: "lost" });
    }
    for (const change of this.story.stopRunning()) this.take(change);
    const { profile, workspace } = this.story.conversation;
    const files = profile === "agent" && !workspace ? " (The agent's files are not taken along: it begins in a new folder.)" : "";
    const line = byId("state");
    line.replaceChildren(
      h("span", {}, `${words} What was said, and what you have written, is kept on this page.${files}`),
      button("Go on in a new conversation", { class: "do", on: { click: () => this.goOn() } }),
    );
    line.hidden = false;
    announce(words);
    this.showOutbox();
    return this.changed();
  }

  // -- what is received ----------------------------------------------------------------------------

  receive(message) {
    this.receivedAt = Date.now();
    switch (message.type) {
      case "pong":
      case "ok":
        return;
      case "turn.accepted":
        this.outbox.accepted(message);
        return;
      case "error":
        this.wrong(message);
        return;
      default:
    }
    if (message.type === "turn.started" && !this.isKnown(message.turn_id)) {
      this.outbox.began(message.turn_id, message.items);
    }
    for (const change of this.story.receive(message)) this.take(change);
    if (message.type === "conversation.joined") {
      if (message.turn) this.outbox.began(message.turn.turn_id, message.turn.items);
      if (!message.resumed) {
        const last = this.story.turns[this.story.turns.length - 1];
        this.outbox.seen((turnId) => this.story.indexOf(turnId) >= 0, last?.question);
      }
      this.caughtUpAt = message.last_event_id;
      this.tellLost(message.lost_turn);
    }
    if (this.caughtUpAt !== null && this.story.last >= this.caughtUpAt) {
      this.caughtUpAt = null;
      this.settle();
    }
  }

  // A turn was lost when the gateway ended: said once, at the turn itself where it is shown.
  tellLost(turnId) {
    const key = `lost.${this.id}`;
    if (!turnId || tab.get(key) === turnId) return;
    tab.set(key, turnId);
    announce(LOST);
    if (this.story.hasFailed(turnId)) return;
    const close = button("Close", { icon: "close", on: { click: () => note.remove() } });
    const note = h("div", { class: "mishap calm", data: { lost: "" } }, h("p", {}, LOST), close);
    byId("log").append(note);
    this.transcript.follow();
  }

  // Everything that was missed has been seen. What is on its way may still wait behind a turn that
  // runs; when that has ended, its own turn begins at once, or never.
  settle() {
    this.outbox.caughtUp({ running: Boolean(this.story.running) });
    this.flush();
    if (this.outbox.unsettled) this.settling = setTimeout(() => this.caughtUpAt === null && this.settle(), SETTLED);
  }

  isKnown(turnId) {
    return this.story.turns.some((turn) => turn.id === turnId);
  }

  take(change) {
    switch (change.kind) {
      case "gap": return this.channel.again();
      case "closed": {
        // It left the gateway's memory; what is stored is there again when it is joined.
        if (this.story.closed === "moved") this.outbox.moved();
        if (this.story.closed !== "deleted") {
          this.story.closed = null;
          return this.channel.rejoin();
        }
        const words = `This conversation has ended (${this.story.closed}).`;
        this.channel.stop();
        return this.missing(words, words);
      }
      case "presence":
      case "phase": return this.changed();
      default:
        this.transcript.apply(change, this.story);
        return ["turn", "ended", "reset", "removed", "permission", "settled"].includes(change.kind) ? this.changed() : undefined;
    }
  }

  wrong({ ref, error }) {
    if (this.outbox.refused({ ref, error })) return;
    if (ref?.startsWith("permission ")) this.permissions.refused(ref.slice("permission ".length), error);
    else this.complain(error.message);
  }

  // -- what is said --------------------------------------------------------------------------------

  ask(message) {
    this.outbox.add(message);
    this.flush();
    this.transcript.toEnd();
    return true;
  }

  flush() {
    if (this.channel.state === "open" && this.story.last !== null && this.caughtUpAt === null) {
      this.outbox.flush((message) => this.channel.send(message));
    }
  }

  stop() {
    if (this.story.running) this.channel.send({ type: "turn.interrupt", ref: "stop" });
  }

  reply(message) {
    return this.channel.send({ ...message, ref: `permission ${message.request_id}` });
  }

  async earlier(more) {
    more.disabled = true;
    try {
      const { data, has_more: others } = await api.earlier(this.id, this.story.earliest);
      this.transcript.prepend(this.story.prepend(data.reverse(), others), this.story);
    } catch (error) {
      this.complain(error.message);
      more.disabled = false;
    }
  }

  // -- how it stands -------------------------------------------------------------------------------

  connection(state) {
    clearInterval(this.countdown);
    const line = byId("state");
    if (state !== "open") this.outbox?.disconnected();
    clearTimeout(this.settling);
    if (this.isMissing) return; // the line says so
    if (state === "open" || state === "closed" || (state === "connecting" && !this.channel?.failures)) {
      if (state === "open" && this.lost) announce("Connected again.");
      this.lost = false;
      this.caughtUpAt = null;
      line.hidden = true;
      return;
    }
    this.lost = true;
    const words = h("span", {});
    const now = button("Try now", { on: { click: () => this.channel.again() } });
    const say = () => {
      const left = Math.max(0, Math.ceil((this.channel.retryAt - Date.now()) / 1000));
      words.textContent = state === "waiting" && left ? `Connection lost. Trying again in ${left} s.` : "Connection lost. Trying again…";
    };
    say();
    this.countdown = setInterval(say, 500);
    line.replaceChildren(words, now);
    line.hidden = false;
  }

  showOutbox() {
    this.waiting ??= h("div", { class: "turn" });
    const shown = (this.outbox?.messages ?? []).filter((message) => !message.regenerate || message.state === "failed");
    this.waiting.replaceChildren(...shown.map((message) => this.waitingElement(message)));
    if (shown.length) byId("log").append(this.waiting);
    else this.waiting.remove();
    this.transcript?.follow();
  }

  waitingElement(message) {
    const said = typeof message.input === "string" ? message.input : questionText(message.input) || "A picture or file";
    const fate = {
      queued: this.isMissing ? "Waits until you go on in a new conversation" : "Waits for the connection",
      sent: "Sending…",
      accepted: "Waits for its turn",
      unsure: "Was on its way when the connection broke",
      lost: "Did not arrive",
      failed: message.error?.message ?? "Was refused",
    }[message.state];
    const bad = ["lost", "failed"].includes(message.state);
    const again = button("Send again", { on: { click: () => {
      this.outbox.again(message.ref);
      this.flush();
    } } });
    const drop = button("Discard", { on: { click: () => {
      this.outbox.drop(message.ref);
      if (said && !message.regenerate) this.edit(said);
    } } });
    const acts = bad ? [again, drop] : message.state === "queued" ? [drop] : [];
    return h(
      "div",
      { class: "question" },
      message.regenerate ? null : h("div", { class: "said" }, said),
      h("p", { class: "fate", data: { bad: bad ? "" : null } }, fate, ...acts),
    );
  }
}

// A question as it may be asked again: without the ids it had.
function plain(items) {
  return items.map(({ id: _, status: __, ...item }) => item);
}
