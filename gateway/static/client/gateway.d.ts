/** Types of gateway.js. Durations in milliseconds are said so; all others are seconds. */

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json | undefined };

/**
 * `T`, where JSON can say it: interfaces and classes of a game's own, too, but no functions,
 * symbols, bigints, and nothing that has them inside.
 */
export type Sendable<T> = T extends null | undefined | boolean | number | string
  ? T
  : T extends symbol | bigint | ((...args: any[]) => unknown)
    ? never
    : { [Key in keyof T]: Sendable<T[Key]> };

/** What is presented when there is no token: see "Connecting" in the gateway's README. */
export type Credentials =
  | { guest: true; name?: string }
  | { username: string; password: string }
  | { jwt: string }
  | { [key: string]: unknown };

type MaybePromise<T> = T | Promise<T>;

/** The part of the Web Storage interface that is used. */
export interface StorageLike {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

export interface Options {
  /** The gateway. In a page: by default where the page comes from. */
  url?: string;
  /** The guest's name, when `auth` is left out. */
  name?: string;
  /**
   * Credentials, by default those of a guest. A function is asked whenever there is neither a
   * token nor an answer to what it returned before; null means that there are none: the client
   * is closed.
   */
  auth?: Credentials | (() => MaybePromise<Credentials | null | undefined>);
  /**
   * `io` of socket.io-client 4. By default the global one, else the build that the gateway
   * serves beside this module. Node has neither.
   */
  io?: (...args: any[]) => any;
  /**
   * Where token and offset are kept. `session`, the default: in sessionStorage, over a reload.
   * Firefox forgets all of that when it discards the tab and there are more than 2048 characters,
   * of which this takes about 300.
   * `local`: over the end of the browser, too; each tab still has a session of its own, and the
   * first tab of tomorrow goes on with the one used last.
   * A storage of your own must not be shared by clients that live at the same time.
   */
  storage?: "session" | "local" | StorageLike;
  /**
   * Keep messages without a receipt over a reload, too (half a million characters of them): the
   * next page of this tab sends them. Nobody waits for those receipts any more, so a refusal is
   * the event `error`, with the message's `id`. By default false. They are in sessionStorage.
   */
  persist?: boolean;
  /** Tells several clients of one gateway in one page apart. */
  key?: string;
  /**
   * Messages that may wait for their receipt; `send` rejects beyond (`queue_full`). By default
   * 1000.
   */
  queue?: number;
  /**
   * Messages to one target that may be on their way at once. 1, the default, keeps their order
   * whatever happens. More is faster, and lets a message be overtaken that the gateway refused
   * for the moment (`rate_limited`, `unavailable`).
   */
  pipeline?: number;
  /** Milliseconds before the first try to reconnect; doubles with each. By default 1000. */
  reconnectionDelay?: number;
  /** Milliseconds between tries at most. By default 15000. */
  reconnectionDelayMax?: number;
  /** By default the global ones, if there are any. */
  window?: any;
  document?: any;
  /** Other options go to the stock client: `transports`, `path`, `timeout`, … */
  [socketOption: string]: unknown;
}

/**
 * - `connecting`: not in yet
 * - `live`
 * - `away`: was live, and will be again by itself
 * - `closed`: by `close`, `logout` or a refusal that is final; `connect` tries again
 */
export type State = "connecting" | "live" | "away" | "closed";

export type Outcome = "new" | "resumed" | "expired" | "trimmed" | "store_reset";

export interface Gap {
  /** Messages after this id are gone; null: unknown. */
  after: string | null;
  /** How many; null: unknown. */
  lost: number | null;
}

export interface Session {
  true_id: string;
  session_id: string;
  name: string;
  /** What the game's backend says of the player. */
  attributes: Record<string, unknown>;
  token: string;
  token_expires_in: number;
  resumed: boolean;
  outcome: Outcome;
  /** How many messages follow that came meanwhile. */
  missed: number;
  gap: Gap | null;
  connections: number;
  limits: {
    message_bytes: number;
    dedupe_window: number;
    presence_grace: number;
    [limit: string]: unknown;
  };
}

export interface Message<T = any> {
  /** Missing on volatile ones. */
  id?: string;
  /** The sender's true_id; null: the game itself. */
  from: string | null;
  room?: string;
  type?: string;
  data: T;
  /** Unix time. */
  ts: number;
}

export interface Presence {
  true_id: string;
  name?: string;
  state: "active" | "hidden" | "away" | "offline";
  connections: number;
  status?: string;
  since: number | null;
}

export interface RoomChange {
  room: string;
  joined?: string;
  left?: string;
  members: number;
}

export interface Receipt {
  ok: true;
  /** Null for volatile messages. */
  id: string | null;
  status: "delivered" | "queued" | "dropped";
  connections: number;
  /** It had been accepted before, under the same id. */
  duplicate: boolean;
}

export interface Refusal {
  code: string;
  message: string;
  reconnect: boolean;
  retryAfter: number | null;
  /** The client is closed. Otherwise it tries again: later, or with credentials. */
  final: boolean;
}

export interface Players {
  ok: true;
  players: Presence[];
  online: number;
  /** For the next page; null: this was the last. */
  cursor: string | null;
}

export interface Members {
  ok: true;
  room: string;
  /** How many there are. */
  members: number;
  players: Member[];
  /** For the next page; null: this was the last. */
  cursor: string | null;
}

export interface Member {
  true_id: string;
  name?: string;
  state: Presence["state"];
}

export interface Events {
  /** First after every connect. */
  session: (session: Session) => void;
  /** Counted as handled once all handlers have returned: after that it does not come again. */
  message: (message: Message) => void;
  /** Of a player that is watched. */
  presence: (presence: Presence) => void;
  /** Somebody joined or left a room. */
  room: (change: RoomChange) => void;
  /**
   * Something was refused that nobody waits for, `auth` threw (`auth_failed`), or the stock
   * client could not be loaded yet (`client_missing`).
   */
  error: (error: { code: string; message: string; event: string; [key: string]: unknown }) => void;
  /** The gateway stops. The client comes back when it was asked to. */
  goaway: (notice: { reason: string; reconnect_in: number }) => void;
  state: (state: State, reason: string) => void;
  /** A connect was refused. */
  refused: (refusal: Refusal) => void;
  /** Messages are gone: load the game's state from its own server. */
  lost: (gap: Gap & { outcome: Outcome }) => void;
}

/**
 * Why a promise was rejected: a code of the gateway's protocol, or
 * `queue_full`, `timeout`, `closed`, `logged_out`, `player_changed`.
 */
export class GatewayError extends Error {
  code: string;
  /** The key of the payload that was refused. */
  field?: string;
  /** Seconds. */
  retryAfter?: number;
}

export interface SendOptions {
  type?: string;
  /** The idempotency key; by default a random one. */
  id?: string;
  /** Deliver now or never: it is not stored, not queued, and may be dropped anywhere. */
  volatile?: boolean;
  /** Milliseconds until the message is given up. By default never. It may have arrived. */
  timeout?: number;
}

export interface PublishOptions extends SendOptions {
  /** False: not to this connection. Other tabs of this player hear it. By default true. */
  echo?: boolean;
}

export interface VolatileOptions {
  type?: string;
  /** As in PublishOptions. */
  echo?: boolean;
}

export interface RoomEvents {
  /** A message to the room; one of this player's own, too, unless sent with `echo: false`. */
  message: (message: Message) => void;
  /** A player joined; `members` is how many there are now. */
  joined: (trueId: string, members: number) => void;
  /** A player left. If it is this one, the room is no longer theirs. */
  left: (trueId: string, members: number) => void;
  /**
   * This player's membership had ended, because they were away for longer than the gateway's
   * `presence.grace` or it lost its store, and has begun anew. What the room was told meanwhile
   * is missed: load the game's state from its own server, or ask another member.
   */
  rejoined: (members: number) => void;
}

/**
 * One room: made by `game.join` or `game.room`. To be a member is the player's: it outlives
 * reconnects and reloads and holds for all their tabs.
 */
export interface Room {
  readonly name: string;
  /** How many members there are, as far as was heard; null: nothing was. */
  readonly members: number | null;

