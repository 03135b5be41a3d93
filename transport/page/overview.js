// The overview: who is at work in the gateway, as a picture that moves, lines that run, and tables.
//
// Knows: which number of a snapshot is shown where. Refuses to know: sockets (`watch` has one), and
// conversations' words.

import { byId, h, s } from "./dom.js";
import { compact, counted, dollars, whole } from "./figures.js";
import { limitTables } from "./overview_limits.js";
import { COLUMNS, nodeRows } from "./overview_nodes.js";
import { OverviewPicture } from "./overview_picture.js";
import { WORDS } from "./overview_plan.js";
import { Spark } from "./sparks.js";
import { UsagePanel } from "./usage.js";
import { busyChildren } from "./watch.js";

const RUNS = 500; // ms between two looks of a line that runs

const SPARKS = [
  { name: "Turns running", read: ({ turns }) => turns.running },
  { name: "Children at work", read: ({ children }) => busyChildren(children) },
  { name: "Tokens", read: ({ tokens }) => (tokens.prompt ?? 0) + (tokens.completion ?? 0), format: (value) => compact.format(value), rate: true },
  { name: "Cost", read: ({ cost_usd: cost }) => cost ?? 0, format: dollars },
  { name: "First words", read: ({ latency }) => latency?.first_delta_ms?.p50 ?? null, format: (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`) },
];

export class Overview {
  constructor(watch) {
    this.watch = watch;
    this.picture = new OverviewPicture();
    this.sparks = SPARKS.map((spark) => new Spark(spark));
    this.facts = h("p", { class: "overview-facts" });
    this.nodes = h("div", { class: "nodes figures-table", tabindex: "0", role: "region", "aria-label": "Gateways", hidden: "" });
    this.tables = h("div", { class: "tables" });
    this.usage = new UsagePanel();
    this.body = byId("overview-body");
    this.body.replaceChildren(
      this.picture.element,
      h("dl", { class: "sparks" }, ...this.sparks.map((spark) => spark.element)),
      this.facts,
      this.nodes,
      this.tables,
      this.usage.element,
    );
    this.end = watch.listen((overview) => this.show(overview));
    this.clock = setInterval(() => this.run(), matchMedia("(prefers-reduced-motion: reduce)").matches ? RUNS * 10 : RUNS);
  }

  close() {
    clearInterval(this.clock);
    this.end();
    this.picture.close();
    this.usage.close();
    this.body.replaceChildren();
  }

  show(overview) {
    this.showState(overview);
    if (!overview || overview === this.shown) return;
    this.shown = overview;
    this.picture.show(overview);
    this.run();
    this.showFacts(overview);
    this.showNodes(overview);
    this.showTables(overview);
  }

  showState(overview) {
    const words = this.watch.state === "open" ? (overview?.draining ? "draining: no new turns" : "") : "looking for the gateway…";
    const state = byId("overview-state");
    if (state.textContent !== words) state.textContent = words;
    state.hidden = !words;
  }

  run() {
    const now = performance.now() / 1000;
    for (const spark of this.sparks) spark.show(this.watch.past, now);
  }

  showFacts({ conversations, turns, cache, uptime_seconds: up }) {
    const asked = (cache?.hit ?? 0) + (cache?.miss ?? 0);
    const facts = [
      `up for ${span(up)}`,
      counted(conversations, "conversation"),
      `${counted(turns.finished, "turn")} finished${turns.failed ? `, ${whole.format(turns.failed)} failed` : ""}`,
      asked ? `${whole.format(cache.hit)} of ${whole.format(asked)} answers from the cache` : null,
    ];
    this.facts.textContent = facts.filter(Boolean).join(" · ");
  }

  showNodes({ nodes, at }) {
    const rows = nodeRows(nodes, at, span);
    this.nodes.hidden = !rows.length;
    const head = h("tr", {}, ...COLUMNS.map((name, number) => h("th", { scope: "col", class: number ? "figure" : "" }, name)));
    const row = ([name, ...figures]) => h("tr", {}, h("th", { scope: "row" }, name), ...figures.map((words) => h("td", { class: "figure" }, words)));
    this.nodes.replaceChildren(h("table", {}, h("caption", {}, "Gateways"), h("thead", {}, head), h("tbody", {}, ...rows.map(row))));
  }

  showTables({ sessions, phases, children, turns, tokens, cost_usd: cost, latency, mcp, logins }) {
    const counts = phases ?? Object.groupBy?.(sessions, ({ phase }) => phase) ?? {};
    const rows = Object.entries(counts).filter(([, count]) => count).map(([phase, count]) => [capital(WORDS[phase] ?? phase), count]);
    const first = latency?.first_delta_ms ?? {};
    const by = turns.by_child ?? {};
    this.tables.replaceChildren(
      table("Sessions by phase", rows.length ? rows : [["None", 0]]),
      table("Children", [["At work", busyChildren(children)], ["Idle", children.idle], ["Warm, for new conversations", children.warm], ["Room for", children.limit], ["Turns waiting for one", children.waiting]]),
      table("Turns by how they got their process", [
        ["The conversation's own", by.warm ?? 0], ["One that held a beginning of the history", by.prefix ?? 0], ["One emptied after another conversation", by.recycled ?? 0],
        ["One started ahead", by.prewarmed ?? 0], ["A new one", by.new ?? 0],
      ]),
      table("Work", [
        ["Turns running", turns.running], ["Tokens read", whole.format(tokens.prompt ?? 0)], ["Of them cached", whole.format(tokens.cached ?? 0)],
        ["Tokens written", whole.format(tokens.completion ?? 0)], ["Cost", dollars(cost ?? 0)],
        ["First words, half of the time within", first.p50 ? `${Math.round(first.p50)} ms` : "–"], ["Nearly always within", first.p95 ? `${Math.round(first.p95)} ms` : "–"],
      ]),
      ...(mcp?.length ? [table("MCP servers", mcp.map((server) => [server.name, serverWords(server)]))] : []),
      ...limitTables(logins).map(({ caption, rows }) => table(caption, rows.map(({ name, part, words }) => [name, part === null ? words : used(part, words)]))),
    );
  }
}

// How much of a window is used, as a bar that the words beside it say too.
function used(part, words) {
  return h("span", {}, h("span", { class: "used", "aria-hidden": "true", data: { full: part >= 0.9 ? "" : null } }, bar(part)), words);
}

function bar(part) {
  return s("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none" }, s("rect", { width: Math.round(part * 100), height: 4 }));
}

const SERVER_STATES = { connecting: "connecting", ready: "ready", needs_auth: "needs authorization", failed: "not there" };

function serverWords({ state, reason, tools, calls, errors }) {
  if (state !== "ready") return [SERVER_STATES[state] ?? state, reason].filter(Boolean).join(": ");
  return `${counted(tools, "tool")}, ${counted(calls, "call")}${errors ? `, ${counted(errors, "error")}` : ""}`;
}

function table(caption, rows) {
  return h("table", {}, h("caption", {}, caption), h("tbody", {}, ...rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value instanceof Node ? value : String(value))))));
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);

function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}
