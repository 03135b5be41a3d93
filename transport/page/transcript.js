// The transcript: turns as articles, kept up to date by the changes of a story.
//
// Knows: where each turn and part is shown, writing at most once per frame, staying at the end of
// the text for as long as the reader does. Refuses to know: where changes come from; `acts` says
// what its buttons do.

import { announce, button, copyButton, h } from "./dom.js";
import { partView, questionElement } from "./parts.js";
import { answerText } from "./story.js";

const NEAR = 90; // px from the end that still count as being there

export class Transcript {
  constructor({ log, scroll, jump, acts, permissions }) {
    Object.assign(this, { log, scroll, jump, acts, permissions });
    this.views = new Map(); // by turn
    this.written = new Map(); // text of this frame, by part
    this.frame = 0;
    this.following = true;
    scroll.addEventListener("scroll", () => this.look(), { passive: true });
    jump.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.follow()).observe(log);
    new ResizeObserver(() => this.follow()).observe(scroll);
  }

  reset(story) {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.written.clear();
    this.views.clear();
    this.log.replaceChildren();
    this.showEarlier(story);
    for (const turn of story.turns) this.addTurn(turn);
    this.markLast();
    this.following = true;
    this.toEnd();
  }

  addTurn(turn, before = null) {
    const view = new TurnView(turn, this.acts);
    this.views.set(turn, view);
    if (before) before.before(view.element);
    else this.log.append(view.element);
    return view;
  }

  apply(change, story) {
    const view = change.turn && this.views.get(change.turn);
    switch (change.kind) {
      case "reset": return this.reset(story);
      case "turn":
        this.addTurn(change.turn);
        this.markLast();
        return this.follow();
      case "removed":
        for (const turn of change.turns) {
          this.views.get(turn)?.element.remove();
          this.views.delete(turn);
        }
        return undefined;
      case "grown": return this.write(view, change.part, change.text);
      case "part":
        this.flush();
        return view?.addPart(change.part);
      case "changed":
        this.flush();
        return view?.changed(change.part);
      case "ended":
        this.flush();
        view?.end(change.rebuilt);
        this.markLast();
        if (change.turn.state === "done") announce(`${change.turn.reason === "interrupted" ? "Stopped" : "Answer"}: ${answerText(change.turn)}`);
        return undefined;
      case "permission": return this.place(change.permission);
      case "settled": return this.permissions.settled(change.permission, change.behavior, change.by);
      default: return undefined;
    }
  }

  // Text waits for the next frame, so that a burst of tokens is one change of the document.
  write(view, part, text) {
    if (!view) return;
    const waiting = this.written.get(part);
    if (waiting) waiting.text += text;
    else this.written.set(part, { view, text });
    this.frame ||= requestAnimationFrame(() => this.flush());
    // A page in the background gets no frames; what it holds back must not grow for ever.
    if (document.hidden) this.flush();
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    for (const [part, { view, text }] of this.written) view.grow(part, text);
    this.written.clear();
  }

  place(permission) {
    const turn = [...this.views.keys()].findLast((one) => one.id === permission.turn_id);
    const card = this.permissions.card(permission);
    const view = turn && this.views.get(turn);
    if (view) view.addCard(card);
    else this.log.append(card);
    this.follow();
  }

  showEarlier(story) {
    this.log.querySelector(":scope > .earlier")?.remove();
    if (!story.earliest) return;
    const more = button("Earlier messages", { class: "also" });
    more.addEventListener("click", () => this.acts.earlier(more));
    this.log.prepend(h("div", { class: "earlier" }, more));
  }

  // Older turns come above; what is being read stays where it is.
  prepend(turns, story) {
    const height = this.scroll.scrollHeight;
    const first = [...this.log.children].find((child) => !child.matches(".earlier")) ?? null;
    for (const turn of turns) this.addTurn(turn, first);
    this.showEarlier(story);
    this.following = false;
    this.scroll.scrollTop += this.scroll.scrollHeight - height;
  }

  markLast() {
    const views = [...this.views.values()];
    views.forEach((view, at) => view.last(at === views.length - 1));
  }

  look() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    this.following = scrollHeight - scrollTop - clientHeight < NEAR;
    this.jump.hidden = this.following;
  }

  follow() {
    if (this.following) this.scroll.scrollTop = this.scroll.scrollHeight;
    else this.look();
  }

  toEnd() {
    this.following = true;
    this.jump.hidden = true;
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }
}