  /** Returns a function that stops listening. */
  on<Name extends keyof RoomEvents>(event: Name, handler: RoomEvents[Name]): () => void;
  once<Name extends keyof RoomEvents>(event: Name, handler: RoomEvents[Name]): () => void;
  /** Without a handler, all of the event's. */
  off<Name extends keyof RoomEvents>(event: Name, handler?: RoomEvents[Name]): void;

  /** Send to all members. As `game.send`: until there is a receipt, once, and in order. */
  publish(data: Json, options?: PublishOptions): Promise<Receipt>;
  publish<T extends object>(data: T & Sendable<T>, options?: PublishOptions): Promise<Receipt>;
  /**
   * Send the latest state of something, such as a position, under its `key`. It is not stored,
   * and of each key only the newest is sent or kept for who is slow: the last one arrives at all
   * who are connected, those in between may not. The receipt may be ignored.
   */
  volatile(key: string, data: Json, options?: VolatileOptions): Promise<Receipt>;
  volatile<T extends object>(
    key: string,
    data: T & Sendable<T>,
    options?: VolatileOptions,
  ): Promise<Receipt>;
  /** The members. */
  players(options?: { limit?: number; cursor?: string }): Promise<Members>;
  /** Leave, with all tabs, and listen no more. */
  leave(): Promise<void>;
}

export class GatewayClient {
  private constructor();
  readonly state: State;
  /** Whether `state` is `live`. */
  readonly connected: boolean;
  /** The last session event. */
  readonly session: Session | null;
  readonly trueId: string | null;
  readonly sessionId: string | null;
  /** How many messages have no receipt yet. */
  readonly queued: number;
  /** The stock client, null until it is loaded. It is another one after the player has changed. */
  readonly socket: any;

