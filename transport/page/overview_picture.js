// The picture of the overview, drawn as a house: a window for each child, a room for each phase.
//
// Knows: how a plan is drawn and what moves when the numbers change; the moving itself is CSS's.
// Refuses to know: sockets.

import { h, s } from "./dom.js";
import { WORDS, plan, sessionPlaces, windowLights } from "./overview_plan.js";

export class OverviewPicture {
  constructor() {
    this.drawing = s("svg", { class: "drawing", role: "img", "aria-label": "Overview: the supervisor at the top, a window for each child, sessions in rooms by their phase. The tables below say the same." });
    // Who looks for a conversation finds it in the list; here it is a shortcut for a pointer.
    this.drawing.addEventListener("click", ({ target }) => {
      const id = target.closest(".cell")?.dataset.id;
      if (id) location.hash = `#/c/${id}`;
    });
    this.element = h("figure", { class: "overview-picture" }, this.drawing);
    this.cells = new Map();
    this.overview = null;
    this.drawn = "";
    this.sizes = new ResizeObserver(() => this.show(this.overview));
    this.sizes.observe(this.element);
  }

  close() {
    this.sizes.disconnect();
  }

  show(overview) {
    this.overview = overview;
    const width = Math.floor(this.element.clientWidth);
    if (!overview || !width) return;
    const { limit } = overview.children;
    if (this.drawn !== `${width} ${limit}`) {
      this.drawn = `${width} ${limit}`;
      this.draw(plan(width, limit));
    }
    this.light(overview);
    this.move(overview);
  }

  // -- what stays ------------------------------------------------------------------------------------

  draw(made) {
    this.plan = made;
    const { width, height, earth } = made;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.drawing.setAttribute("height", height);
    this.people = s("g", { class: "people" });
    this.cells.clear();
    this.drawing.replaceChildren(
      s("circle", { class: "sky-light", cx: width - 40, cy: 40, r: 15 }),
      ...this.trees(),
      ...this.chimney(),
      s("rect", { class: "soil", x: 0, y: earth, width, height: height - earth }),
      s("rect", { class: "walls", x: made.left, y: made.upper, width: made.right - made.left, height: earth - made.upper }),
      ...this.roof(),
      ...this.upperFloor(),
      ...made.rooms.map((room) => this.room(room)),
      s("path", { class: "earth", d: `M0 ${earth}H${made.left}M${made.right} ${earth}H${width}` }),
      this.outside(),
      this.people,
    );
  }

  roof() {
    const { left, right, middle, top, bottom } = this.plan.roof;
    const y = bottom - (bottom - top) * 0.42;
    this.beat = s("circle", { class: "beat", cx: middle, cy: y, r: 9 });
    return [
      s("path", { class: "roof", d: `M${left} ${bottom}L${middle} ${top}L${right} ${bottom}Z` }),
      this.beat,
      s("circle", { class: "lamp", cx: middle, cy: y, r: 9 }),
      s("text", { class: "sign", x: middle, y: bottom - 10 }, "supervisor"),
    ];
  }

  trees() {
    const { narrow, right, width, earth } = this.plan;
    if (narrow) return [];
    const place = (x, size) => s("g", {}, s("path", { class: "trunk", d: `M${x} ${earth}v${-size}` }), s("ellipse", { class: "tree", cx: x, cy: earth - size * 1.5, rx: size * 0.62, ry: size }));
    const middle = (right + width) / 2;
    return [place(middle - 14, 40), place(middle + 24, 26)];
  }

  chimney() {
    const { middle, right, top, bottom } = this.plan.roof;
    const x = middle + (right - middle) * 0.42;
    const y = top + (bottom - top) * 0.42;
    this.smoke = s("g", { class: "smoke" }, ...[0, 1, 2].map((at) => s("circle", { class: `puff puff-${at}`, cx: x + 9, cy: y - 24, r: 5 })));
    return [this.smoke, s("path", { class: "chimney", d: `M${x} ${y + 20}V${y - 16}H${x + 18}V${y + 32}Z` })];
  }

