// The gateway's overview, for everything on the page that shows some of it.
//
// Knows: the socket /v1/overview, open for as long as the page is seen, and the last minutes of what
// it said. Refuses to know: how any of it looks.

import { socketAddress } from "./api.js";
import { Channel } from "./channel.js";
import { socketProtocols } from "./keys.js";

export const PAST = 90; // seconds that are kept
const MOST = 1000; // snapshots at most; there are five a second when much happens

export class OverviewWatch {
  constructor() {
    this.listeners = new Set();
    this.past = []; // {at, seen, overview}: `seen` by this browser's clock, in seconds
    this.state = "closed";
    this.channel = new Channel({
      address: () => socketAddress("v1/overview"),
      protocols: socketProtocols,
      received: (message) => message.type === "overview" && this.receive(message),
      changed: (state) => {
        this.state = state;
        this.notify();
      },
    });
    document.addEventListener("visibilitychange", () => this.look());
  }

  // Begin; called once the gateway is known to answer.
  start() {
    this.started = true;
    this.look();
  }

  look() {
    const seen = this.started && document.visibilityState === "visible";
    if (seen && this.channel.state === "closed") this.channel.start();
    else if (!seen && this.channel.state !== "closed") this.channel.stop();
  }

  // `listen(overview, watch)` is called at once if anything is known, and with every snapshot; `overview`
  // is null before the first. Returns how to end it.
  listen(listener) {
    this.listeners.add(listener);
    listener(this.latest, this);
    return () => this.listeners.delete(listener);
  }

  get latest() {
    return this.past.length ? this.past[this.past.length - 1].overview : null;
  }

  receive(overview) {
    const seen = performance.now() / 1000;
    this.past.push({ seen, overview });
    const kept = this.past.findIndex((one) => one.seen > seen - PAST - 10);
    if (kept > 0) this.past.splice(0, kept);
    if (this.past.length > MOST) this.past = this.past.filter((_, at) => at % 2 === 0 || at > MOST / 2);
    this.notify();
  }

  notify() {
    for (const listener of this.listeners) listener(this.latest, this);
  }
}

// The children that work, of a snapshot's `children`.
export const busyChildren = ({ live, warm, idle }) => Math.max(0, live - warm - idle);
