// Where everything stands in the picture of the overview, which is drawn as a house.
//
// Pure: a width and numbers in, places in pixels out. Knows: rooms, which phase lives where, windows
// and how many fit. Refuses to know: elements and colours.

const EDGE = 14;
const EAVES = 12;
const CELL = 20; // one session, with the space around it
const NAME = 26; // height of a room's name
const YARD = 108; // beside a wide house: on the left, turns wait
const WIDEST = 680; // of the house itself; beyond, there is more of the yard

// Rooms of the ground floor: name, the phases that live there.
const ROOMS = [
  { name: "At work", key: "work", phases: ["busy", "interrupting"] },
  { name: "Waiting for tools", key: "tools", phases: ["awaiting_tools"] },
  { name: "Idle", key: "idle", phases: ["idle"] },
  { name: "Coming and going", key: "door", phases: ["waking", "releasing", "stopping"] },
];
const CELLAR = { name: "Asleep", key: "cellar", phases: ["asleep", "backoff", "closed"] };

export const WORDS = {
  busy: "at work", interrupting: "interrupting", awaiting_tools: "waiting for tools", idle: "idle",
  waking: "waking", releasing: "releasing", stopping: "stopping", asleep: "asleep", backoff: "backing off", closed: "closed",
};

// The plan of a house `width` pixels wide with room for `limit` children.
export function plan(width, limit) {
  const narrow = width < 560;
  const wide = Math.floor(narrow ? width - 2 * EDGE : Math.min(WIDEST, width - 2 * YARD));
  const left = Math.floor((width - wide) / 2);
  const right = left + wide;
  const roof = { left: left - EAVES, right: right + EAVES, top: 26, bottom: narrow ? 104 : 138 };
  roof.middle = (left + right) / 2;
  const windows = windowPlaces({ left, top: roof.bottom + NAME + 12, wide, limit, narrow });
  const ground = windows.bottom + 18;
  const across = narrow ? 2 : ROOMS.length;
  const roomHeight = narrow ? 84 : 104;
  const rooms = ROOMS.map((room, at) => ({
    ...room,
    x: left + ((at % across) * wide) / across,
    y: ground + Math.floor(at / across) * roomHeight,
    width: wide / across,
    height: roomHeight,
  }));
  const earth = ground + roomHeight * Math.ceil(ROOMS.length / across);
  const yard = narrow ? 46 : 0; // below a narrow house there is no room beside it
  rooms.push({ ...CELLAR, x: left, y: earth, width: wide, height: narrow ? 92 : 84 });
  return {
    narrow, width, height: earth + (narrow ? 92 : 84) + EDGE + yard, left, right, roof, windows, rooms, earth, upper: roof.bottom,
    queue: narrow ? { x: left, y: earth + 92 + EDGE + 18, most: 14 } : { x: left - 22, y: earth - 12, most: 5 },
  };
}

function windowPlaces({ left, top, wide, limit, narrow }) {
  const [w, hgt, gap] = narrow ? [24, 30, 9] : [30, 38, 14];
  const inner = wide - 40;
  const across = Math.max(1, Math.floor((inner + gap) / (w + gap)));
  const most = across * 3;
  const shown = Math.min(limit, most);
  const row = Math.min(across, Math.ceil(shown / Math.ceil(shown / across)));
  const step = row > 1 ? Math.min(w * 2.2, (inner - w) / (row - 1)) : 0;
  const first = left + (wide - step * (row - 1) - w) / 2;
  const places = Array.from({ length: shown }, (_, at) => ({
    x: Math.round(first + (at % row) * step),
    y: top + Math.floor(at / row) * (hgt + gap),
    width: w,
    height: hgt,
  }));
  return { places, bottom: top + Math.ceil(shown / row) * (hgt + gap) - gap };
}

// What each window shows: busy, idle, warm or free, in that order, so that light comes from the left.
export function windowLights(children, count) {
  const { live, warm, idle } = children;
  const busy = Math.max(0, live - warm - idle);
  return Array.from({ length: count }, (_, at) =>
    at < busy ? "busy" : at < busy + idle ? "idle" : at < busy + idle + warm ? "warm" : "free");
}

// Where each session stands: {session, key, x, y} for those that fit, and how many more are in
// each room. `counts` has the whole numbers by phase, of which `sessions` may be the first only.
export function sessionPlaces(rooms, sessions, counts) {
  const placed = [];
  const more = new Map();
  let unnamed = 0;
  const keyed = sessions.map((session) => ({ session, key: session.id ?? `other ${unnamed++}` }));
  for (const room of rooms) {
    const inside = keyed.filter(({ session }) => room.phases.includes(session.phase));
    const across = Math.max(1, Math.floor((room.width - 20) / CELL));
    const fit = across * Math.max(1, Math.floor((room.height - NAME - 10) / CELL));
    inside.slice(0, fit).forEach((one, at) =>
      placed.push({ ...one, x: room.x + 14 + (at % across) * CELL, y: room.y + NAME + 6 + Math.floor(at / across) * CELL }));
    const all = room.phases.reduce((sum, phase) => sum + (counts?.[phase] ?? 0), 0);
    more.set(room.key, { all: Math.max(all, inside.length), hidden: Math.max(all, inside.length) - Math.min(fit, inside.length) });
  }
  return { placed, more };
}
