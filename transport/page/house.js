// The house: who is at work in the gateway, as a picture that moves.
//
// Knows: snapshots of the socket /v1/house, and where each thing stands in the picture. Refuses to
// know: conversations' words. What moves is moved by CSS; a table says the same in words.

import { socketAddress } from "./api.js";
import { Channel } from "./channel.js";
import { byId, h, s } from "./dom.js";
import { socketProtocols } from "./keys.js";

const ROOMS = [
  ["asleep", "Asleep"], ["waking", "Waking"], ["busy", "At work"], ["awaiting_tools", "Awaiting tools"],
  ["idle", "Idle"], ["interrupting", "Stopping a turn"], ["stopping", "Leaving"], ["backoff", "Resting"],
];
const WIDTH = 720;
const CELL = 22;
const PAST = 60; // snapshots in a line

export class House {
  constructor() {
    this.body = byId("house-body");
    this.past = [];
    this.cells = new Map();
    this.drawn = new Map(); // rooms and their names, by phase
    this.build();
    this.channel = new Channel({
      address: () => socketAddress("v1/house"),
      protocols: socketProtocols,
      pings: false,
      heard: (message) => message.type === "house" && this.take(message),
      changed: (state) => this.state(state),
    });
    this.channel.start();
  }

  close() {
    this.channel.stop();
    this.body.replaceChildren();
  }

  build() {
    this.figures = h("dl", { class: "figures" });
    this.slots = s("g", { class: "slots" });
    this.rooms = s("g", { class: "rooms" });
    this.people = s("g", { class: "people" });
    this.drawing = s("svg", { class: "drawing", viewBox: `0 0 ${WIDTH} 460`, role: "img", "aria-label": "The supervisor, the sessions by phase, and the children. The tables below say the same." }, s("g", { class: "roof" }, s("path", { d: "M16 84 360 18 704 84Z" }), s("text", { x: 360, y: 66, class: "sign" }, "supervisor")), this.rooms, this.slots, this.people);
    this.lines = h("div", { class: "lines" });
    this.table = h("div", { class: "tables" });
    this.body.replaceChildren(this.figures, h("figure", {}, this.drawing), this.lines, this.table);
    const across = 4;
    const wide = (WIDTH - 32) / across;
    this.places = new Map(ROOMS.map(([phase], at) => [phase, { x: 16 + (at % across) * wide, y: 96 + Math.floor(at / across) * 122, wide }]));
    for (const [phase, name] of ROOMS) {
      const { x, y, wide: w } = this.places.get(phase);
      const room = s("rect", { x: x + 3, y, width: w - 6, height: 114, rx: 8, class: "room" });
      const label = s("text", { x: x + 14, y: y + 20, class: "room-name" }, name);
      this.drawn.set(phase, { room, label });
      this.rooms.append(room, label);
    }
    this.slots.append(s("text", { x: 20, y: 366, class: "room-name" }, "Children"));
  }

  state(state) {
    const words = { open: "", connecting: "connecting", waiting: "connection lost", closed: "" }[state];
    byId("house-state").textContent = words;
    byId("house-state").hidden = !words;
  }

  take(house) {
    this.past.push(house);
    if (this.past.length > PAST) this.past.shift();
    this.showSessions(house.sessions);
    this.showChildren(house.children);
    this.showFigures(house);
    this.showLines();
    this.showTable(house);
    byId("house-state").hidden = !house.draining;
    if (house.draining) byId("house-state").textContent = "draining";
  }

  showSessions(sessions) {
    const seen = new Set();
    const counts = new Map();
    sessions.forEach((session, at) => {
      const key = session.id ?? `other ${at}`;
      seen.add(key);
      const number = counts.get(session.phase) ?? 0;
      counts.set(session.phase, number + 1);
      this.place(key, session, number);
    });
    for (const [phase, name] of ROOMS) {
      const { room, label } = this.drawn.get(phase);
      const count = counts.get(phase);
      room.classList.toggle("lit", phase === "busy" && Boolean(count));
      label.textContent = count ? `${name} · ${count}` : name; // a full room shows no more of them
    }
    for (const [key, cell] of this.cells) {
      if (seen.has(key)) continue;
      cell.remove();
      this.cells.delete(key);
    }
  }

