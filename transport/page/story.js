// What a conversation looks like, from its events.
//
// Pure: messages of the join socket in, a list of changes out, which say what a view has to do.
// Knows: turns and the parts of an answer, which event was seen last. Refuses to know: elements,
// sockets, time.
//
// A turn is {id, question: items, parts, state: "running" | "done" | "failed", model, usage, reason,
// error}. `reason` says how a finished one ended; "interrupted" where a person stopped it. A part of its answer is {kind, …}: text, reasoning and refusal have `text`; call (a
// function of some client) and activity (an agent's own tool) have `id`, `name`, `arguments`, and
// once it is there `output` and `failed`; `open` while more of it may come.

export const LOST = "The gateway was restarted while it answered; ask again if you still want the answer.";
const ENDED_AWAY = "This turn did not end well while the connection was away; ask again if you still want the answer.";

export class Story {
  constructor() {
    this.conversation = null;
    this.turns = [];
    this.last = null; // the event that was seen last
    this.watchers = 0;
    this.phase = null;
    this.permissions = new Map(); // those not answered yet, by request_id
    this.earliest = null; // id of the oldest item, where there are older ones
    this.closed = null;
  }

  get running() {
    return this.turns.findLast((turn) => turn.state === "running") ?? null;
  }

  // Take one message in. Changes are {kind, …} with the turn, part or permission they concern.
  receive(message) {
    if (message.type === "conversation.joined") return this.joined(message);
    if (typeof message.event_id !== "number") return [];
    if (this.last === null || message.event_id <= this.last) return []; // seen already
    if (message.event_id > this.last + 1) return [{ kind: "gap" }];
    this.last = message.event_id;
    return this.event(message);
  }

  joined(message) {
    this.conversation = message.conversation;
    this.phase = message.conversation.phase ?? this.phase;
    this.watchers = message.watchers;
    const changes = [{ kind: "presence" }, { kind: "phase" }];
    if (!message.resumed) {
      this.last = message.last_event_id;
      const before = this.turns;
      this.turns = turnsOf(message.items ?? []);
      this.earliest = message.has_more ? (message.items?.[0]?.id ?? null) : null;
      if (message.turn) this.turns.push(runningTurn(message.turn, this.turns));
      this.keepFailed(before, message.lost_turn ?? null);
      changes.unshift({ kind: "reset" });
    }
    // Both lists are whole: what is not among the pending ones has been answered meanwhile.
    const pending = new Map(message.permissions.map((one) => [one.request_id, one]));
    for (const [id, permission] of this.permissions) {
      if (pending.has(id)) continue;
      this.permissions.delete(id);
      changes.push({ kind: "settled", permission, behavior: null, by: null });
    }
    for (const permission of pending.values()) changes.push(...this.asked(permission));
    return changes;
  }

  // A turn that failed, or was lost, is in no snapshot: what was shown of it stays, behind the turn
  // that it was behind.
  keepFailed(before, lost) {
    let at = 0;
    for (const turn of before) {
      const now = turn.id ? this.indexOf(turn.id) : this.turns.findLastIndex((one) => sameQuestion(one, turn));
      if (now >= 0) at = now + 1;
      else if (turn.state !== "done") {
        if (turn.state === "running") {
          close(turn);
          Object.assign(turn, { state: "failed", error: { code: "turn_lost", message: turn.id === lost ? LOST : ENDED_AWAY } });
        }
        this.turns.splice(at, 0, turn);
        at += 1;
      }
    }
  }

  // Whether a turn is shown as failed.
  hasFailed(turnId) {
    return this.turns.some((turn) => turn.id === turnId && turn.state === "failed");
  }

  // Items from before those that are shown; `more`: there are still older ones.
  prepend(items, more) {
    const turns = turnsOf(items);
    this.turns.unshift(...turns);
    this.earliest = more ? (items[0]?.id ?? null) : null;
    return turns;
  }

  event(event) {
    switch (event.type) {
      case "turn.started": return this.started(event);
      case "turn.finished": return this.finished(event);
      case "turn.failed": return this.failed(event);
      case "turn.removed": return this.removed(event);
      case "items.added": return this.added(event);
      case "permission.requested": return this.asked(event);
      case "permission.resolved": return this.answered(event);
      case "phase":
        this.phase = event.phase;
        return [{ kind: "phase" }];
      case "presence":
        this.watchers = event.watchers;
        return [{ kind: "presence" }];
      case "conversation.closed":
        this.closed = event.reason ?? "closed";
        return [{ kind: "closed" }];
      default: return this.delta(event);
    }
  }