  upperFloor() {
    const { windows, left, right, upper } = this.plan;
    this.tally = s("text", { class: "room-count", x: right - 14, y: upper + 22 });
    this.windows = windows.places.map(({ x, y, width: w, height: hgt }) => {
      const pane = s("rect", { class: "slot free", x, y, width: w, height: hgt, rx: 3 });
      const bars = s("path", { class: "bars", d: `M${x + w / 2} ${y}V${y + hgt}M${x} ${y + hgt / 2}H${x + w}` });
      return { pane, group: s("g", {}, pane, bars) };
    });
    return [s("text", { class: "room-name", x: left + 14, y: upper + 22 }, "Children"), this.tally, ...this.windows.map(({ group }) => group)];
  }

  room(room) {
    const { x, y, width: w, height: hgt } = room;
    room.count = s("text", { class: "room-count", x: x + w - 12, y: y + 19 });
    room.shape = s("rect", { class: `room ${room.key}`, x, y, width: w, height: hgt });
    return s("g", {}, room.shape, s("text", { class: "room-name", x: x + 14, y: y + 19 }, room.name), room.count);
  }

  outside() {
    const { queue, narrow } = this.plan;
    this.waiting = s("g", { class: "queue" });
    this.waitingWord = s("text", { class: "room-name", x: narrow ? queue.x + 8 : 12, y: narrow ? queue.y + 22 : queue.y - 22 });
    return s("g", {}, this.waiting, this.waitingWord);
  }

  // -- what changes ----------------------------------------------------------------------------------

  light({ children, turns, draining }) {
    const lights = windowLights(children, this.windows.length);
    this.windows.forEach(({ pane }, at) => pane.setAttribute("class", `slot ${lights[at]}`));
    this.tally.textContent = `${children.live} of ${children.limit}`;
    this.smoke.toggleAttribute("data-on", turns.running > 0);
    this.drawing.toggleAttribute("data-draining", draining);
    // The same element again would not start its animation anew.
    const beat = this.beat.cloneNode();
    this.beat.replaceWith(beat);
    this.beat = beat;
    this.queueUp(children.waiting);
  }

  queueUp(waiting) {
    const { queue, narrow } = this.plan;
    const shown = Math.min(waiting, queue.most);
    while (this.waiting.children.length > shown) this.waiting.lastChild.remove();
    while (this.waiting.children.length < shown) {
      const at = this.waiting.children.length;
      this.waiting.append(s("circle", { class: "queued", cx: narrow ? queue.x + 14 + at * 17 : queue.x - at * 17, cy: queue.y, r: 5.5 }));
    }
    this.waitingWord.textContent = waiting ? `${waiting} waiting` : "";
  }

  move({ sessions, phases }) {
    const { placed, more } = sessionPlaces(this.plan.rooms, sessions, phases);
    const seen = new Set();
    for (const { session, key, x, y } of placed) {
      seen.add(key);
      this.place(key, session, x, y);
    }
    for (const [key, cell] of this.cells) {
      if (seen.has(key)) continue;
      cell.remove();
      this.cells.delete(key);
    }
    for (const room of this.plan.rooms) {
      const { all, hidden } = more.get(room.key);
      room.count.textContent = hidden ? `${all}, ${hidden} not drawn` : all ? String(all) : "";
      room.shape.toggleAttribute("data-used", all > 0);
    }
  }

  place(key, session, x, y) {
    let cell = this.cells.get(key);
    if (!cell) {
      const window = s("rect", { width: 13, height: 13, rx: session.profile === "agent" ? 6.5 : 3 });
      cell = s("g", { data: { id: session.id } }, s("title"), window);
      this.cells.set(key, cell);
      this.people.append(cell);
    }
    cell.setAttribute("class", `cell ${session.phase}`);
    cell.style.transform = `translate(${x}px, ${y}px)`;
    const turns = session.turns === 1 ? "1 turn" : `${session.turns} turns`;
    cell.querySelector("title").textContent = `${session.model ?? "a session"}: ${WORDS[session.phase] ?? session.phase}, ${turns}`;
  }
}