  /** Returns a function that stops listening. */
  on<Name extends keyof Events>(event: Name, handler: Events[Name]): () => void;
  once<Name extends keyof Events>(event: Name, handler: Events[Name]): () => void;
  /** Without a handler, all of the event's. */
  off<Name extends keyof Events>(event: Name, handler?: Events[Name]): void;

  /** Connect now: after the end, or instead of waiting. */
  connect(): void;
  /** Stop. The token is kept: the next `connect` with the same storage goes on. */
  close(): void;

  /**
   * Send a message. It is sent again until there is a receipt, over reconnects and restarts of
   * the gateway, and arrives once; messages to one target arrive in the order of the calls.
   */
  send(targetId: string, data: Json, options?: SendOptions): Promise<Receipt>;
  send<T extends object>(
    targetId: string,
    data: T & Sendable<T>,
    options?: SendOptions,
  ): Promise<Receipt>;
  /**
   * Join a room, or find that one is a member already. Listen right after the `await`: what came
   * meanwhile waits for that.
   */
  join(room: string): Promise<Room>;
  /**
   * The same object that `join` returns, without joining: to listen before the first message can
   * come, or where the game's server decides who is a member.
   */
  room(room: string): Room;

  /** Who is online. */
  players(options?: { limit?: number; cursor?: string }): Promise<Players>;
  /**
   * Hear of these players: at once what they are, then every change. After a reconnect, what they
   * are comes anew. Returns a function that stops watching.
   */
  watch(trueIds: string | string[], callback: (presence: Presence) => void): () => void;
  /** What watchers see beside `active` and `hidden`, which is told by itself. Null: nothing. */
  setStatus(status: string | null): Promise<{ ok: true }>;

  /** Any other event. Waits until the client is live; `timeout`, milliseconds, is 10000. */
  request(event: string, payload?: object, options?: { timeout?: number }): Promise<any>;
  /**
   * End the session, or with `everywhere` all of this player. Whatever comes of it, this tab
   * forgets the player, and with `storage: "local"` so does the browser but for other live tabs.
   */
  logout(options?: { everywhere?: boolean }): Promise<void>;
}

/** Returns a client that is connecting already. */
export function connect(options?: Options): GatewayClient;