  place(key, session, number) {
    const room = this.places.get(session.phase) ?? this.places.get("asleep");
    const across = Math.max(1, Math.floor((room.wide - 24) / CELL));
    const x = room.x + 14 + (number % across) * CELL;
    const y = room.y + 32 + Math.min(Math.floor(number / across), 3) * CELL;
    let cell = this.cells.get(key);
    if (!cell) {
      const window = s("rect", { width: 15, height: 15, rx: 3 });
      cell = session.id ? s("a", { href: `#/c/${session.id}`, tabindex: "-1" }, s("title"), window) : s("g", {}, s("title"), window);
      this.cells.set(key, cell);
      this.people.append(cell);
    }
    cell.setAttribute("class", `cell ${session.phase} ${session.profile ?? ""}`);
    cell.style.transform = `translate(${x}px, ${y}px)`;
    cell.querySelector("title").textContent = `${session.model ?? "a session"}: ${session.phase}, ${session.turns} turns`;
  }

  showChildren({ limit, live, warm, idle, waiting }) {
    const shown = Math.min(limit, 40);
    const step = Math.min(34, (WIDTH - 40) / shown);
    const kinds = [...Array(warm).fill("warm"), ...Array(idle).fill("idle"), ...Array(Math.max(0, live - warm - idle)).fill("busy")];
    const slots = Array.from({ length: shown }, (_, at) => s("rect", { x: 20 + at * step, y: 376, width: step - 6, height: 30, rx: 5, class: `slot ${kinds[at] ?? "free"}` }));
    const queue = Array.from({ length: Math.min(waiting, 40) }, (_, at) => s("circle", { cx: 26 + at * 14, cy: 446, r: 4.5, class: "queued" }));
    const name = this.slots.firstChild;
    const turns = waiting ? `Waiting for a child: ${waiting}` : "Nobody waits for a child";
    this.slots.replaceChildren(name, ...slots, s("text", { x: 20, y: 432, class: "room-name" }, turns), ...queue, s("text", { x: 704, y: 366, class: "room-name end" }, `${live} of ${limit}: ${warm} warm, ${idle} idle`));
  }

  showFigures({ turns, tokens, cost_usd: cost, conversations, latency, uptime_seconds: up }) {
    const number = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
    const first = latency?.first_delta_ms?.p50;
    const rows = [
      ["Turns running", turns.running], ["Finished", number.format(turns.finished)], ["Failed", sum(turns.failed)],
      ["Conversations", number.format(conversations)], ["Tokens", number.format((tokens.prompt ?? 0) + (tokens.completion ?? 0))],
      ["Cost", `$${(cost ?? 0).toFixed(2)}`], ["First words", first ? `${Math.round(first)} ms` : "–"], ["Up", span(up)],
    ];
    this.figures.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
  }

  showLines() {
    const of = (read) => this.past.map(read);
    const tokens = of(({ tokens: t }) => (t.prompt ?? 0) + (t.completion ?? 0));
    this.lines.replaceChildren(
      line("Turns running", of(({ turns }) => turns.running)),
      line("Tokens", tokens.map((value, at) => Math.max(0, value - (tokens[at - 1] ?? value)))),
      line("Waiting", of(({ children }) => children.waiting)),
    );
  }

  showTable({ sessions, children }) {
    const counts = new Map();
    for (const { phase } of sessions) counts.set(phase, (counts.get(phase) ?? 0) + 1);
    const rows = ROOMS.filter(([phase]) => counts.has(phase)).map(([phase, name]) => [name, counts.get(phase)]);
    this.table.replaceChildren(table("Sessions by phase", rows.length ? rows : [["none", 0]]), table("Children", Object.entries(children)));
  }
}

function line(name, values) {
  const most = Math.max(1, ...values);
  const points = values.map((value, at) => `${(at / (PAST - 1)) * 200},${38 - (value / most) * 34}`).join(" ");
  return h("figure", { class: "line", "aria-hidden": "true" }, s("svg", { viewBox: "0 0 200 40", preserveAspectRatio: "none" }, s("polyline", { points })), h("figcaption", {}, h("span", {}, name), h("b", {}, String(values[values.length - 1] ?? 0))));
}

function table(caption, rows) {
  return h("table", {}, h("caption", {}, caption), h("tbody", {}, ...rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, String(value))))));
}

const sum = (value) => (typeof value === "object" && value ? Object.values(value).reduce((all, one) => all + one, 0) : (value ?? 0));

function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
