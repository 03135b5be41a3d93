// The panel "Usage" of the overview: what the reader's key has used, or all keys for an admin's.
//
// Knows: GET /v1/usage, when to ask again, and which number is shown where. Refuses to know: what
// the numbers come to (`usage_sums`), and whose usage the reader may see, which the gateway decides.

import { ApiError, api } from "./api.js";
import { h } from "./dom.js";
import { counted, dollars, whole } from "./figures.js";
import { byKey, firstDay, hasSeveralKeys, keyName, newestFirst, sums } from "./usage_sums.js";

const AGAIN = 15_000; // ms between two questions, while the page is seen
const SHORT = 20; // rows that are shown at first

const SPANS = [["day", "Today"], ["week", "This week"], ["month", "This month"]];

export class UsagePanel {
  constructor() {
    this.all = false;
    this.note = h("p", { class: "usage-note", role: "status" });
    this.totals = SPANS.map(([span, name]) => ({ span, cost: h("dd", {}, "–"), rest: h("dd", { class: "usage-rest" }, "\u00a0"), name }));
    this.tables = h("div", { class: "usage-tables" });
    this.element = h(
      "section",
      { class: "usage", "aria-labelledby": "usage-title" },
      h("h2", { id: "usage-title" }, "Usage"),
      h("dl", { class: "usage-sums" }, ...this.totals.map(({ name, cost, rest }) => h("div", {}, h("dt", {}, name), cost, rest))),
      this.note,
      this.tables,
    );
    this.clock = setInterval(() => document.visibilityState === "visible" && this.ask(), AGAIN);
    this.ask();
  }

  close() {
    this.closed = true;
    clearInterval(this.clock);
  }

  async ask() {
    if (this.asking) return;
    this.asking = true;
    try {
      const { data } = await api.usage(firstDay());
      if (!this.closed) this.show(data);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!this.closed) this.say(`Usage is not known: ${error.message}`); // what was known stays
    } finally {
      this.asking = false;
    }
  }

  say(words) {
    if (this.note.textContent !== words) this.note.textContent = words;
    this.note.hidden = !words;
  }

  show(entries) {
    this.say(entries.length ? "" : "Nothing was used this month.");
    const summed = sums(entries);
    for (const { span, cost, rest } of this.totals) {
      const { turns, tokens, cost: usd } = summed[span];
      cost.textContent = dollars(usd);
      rest.textContent = `${counted(tokens, "token")}, ${counted(turns, "turn")}`;
    }
    const known = JSON.stringify(entries);
    if (known === this.known) return; // a selection, and the reader's place, stay
    this.known = known;
    this.entries = entries;
    this.showTables();
  }

  showTables() {
    const { entries } = this;
    const several = hasSeveralKeys(entries);
    const rows = newestFirst(entries);
    const shown = this.all ? rows : rows.slice(0, SHORT);
    const more = this.tables.contains(document.activeElement) && document.activeElement.className;
    this.tables.replaceChildren(
      ...(several ? [table("This month by key", ["Key"], byKey(entries).map(({ name, turns, tokens, cost }) => [[name], turns, tokens, cost]))] : []),
      ...(rows.length
        ? [table("By day and model", several ? ["Day (UTC)", "Key", "Model"] : ["Day (UTC)", "Model"], shown.map((entry) => [
            several ? [entry.day, keyName(entry), modelName(entry)] : [entry.day, modelName(entry)], entry.turns, entry.total_tokens, entry.cost_usd,
          ]))]
        : []),
      ...(shown.length < rows.length
        ? [h("button", { type: "button", class: "usage-more", on: { click: () => this.showAll() } }, `Show all ${whole.format(rows.length)} rows`)]
        : []),
    );
    if (more) this.tables.getElementsByClassName(more)[0]?.focus(); // where the keyboard was
  }

  showAll() {
    this.all = true;
    this.showTables();
    this.tables.lastElementChild.focus(); // the button is gone; the table that it has filled is there
  }
}

const modelName = ({ model }) => model ?? "not known";

// A table that scrolls by itself where it is too wide, by keyboard too.
function table(caption, names, rows) {
  const head = [...names.map((name) => [name, null]), ...["Turns", "Tokens", "USD"].map((name) => [name, "figure"])];
  return h(
    "div",
    { class: "usage-table figures-table", role: "region", "aria-label": caption, tabindex: "0" },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, ...head.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", {}, ...rows.map(([[first, ...further], turns, tokens, cost]) => h(
        "tr",
        {},
        h("th", { scope: "row" }, first),
        ...further.map((words) => h("td", {}, words)),
        ...[whole.format(turns), whole.format(tokens), dollars(cost)].map((words) => h("td", { class: "figure" }, words)),
      ))),
    ),
  );
}
