/** What the tests share: clients that remember what they saw, and a proxy that can stall. */

import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { afterEach } from "node:test";
import { io } from "socket.io-client";

export const URL_OF_GATEWAY = process.env.GATEWAY_URL;
export const PASSWORD_LOGIN = {
  username: process.env.GATEWAY_USERNAME,
  password: process.env.GATEWAY_PASSWORD,
};
const WAIT_MS = 8000;

/** Things to close after each test. @type {Set<{close: () => unknown}>} */
const opened = new Set();

afterEach(async () => {
  const all = [...opened];
  opened.clear();
  for (const thing of all) await thing.close();
});

/** A stock client and everything that came to it. It adds nothing to what the client does. */
export class Client {
  /**
   * @param {object|Function} auth
   * @param {object} [options] of the stock client; `url` is another address to connect to
   */
  constructor(auth, { url = URL_OF_GATEWAY, ...options } = {}) {
    this.connects = [];
    this.sessions = [];
    /** @type {{envelope: any, rest: any[]}[]} */
    this.messages = [];
    this.presences = [];
    this.goaways = [];
    this.errors = [];
    this.disconnects = [];
    this.refusals = [];
    this.watchers = new Set();
    this.socket = io(url, {
      forceNew: true,
      transports: ["websocket"],
      reconnectionDelay: 20,
      reconnectionDelayMax: 200,
      ...options,
      auth,
    });
    const { socket } = this;
    const note = (event, list, value) =>
      socket.on(event, (...args) => {
        list.push(value(...args));
        this.look();
      });
    note("connect", this.connects, () => ({ id: socket.id, recovered: socket.recovered }));
    note("session", this.sessions, (session) => session);
    note("message", this.messages, (envelope, ...rest) => ({ envelope, rest }));
    note("presence", this.presences, (presence) => presence);
    note("goaway", this.goaways, (notice) => notice);
    note("error", this.errors, (error) => error);
    note("disconnect", this.disconnects, (reason) => reason);
    note("connect_error", this.refusals, (error) => error);
    opened.add(this);
  }

  /** The newest session event. */
  get session() {
    return this.sessions.at(-1);
  }

  get trueId() {
    return this.session.true_id;
  }

  /** Payloads of what came in. */
  get data() {
    return this.messages.map(({ envelope }) => envelope.data);
  }

  get engine() {
    return this.socket.io.engine;
  }

  look() {
    for (const watcher of this.watchers) watcher();
  }

  /**
   * Wait until the condition holds, looked at after every event.
   * @template T
   * @param {string} what
   * @param {() => T} condition
   * @returns {Promise<T>}
   */
  until(what, condition, ms = WAIT_MS) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.watchers.delete(watcher);
        const seen = { refusals: this.refusals.map(String), disconnects: this.disconnects };
        reject(new Error(`waited in vain for ${what}; ${JSON.stringify(seen)}`));
      }, ms);
      const watcher = () => {
        const value = condition();
        if (!value) return;
        clearTimeout(timer);
        this.watchers.delete(watcher);
        resolve(value);
      };
      this.watchers.add(watcher);
      watcher();
    });
  }

  /** Wait for the session event number `n`. */
  async ready(n = 1) {
    await this.until(`session ${n}`, () => this.sessions.length >= n);
    return this.session;
  }

  /** Wait for this many messages; the payloads so far. */
  async received(count) {
    await this.until(`${count} messages`, () => this.messages.length >= count);
    return this.data;
  }

  /** Wait for a refusal by the gateway; its data. */
  async refused() {
    return this.until("a refusal", () => this.refusals.find(({ data }) => data)?.data);
  }

  ask(event, payload) {
    return this.socket.timeout(WAIT_MS).emitWithAck(event, payload);
  }

  /** Send a message; its receipt. */
  send(target, data, more = {}) {
    return this.ask("message", { target_id: target, data, ...more });
  }

  /** Everything on its way to this client has arrived once a message to itself has. */
  async settle() {
    const mark = { mark: Math.random() };
    await this.send(this.trueId, mark);
    await this.until("the mark", () => this.data.some((data) => data?.mark === mark.mark));
    const index = this.data.findIndex((data) => data?.mark === mark.mark);
    this.messages.splice(index, 1);
  }

  /** Cut the transport below Socket.IO, as a bad network would. */
  drop() {
    this.engine.close();
  }

  close() {
    opened.delete(this);
    this.socket.disconnect();
  }
}

/** A guest who is in. */
export async function guest(name, options) {
  const client = new Client({ guest: true, name }, options);
  await client.ready();
  return client;
}

/**
 * Ask again until the answer is as wanted.
 * @template T
 * @param {() => Promise<T>} ask
 * @param {(answer: T) => boolean} wanted
 */
export async function eventually(ask, wanted) {
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const answer = await ask();
    if (wanted(answer)) return answer;
    assert.ok(Date.now() < deadline, `still ${JSON.stringify(answer)}`);
  }
}

/** A TCP proxy whose links can be stalled: then they stay open, and nothing gets through. */
export class Proxy {
  static async start() {
    const { hostname, port } = new URL(URL_OF_GATEWAY);
    const proxy = new Proxy();
    proxy.links = new Set();
    proxy.server = net.createServer((near) => {
      const link = { near, far: net.connect(Number(port), hostname), stalled: false };
      proxy.links.add(link);
      const pass = (from, to) => {
        from.on("data", (chunk) => link.stalled || to.destroyed || to.write(chunk));
        from.on("error", () => {});
        from.on("close", () => {
          // A black hole swallows the end of a connection too.
          if (link.stalled) return;
          to.destroy();
          proxy.links.delete(link);
        });
      };
      pass(link.near, link.far);
      pass(link.far, link.near);
    });
    proxy.server.listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}/`;
    opened.add(proxy);
    return proxy;
  }

  /** Let nothing through any more on the links that are open now; return them. */
  stall() {
    const links = [...this.links];
    for (const link of links) link.stalled = true;
    return links;
  }

  /** Reset links. */
  cut(links = [...this.links]) {
    for (const link of links) {
      this.links.delete(link);
      for (const end of [link.near, link.far]) {
        if (!end.destroyed) end.resetAndDestroy();
      }
    }
  }

  close() {
    opened.delete(this);
    this.cut();
    return new Promise((resolve) => this.server.close(resolve));
  }
}

/** Ask the test's owner to do something with the gateway: kill, terminate, wait, start. */
export async function control(action) {
  const answer = await fetch(`${process.env.GATEWAY_CONTROL}/${action}`, { method: "POST" });
  assert.equal(answer.status, 200, await answer.text());
}

/** Numbers from `first` to `last`, both included. */
export function range(first, last) {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

/** A small seeded generator (mulberry32): the same numbers in every run. */
export function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
