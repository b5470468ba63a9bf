/**
 * What a client remembers of itself: its resume token and the last message it handled.
 *
 * In sessionStorage every tab has a record of its own. A tab that was duplicated starts with a
 * copy of its original's, is given a session of its own, and from then on neither reads what the
 * other writes.
 *
 * In localStorage the record of each session lies under the session's id, and the newest token of
 * a session is always there. Whoever goes on with a session, be it after a reload, or because the
 * tab that had it is dead, presents that one: a tab that slept for long never presents a token
 * that another tab has replaced, which the gateway would take for theft. A tab that is new goes on
 * with the session used last. If that is in use, the gateway gives the tab one of its own.
 */

/** @typedef {{token: string, offset: string|null, session?: string, at?: number}} Record */

/** Sessions that are remembered in localStorage. */
const MAX_SHARED = 8;

export class Memory {
  #tab;
  #shared;
  #key;
  /** @type {string|null} */
  #token = null;
  /** @type {string|null} */
  #offset = null;
  /** The session's id. */
  #session = "";
  /** Changes when offsets of before are worth nothing any more. */
  era = 0;

  /**
   * @param {string} key
   * @param {any} tab storage that outlives a reload of this tab; null: none
   * @param {any} shared storage of all tabs, which outlives the browser; null: none
   */
  constructor(key, tab, shared) {
    this.#key = key;
    this.#tab = tab;
    this.#shared = shared;
    this.#take(read(tab, key));
    // Another tab may have gone on with this session, and further.
    this.#take(this.#newest);
  }

  get token() {
    return this.#token;
  }

  get offset() {
    return this.#offset;
  }

  /** Call before each attempt. */
  refresh() {
    // What this page has handled, only it knows; the token is the session's.
    if (this.#token !== null) this.#token = this.#newest?.token ?? this.#token;
    else this.#take(this.#records.at(-1)?.record);
  }

  /** @param {{token: string, session_id: string, outcome: string}} session which was granted */
  accept({ token, session_id: session, outcome }) {
    this.#token = token;
    if (outcome === "store_reset") {
      // It is one that the gateway does not know, and never will.
      this.#offset = null;
      this.era += 1;
    }
    if (session !== this.#session) this.era += 1;
    this.#session = session;
    this.#write();
    for (const { key } of this.#records.slice(0, -MAX_SHARED)) remove(this.#shared, key);
  }

  /**
   * @param {string} offset id of the message that was handled last
   * @param {number} era when it came
   */
  saw(offset, era) {
    // A handler may have logged out: what comes next is another player's.
    if (this.#token === null || era !== this.era) return;
    this.#offset = offset;
    this.#write();
  }

  /** The token is worth nothing any more. */
  forget() {
    remove(this.#tab, this.#key);
    if (this.#session) remove(this.#shared, this.#place);
    this.era += 1;
    [this.#token, this.#offset, this.#session] = [null, null, ""];
  }

  /** The same, and no tab to come is to be this player. Tabs that are live are left alone. */
  forgetAll() {
    for (const { key } of this.#records) remove(this.#shared, key);
    this.forget();
  }

  get #place() {
    return `${this.#key} ${this.#session}`;
  }

  /** The shared record of this session. */
  get #newest() {
    return this.#session ? read(this.#shared, this.#place) : null;
  }

  /** All shared records, the one used last at the end. */
  get #records() {
    const found = [];
    for (const key of keys(this.#shared)) {
      const record = key.startsWith(`${this.#key} `) ? read(this.#shared, key) : null;
      if (record?.session && key === `${this.#key} ${record.session}`) found.push({ key, record });
    }
    return found.sort((one, other) => (one.record.at ?? 0) - (other.record.at ?? 0));
  }

  /** @param {Record|null|undefined} record */
  #take(record) {
    if (!record) return;
    [this.#token, this.#offset] = [record.token, record.offset ?? null];
    this.#session = record.session ?? "";
  }

  #write() {
    const [token, offset, session] = [this.#token, this.#offset, this.#session];
    const text = JSON.stringify({ token, offset, session, at: Date.now() });
    write(this.#tab, this.#key, text);
    write(this.#shared, this.#place, text);
  }
}

/**
 * @param {any} storage
 * @param {string} key
 * @param {string} text
 */
function write(storage, key, text) {
  try {
    storage?.setItem(key, text);
  } catch {
    // Full or forbidden. An old record would be a token that was used before: theft.
    remove(storage, key);
  }
}

/**
 * @param {any} storage
 * @returns {string[]}
 */
function keys(storage) {
  try {
    return Array.from({ length: storage?.length ?? 0 }, (_, index) => storage.key(index) ?? "");
  } catch {
    return [];
  }
}

/**
 * @param {any} storage
 * @param {string} key
 * @returns {Record|null}
 */
function read(storage, key) {
  try {
    const record = JSON.parse(storage?.getItem(key) ?? "null");
    return typeof record?.token === "string" ? record : null;
  } catch {
    return null;
  }
}

/**
 * @param {any} storage
 * @param {string} key
 */
function remove(storage, key) {
  try {
    storage?.removeItem(key);
  } catch {
    // It could not be read either.
  }
}

/**
 * @param {string|object} wanted `session`, `local`, or a storage that is the caller's own
 * @param {any} page the window, if there is one
 * @returns {[tab: any, shared: any]}
 */
export function storages(wanted, page) {
  if (typeof wanted !== "string") return [wanted, null];
  if (wanted !== "session" && wanted !== "local") {
    throw new TypeError(`storage is "session", "local" or a Storage, not "${wanted}"`);
  }
  const tab = property(page, "sessionStorage");
  return [tab, wanted === "local" ? property(page, "localStorage") : null];
}

/**
 * Where storage is blocked, merely reading the property throws.
 * @param {any} page
 * @param {string} name
 */
function property(page, name) {
  try {
    return page?.[name] ?? null;
  } catch {
    return null;
  }
}