  started({ turn_id, model, created_at, items }) {
    if (this.turns.some((turn) => turn.id === turn_id)) return [];
    const ids = new Set(items.map((item) => item.id).filter(Boolean));
    // Asked again, a question takes its old answer's place.
    const again = this.turns.findIndex((turn) => turn.question.some((item) => ids.has(item.id)));
    const changes = [];
    if (again >= 0) changes.push({ kind: "removed", turns: this.turns.splice(again) });
    const turn = newTurn({ id: turn_id, model, created_at, question: items });
    this.turns.push(turn);
    return [...changes, { kind: "turn", turn }];
  }

  // Where a turn is, or -1. One that was listed as items is known by the question's ids alone.
  indexOf(turnId) {
    const hex = turnId.replaceAll("-", "");
    return this.turns.findLastIndex((turn) =>
      turn.id === turnId || turn.question.some((item) => item.id?.includes(hex)));
  }

  // It will be asked again.
  removed({ turn_id }) {
    const at = this.indexOf(turn_id);
    return at < 0 ? [] : [{ kind: "removed", turns: this.turns.splice(at, 1) }];
  }

  // The conversation holds these too, and they get no answer.
  added({ items }) {
    return turnsOf(items).map((turn) => {
      this.turns.push(turn);
      return { kind: "turn", turn };
    });
  }

  delta(event) {
    const turn = this.turns.findLast((one) => one.id === event.turn_id);
    if (!turn || turn.state !== "running") return [];
    switch (event.type) {
      case "text.delta": return grow(turn, "text", event.text);
      case "reasoning.delta": return grow(turn, "reasoning", event.text);
      case "refusal": return grow(turn, "refusal", event.text);
      case "tool_call.started":
        return add(turn, { kind: "call", id: event.call_id, index: event.index, name: event.name, arguments: "", open: true });
      case "tool_call.delta":
        return change(turn, (part) => part.kind === "call" && part.index === event.index && part.open, (part) => (part.arguments += event.arguments));
      case "activity.started":
        return add(turn, { kind: "activity", id: event.call_id, name: event.name, arguments: "", open: true });
      case "activity.delta":
        return change(turn, (part) => part.id === event.call_id, (part) => (part.arguments += event.arguments));
      case "activity.ended":
        return change(turn, (part) => part.id === event.call_id, (part) =>
          Object.assign(part, { output: event.output ?? "", failed: Boolean(event.is_error), open: false }));
      case "search.started":
        return add(turn, { kind: "activity", id: event.call_id, name: "web_search", arguments: queryOf(event.arguments), open: true });
      case "search.ended":
        return change(turn, (part) => part.id === event.call_id, (part) =>
          Object.assign(part, { output: addresses(event.sources), failed: Boolean(event.error), open: false }));
      default: return [];
    }
  }

  finished({ turn_id, finish_reason, usage, items }) {
    const turn = this.turns.findLast((one) => one.id === turn_id);
    if (!turn) return [];
    const whole = partsOf(items ?? []);
    const rebuilt = !same(turn.parts, whole);
    if (rebuilt) turn.parts = whole;
    close(turn);
    Object.assign(turn, { state: "done", reason: finish_reason, usage });
    turn.ids = (items ?? []).map((item) => item.id);
    return [{ kind: "ended", turn, rebuilt }];
  }

  // Stopped by a person, its answer stays as far as it came (`items`); else nothing is left of it.
  failed({ turn_id, error, items = null, finish_reason = null, usage = null }) {
    if (items) return this.finished({ turn_id, finish_reason, usage, items });
    const turn = this.turns.findLast((one) => one.id === turn_id);
    if (!turn) return [];
    close(turn);
    Object.assign(turn, { state: "failed", error });
    return [{ kind: "ended", turn, rebuilt: false }];
  }

  // This turn has never been.
  drop(turn) {
    this.turns.splice(this.turns.indexOf(turn), 1);
    return [{ kind: "removed", turns: [turn] }];
  }

  // No connection goes on with the turns that run.
  stopRunning() {
    const stopped = this.turns.filter((turn) => turn.state === "running");
    for (const turn of stopped) {
      close(turn);
      Object.assign(turn, { state: "done", reason: "incomplete" });
    }
    return stopped.map((turn) => ({ kind: "ended", turn, rebuilt: false }));
  }

  asked(permission) {
    if (this.permissions.has(permission.request_id)) return [];
    this.permissions.set(permission.request_id, permission);
    return [{ kind: "permission", permission }];
  }

  answered({ request_id, behavior, by }) {
    const permission = this.permissions.get(request_id);
    if (!permission) return [];
    this.permissions.delete(request_id);
    return [{ kind: "settled", permission, behavior, by }];
  }
}

