/** What the tests of the gateway's own client share: tabs of a browser that is none. */

import { afterEach } from "node:test";
import { io } from "socket.io-client";
import { connect } from "../../../gateway/static/client/gateway.js";
import { URL_OF_GATEWAY } from "./helpers.mjs";

const WAIT_MS = 10_000;
const KEPT = ["session", "message", "presence", "room", "error", "goaway", "refused", "lost"];

/** @type {Set<Player>} */
const opened = new Set();

afterEach(() => {
  for (const player of opened) player.client.close();
  opened.clear();
});

/** Web storage, as far as the client uses it. */
export class FakeStorage {
  constructor(copied) {
    this.items = new Map(copied?.items);
  }

  getItem(key) {
    return this.items.get(key) ?? null;
  }

  setItem(key, value) {
    this.items.set(key, value);
  }

  removeItem(key) {
    this.items.delete(key);
  }

  get length() {
    return this.items.size;
  }

  key(index) {
    return [...this.items.keys()][index] ?? null;
  }

  /** The one record there is. */
  get record() {
    return JSON.parse([...this.items.values()][0] ?? "null");
  }
}

/** A window with its document. */
export class Tab extends EventTarget {
  /** @param {{local?: FakeStorage, copyOf?: Tab}} [browser] */
  constructor({ local = new FakeStorage(), copyOf } = {}) {
    super();
    this.localStorage = local;
    this.sessionStorage = new FakeStorage(copyOf?.sessionStorage);
    this.document = Object.assign(new EventTarget(), { hidden: false });
  }

  show(hidden) {
    this.document.hidden = hidden;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  tell(event) {
    this.dispatchEvent(new Event(event));
  }
}

/** `io` whose sockets pass each event to `judge` first: an answer of its own, or a promise of one, is a refusal. */
export function judging(judge) {
  return (...args) => {
    const socket = io(...args);
    const timeout = socket.timeout.bind(socket);
    socket.timeout = (ms) => ({
      emitWithAck: async (event, payload) =>
        (await judge(event, payload)) || timeout(ms).emitWithAck(event, payload),
    });
    return socket;
  };
}

/** A client and everything that came to it. */
export class Player {
  constructor(options = {}) {
    this.watchers = new Set();
    this.states = [];
    for (const event of KEPT) this[`${event}s`] = [];
    this.client = connect({
      url: URL_OF_GATEWAY,
      io,
      transports: ["websocket"],
      reconnectionDelay: 20,
      reconnectionDelayMax: 200,
      ...options,
    });
    opened.add(this);
    for (const event of KEPT) {
      this.client.on(event, (value) => {
        this[`${event}s`].push(value);
        this.look();
      });
    }
    this.client.on("state", (state) => {
      this.states.push(state);
      this.look();
    });
  }

  get data() {
    return this.messages.map(({ data }) => data);
  }

  look() {
    for (const watcher of [...this.watchers]) watcher();
  }

  /** Wait until the condition holds, looked at after every event. */
  until(what, condition, ms = WAIT_MS) {
    return new Promise((resolve, reject) => {
      const finish = (settle, value) => {
        clearTimeout(timer);
        this.watchers.delete(watcher);
        settle(value);
      };
      const timer = setTimeout(() => {
        const { states, refuseds, errors } = this;
        const seen = JSON.stringify({ states, refuseds, errors });
        finish(reject, new Error(`waited in vain for ${what}; ${seen}`));
      }, ms);
      const watcher = () => {
        const value = condition();
        if (value) finish(resolve, value);
      };
      this.watchers.add(watcher);
      watcher();
    });
  }

  async ready(n = 1) {
    await this.until(`session ${n}`, () => this.sessions.length >= n);
    return this.sessions.at(-1);
  }

  async received(count) {
    await this.until(`${count} messages`, () => this.messages.length >= count);
    return this.data;
  }

  /** All that was sent to this player before has arrived once a message to itself has. */
  async settle() {
    const mark = Math.random();
    await this.client.send(this.client.trueId, { mark });
    await this.until("the mark", () => this.data.some((data) => data?.mark === mark));
    this.messages = this.messages.filter(({ data }) => data?.mark !== mark);
  }

  /** Cut the transport below Socket.IO, as a bad network would. */
  drop() {
    this.client.socket.io.engine.close();
  }

  /** Milliseconds until the client is live again after what `act` does. */
  async comesBack(act) {
    const sessions = this.sessions.length;
    const begun = performance.now();
    act();
    await this.ready(sessions + 1);
    return performance.now() - begun;
  }
}

/** A guest who is in. */
export async function player(options) {
  const made = new Player(options);
  await made.ready();
  return made;
}