class TurnView {
  constructor(turn, acts) {
    this.turn = turn;
    this.acts = acts;
    this.parts = new Map();
    this.answer = h("div", { class: "answer" }, h("h3", { class: "vh" }, "Answer"));
    this.element = h("article", { class: "turn" }, questionElement(turn.question), this.answer);
    for (const part of turn.parts) this.addPart(part);
    if (turn.state === "running") this.wait();
    else this.end(false);
  }

  wait() {
    const lights = h("span", { class: "lights", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    this.waiting = h("p", { class: "waiting" }, lights, h("span", { class: "vh" }, "Working on it"));
    this.answer.append(this.waiting);
  }

  append(element) {
    if (this.waiting) this.waiting.before(element);
    else this.answer.append(element);
  }

  addPart(part) {
    for (const [other, view] of this.parts) if (other.open === false && !view.ended) this.endPart(view);
    const view = partView(part);
    this.parts.set(part, view);
    this.append(view.element);
    if (part.open === false) this.endPart(view);
    return view;
  }

  endPart(view) {
    view.ended = true;
    view.end();
  }

  grow(part, text) {
    this.parts.get(part)?.grow(text);
  }

  changed(part) {
    this.parts.get(part)?.change();
  }

  addCard(card) {
    this.append(card);
  }

  // The cards of this answer, and behind how many of its parts each stands.
  cards() {
    const follows = ({ element }, card) => element.compareDocumentPosition(card) & Node.DOCUMENT_POSITION_FOLLOWING;
    return [...this.answer.querySelectorAll(":scope > .permit")].map((card) =>
      ({ card, behind: [...this.parts.values()].filter((view) => follows(view, card)).length }));
  }

  end(rebuilt) {
    if (rebuilt) {
      const cards = this.cards();
      for (const view of this.parts.values()) view.element.remove();
      this.parts.clear();
      for (const part of this.turn.parts) this.addPart(part);
      const shown = [...this.parts.values()];
      for (const { card, behind } of cards.reverse()) {
        if (shown[behind - 1]) shown[behind - 1].element.after(card);
        else this.append(card);
      }
    }
    for (const view of this.parts.values()) this.endPart(view);
    this.waiting?.remove();
    this.waiting = null;
    this.answer.querySelector(":scope > .ending")?.remove();
    this.answer.querySelector(":scope > .mishap")?.remove();
    const mishap = this.mishap();
    if (mishap) this.answer.append(mishap);
    this.again = null;
    this.answer.append(this.ending());
  }

  mishap() {
    const { state, error, reason, question } = this.turn;
    const notice = (text, calm, ...buttons) => h("div", { class: calm ? "mishap calm" : "mishap" }, h("p", {}, text), ...buttons);
    if (state === "failed") {
      const stopped = error?.code === "turn_interrupted";
      const retry = button("Ask again", { on: { click: () => this.acts.ask(question) } });
      const edit = button("Edit", { on: { click: () => this.acts.edit(question) } });
      const text = stopped ? "Stopped. Nothing was written yet, and the conversation goes on as if this had not been asked." : (error?.message ?? "This went wrong.");
      return notice(text, stopped, retry, edit);
    }
    if (reason === "interrupted") return notice("Stopped. What was written stays in the conversation.", true);
    if (reason === "incomplete") return notice("This answer ended early.", true);
    if (reason === "length") return notice("The answer was cut off: it reached its longest length.", true);
    if (reason === "content_filter") return notice("The model declined to go on.", true);
    return null;
  }

  ending() {
    const { turn } = this;
    const row = h("div", { class: "ending" });
    if (turn.state === "done" && answerText(turn)) {
      row.append(copyButton(() => answerText(turn), "Copy the answer", { class: "quiet" }));
    }
    if (turn.state === "done" && turn.parts.length) {
      this.again = button("Answer again", { class: "quiet", icon: "again", "aria-label": "Answer again", on: { click: () => this.acts.regenerate() } }, h("span", {}, "Again"));
      row.append(this.again);
    }
    const facts = factsOf(turn);
    if (facts) row.append(h("span", { class: "facts" }, facts));
    return row;
  }

  last(is) {
    if (this.again) this.again.hidden = !is;
  }
}

function factsOf({ model, usage }) {
  if (!usage) return model ?? "";
  const number = new Intl.NumberFormat("en");
  const facts = [model, `${number.format(usage.output_tokens)} tokens`];
  const cost = usage.cost_usd?.toFixed(usage.cost_usd < 0.1 ? 4 : 2);
  if (Number(cost)) facts.push(`$${cost}`);
  return facts.filter(Boolean).join(" · ");
}