function sameQuestion(one, other) {
  return one.question.some(({ id }) => id && other.question.some((item) => item.id === id));
}

function newTurn(given) {
  return { parts: [], state: "running", usage: null, reason: null, error: null, ...given };
}

// A turn that was running when this client joined; its question may be among the items already.
function runningTurn({ turn_id, model, created_at, items, output }, turns) {
  const ids = new Set(items.map((item) => item.id).filter(Boolean));
  const listed = turns.findIndex((turn) => turn.question.some((item) => ids.has(item.id)));
  if (listed >= 0) turns.splice(listed);
  const turn = newTurn({ id: turn_id, model, created_at, question: items, parts: partsOf(output ?? []) });
  const last = turn.parts[turn.parts.length - 1];
  if (last) last.open = true;
  return turn;
}

const isQuestion = (item) =>
  item.type === "function_call_output" || (item.type === "message" && item.role !== "assistant");

// Items, oldest first, as turns.
export function turnsOf(items) {
  const turns = [];
  let turn = null;
  for (const item of items) {
    if (!turn || (isQuestion(item) && turn.output.length)) {
      turn = newTurn({ id: `of ${item.id}`, question: [], output: [], state: "done" });
      turns.push(turn);
    }
    (isQuestion(item) ? turn.question : turn.output).push(item);
  }
  for (const one of turns) {
    one.parts = partsOf(one.output);
    // Items do not say why an answer ended early, only that it did.
    if (one.output.some((item) => item.status === "incomplete")) one.reason = "incomplete";
  }
  return turns;
}

export function partsOf(items) {
  return items.flatMap((item) => {
    switch (item.type) {
      case "message":
        return item.content.map((content) =>
          content.type === "refusal"
            ? { kind: "refusal", text: content.refusal, open: false }
            : { kind: "text", text: content.text ?? "", open: false });
      case "reasoning": {
        const text = [...(item.summary ?? []), ...(item.content ?? [])].map((one) => one.text).join("\n\n");
        return text ? [{ kind: "reasoning", text, open: false }] : [];
      }
      case "function_call":
        return [{ kind: "call", id: item.call_id, name: item.name, arguments: item.arguments, open: false }];
      case "mcp_call":
        return [{
          kind: "activity", id: item.call_id ?? item.id, name: item.name, arguments: item.arguments ?? "",
          output: item.error ? (item.error.message ?? item.output) : (item.output ?? undefined), failed: Boolean(item.error), open: item.status === "in_progress",
        }];
      case "web_search_call":
        return [{
          kind: "activity", id: item.id, name: "web_search", arguments: item.action?.query ?? "",
          output: addresses(item.action?.sources), failed: item.status === "failed", open: item.status === "in_progress",
        }];
      default: return [];
    }
  });
}

// What was searched for, out of the JSON that says it.
function queryOf(given) {
  try {
    const { query } = JSON.parse(given);
    return typeof query === "string" ? query : "";
  } catch {
    return "";
  }
}

function addresses(sources) {
  return (sources ?? []).map((source) => source.url).join("\n");
}

function close(turn) {
  for (const part of turn.parts) {
    // A tool that was still at work when the turn ended never came to anything.
    if (part.open && part.kind === "activity") part.dropped = true;
    part.open = false;
  }
}

function add(turn, part) {
  const last = turn.parts[turn.parts.length - 1];
  if (last && "text" in last) last.open = false;
  turn.parts.push(part);
  return [{ kind: "part", turn, part }];
}

function grow(turn, kind, text) {
  const last = turn.parts[turn.parts.length - 1];
  if (last?.kind === kind && last.open) {
    last.text += text;
    return [{ kind: "grown", turn, part: last, text }];
  }
  return text ? add(turn, { kind, text, open: true }) : [];
}

function change(turn, which, how) {
  const part = turn.parts.findLast(which);
  if (!part) return [];
  how(part);
  return [{ kind: "changed", turn, part }];
}

function same(parts, whole) {
  return parts.length === whole.length && parts.every((part, at) => {
    const other = whole[at];
    return part.kind === other.kind && part.text === other.text && part.name === other.name
      && part.output === other.output && part.arguments === other.arguments;
  });
}

// What an answer says, for copying and reading aloud.
export function answerText(turn) {
  return turn.parts.filter((part) => part.kind === "text" || part.kind === "refusal").map((part) => part.text).join("\n\n");
}

// What was asked, in words alone.
export function questionText(items) {
  return items.flatMap((item) => (Array.isArray(item.content) ? item.content : []))
    .map((content) => content.text ?? "").filter(Boolean).join("\n");
}
