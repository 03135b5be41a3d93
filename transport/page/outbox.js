// What was sent and is not in the conversation yet.
//
// Pure but for the store it is given. Knows: each message is put on the wire once; whether it
// arrived, where the connection broke before the gateway said so. Refuses to know: sockets,
// elements.
//
// States of a message: queued (not on the wire), sent, accepted, unsure (sent, and the connection
// broke before an answer), lost (it did not arrive), failed (refused, with `error`). Once its turn
// has begun it is here no more.

export class Outbox {
  // `store` keeps text that was never on the wire over a reload: {get(), set(text)}.
  constructor({ store, changed = () => {} }) {
    this.store = store;
    this.changed = changed;
    this.messages = restore(store);
  }

  add(message) {
    this.messages.push({ ref: newRef(), state: "queued", error: null, ...message });
    this.keep();
  }

  // Put on the wire what may go: in order, and nothing past a message whose fate is not known.
  flush(send) {
    for (const message of this.messages) {
      if (message.state === "unsure" || message.state === "lost") break;
      if (message.state !== "queued") continue;
      const { ref, input, options, regenerate } = message;
      const body = regenerate ? { regenerate: true } : { input };
      if (!send({ type: "turn.create", ref, ...body, ...options })) break;
      message.state = "sent";
    }
    this.keep();
  }

  disconnected() {
    for (const message of this.messages) {
      if (message.state === "sent") message.state = "unsure";
      if (["unsure", "accepted"].includes(message.state)) message.missed = false;
    }
    this.keep();
  }

  accepted({ ref, turn_id }) {
    const message = this.find(ref);
    if (message) Object.assign(message, { state: "accepted", turnId: turn_id });
    this.keep();
  }

  refused({ ref, error }) {
    const message = this.find(ref);
    // A gateway that is stopping took nothing: the message waits for the one that comes after it.
    const waits = error?.code === "draining";
    if (message) Object.assign(message, waits ? { state: "queued", error: null } : { state: "failed", error });
    this.keep();
    return Boolean(message);
  }

  // The conversation goes on at another gateway: what has no answer was not done here.
  moved() {
    for (const message of this.messages) if (message.state === "sent") message.state = "queued";
    this.keep();
  }

  // A turn has begun. If it is one of these, that message has arrived.
  began(turnId, question) {
    const said = fingerprint(question);
    const index = this.messages.findIndex((message) =>
      message.turnId ? message.turnId === turnId
        : ["sent", "unsure"].includes(message.state) && (message.regenerate || fingerprint(message.input) === said));
    return index < 0 ? null : this.take(index);
  }

  // The conversation was seen as it is now: messages that are in it have arrived. `holds(turnId)`,
  // and the question that was asked last, for those whose turn is not known.
  seen(holds, question) {
    this.messages = this.messages.filter(({ turnId }) => !(turnId && holds(turnId)));
    if (question && this.messages.some(({ state }) => state === "unsure")) this.began(null, question);
    this.keep();
  }

  // Everything that was missed has been seen, and a moment has passed if this is not the first time
  // it is said: what has not begun did not arrive, unless it may be waiting behind a turn that runs.
  caughtUp({ running }) {
    if (running) return;
    for (const message of this.messages) {
      if (!["unsure", "accepted"].includes(message.state)) continue;
      if (message.missed) message.state = "lost";
      else message.missed = true;
    }
    this.keep();
  }

  again(ref) {
    const message = this.find(ref);
    if (message) Object.assign(message, { state: "queued", error: null, turnId: undefined, missed: undefined, ref: newRef() });
    this.keep();
  }

  drop(ref) {
    const index = this.messages.findIndex((message) => message.ref === ref);
    return index < 0 ? null : this.take(index);
  }

  // Whether it is not known of some whether they arrived.
  get unsettled() {
    return this.messages.some(({ state, missed }) => state === "unsure" || (state === "accepted" && missed !== undefined));
  }

  find(ref) {
    return this.messages.find((message) => message.ref === ref);
  }

  take(index) {
    const [message] = this.messages.splice(index, 1);
    this.keep();
    return message;
  }

  keep() {
    const waiting = this.messages.filter(({ state, input }) => state === "queued" && typeof input === "string");
    this.store.set(waiting.length ? JSON.stringify(waiting.map(({ input, options }) => ({ input, options }))) : "");
    this.changed();
  }
}

function restore(store) {
  try {
    return JSON.parse(store.get() || "[]").map((message) => ({ ref: newRef(), state: "queued", error: null, ...message }));
  } catch {
    return [];
  }
}

let count = 0;
function newRef() {
  count += 1;
  return `page-${Date.now().toString(36)}-${count}`;
}

// Input and items that say the same have the same fingerprint, whatever ids they got.
export function fingerprint(input) {
  if (typeof input === "string") return `text:${input}`;
  return (input ?? []).flatMap((item) => (typeof item.content === "string" ? [`text:${item.content}`] : (item.content ?? []).map(contentPrint))).join("\n");
}

function contentPrint(content) {
  switch (content.type) {
    case "input_text": return `text:${content.text}`;
    default: return content.type; // pictures and files come back in other words, but as many
  }
}
