/** Types of gateway.js. Durations in milliseconds are said so; all others are seconds. */

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json | undefined };

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
  /** `io` of socket.io-client 4; by default the global one. */
  io?: (...args: any[]) => any;
  /**
   * Where token and offset are kept. `session`, the default: in sessionStorage, over a reload.
   * `local`: over the end of the browser, too; each tab still has a session of its own.
   * A storage of your own must not be shared by clients that live at the same time.
   */
  storage?: "session" | "local" | StorageLike;
  /** Tells several clients of one gateway in one page apart. */
  key?: string;
  /** Messages that may wait for their receipt; `send` rejects beyond. By default 1000. */
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
  token: string;
  token_expires_in: number;
  resumed: boolean;
  outcome: Outcome;
  /** How many messages follow that came meanwhile. */
  missed: number;
  gap: Gap | null;
  connections: number;
  limits: { message_bytes: number; [limit: string]: unknown };
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

export interface Membership {
  ok: true;
  members: number;
}

export interface Events {
  /** First after every connect. */
  session: (session: Session) => void;
  /** Counted as handled once all handlers have returned: after that it does not come again. */
  message: (message: Message) => void;
  /** Of a player that is watched. */
  presence: (presence: Presence) => void;
  room: (change: RoomChange) => void;
  /** The gateway refused an event that nobody waits for, or `auth` threw (`auth_failed`). */
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
  /** Deliver now or never: is not stored, not queued, and may be dropped anywhere. */
  volatile?: boolean;
  /** Milliseconds until the message is given up. By default never. It may have arrived. */
  timeout?: number;
}

export interface PublishOptions extends SendOptions {
  key?: string;
  echo?: boolean;
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
  /** The stock client. It is another one after the player has changed. */
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
  /** The same, to a room. */
  publish(room: string, data: Json, options?: PublishOptions): Promise<Receipt>;

  /** Any other event. Waits until the client is live; `timeout`, milliseconds, is 10000. */
  request(event: string, payload?: object, options?: { timeout?: number }): Promise<any>;
  join(room: string): Promise<Membership>;
  leave(room: string): Promise<Membership>;
  players(options?: { limit?: number; cursor?: string }): Promise<Players>;
  /** The tab's visibility is told by itself. What is set here is repeated on reconnects. */
  presenceSet(presence: { state?: "active" | "hidden"; status?: string }): Promise<{ ok: true }>;
  /** Players stay watched over reconnects. */
  presenceWatch(trueIds: string[]): Promise<Record<string, Presence>>;
  presenceUnwatch(trueIds: string[]): Promise<void>;
  /** End the session, or all of this player. Whatever comes of it, this tab forgets the player. */
  logout(options?: { everywhere?: boolean }): Promise<void>;
}

/** Returns a client that is connecting already. */
export function connect(options?: Options): GatewayClient;
