// A WebSocket that comes back.
//
// Knows: connecting, waiting longer after every failure, noticing that a connection is dead though
// it was not closed on purpose. Refuses to know what is said over it. `address()` is asked anew each time, so
// that it can say what was seen last.

const FIRST_WAIT = 400; // ms; doubled after every failure
const LONGEST_WAIT = 15_000;
const QUIET = 25_000; // ms without a word after which the other side is asked for one
const ANSWER = 8_000; // ms it has for that
const OPENING = 12_000; // ms a handshake may take

export class Channel {
  // `received(message)`, `changed(state)`; states: connecting, open, waiting (`retryAt`), closed.
  // `refused()` is asked after a handshake that failed, and resolves to true where trying again
  // is of no use.
  constructor({ address, protocols, received, changed = () => {}, refused = async () => false, pings = true }) {
    Object.assign(this, { address, protocols, received, changed, refused, pings });
    this.state = "closed";
    this.failures = 0;
    this.retryAt = 0;
    this.socket = null;
    this.timers = {};
    this.hurry = () => this.state === "waiting" && document.visibilityState === "visible" && this.connect();
    this.doubt = () => this.state === "open" && this.probe();
  }

  start() {
    addEventListener("online", this.hurry);
    addEventListener("offline", this.doubt);
    document.addEventListener("visibilitychange", this.hurry);
    this.connect();
  }

  stop() {
    removeEventListener("online", this.hurry);
    removeEventListener("offline", this.doubt);
    document.removeEventListener("visibilitychange", this.hurry);
    this.become("closed");
    this.drop();
  }

  // Whether it was handed to the socket; no more is known here.
  send(message) {
    if (this.state !== "open" || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  become(state) {
    this.state = state;
    this.changed(state);
  }

  connect() {
    this.drop();
    this.become("connecting");
    const socket = new WebSocket(this.address(), this.protocols());
    this.socket = socket;
    let opened = false;
    this.after("opening", OPENING, () => this.lost(socket, opened));
    socket.onopen = () => {
      opened = true;
      clearTimeout(this.timers.opening);
      this.become("open");
      this.listen();
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.failures = 0;
      this.listen();
      this.received(JSON.parse(data));
    };
    socket.onclose = () => this.lost(socket, opened);
  }

  async lost(socket, opened) {
    if (socket !== this.socket) return;
    this.drop();
    this.failures += 1;
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** Math.min(this.failures - 1, 8));
    const spread = wait * (0.75 + Math.random() / 2); // not all pages at once after a restart
    this.retryAt = Date.now() + spread;
    this.become("waiting");
    if (!opened && (await this.refused())) {
      if (this.state === "waiting") this.stop();
      return;
    }
    if (this.state === "waiting") {
      this.after("retry", Math.max(0, this.retryAt - Date.now()), () => this.connect());
    }
  }

  // What was joined is not there just now: break the connection, and come back soon.
  rejoin() {
    if (this.state !== "closed") this.lost(this.socket, true);
  }

  // Break the connection and come back at once.
  again() {
    if (this.state !== "closed") this.connect();
  }

  listen() {
    clearTimeout(this.timers.answer);
    if (this.pings) this.after("quiet", QUIET, () => this.probe());
  }

  probe() {
    if (!this.pings) return;
    this.send({ type: "ping" });
    this.after("answer", ANSWER, () => this.lost(this.socket, true));
  }

  after(name, wait, act) {
    clearTimeout(this.timers[name]);
    this.timers[name] = setTimeout(act, wait);
  }

  drop() {
    for (const timer of Object.values(this.timers)) clearTimeout(timer);
    const { socket } = this;
    this.socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }
}
