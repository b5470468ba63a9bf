/**
 * What a client remembers of itself: its resume token and the last message it handled.
 *
 * The truth is in memory; storage only has to outlive a reload. So a tab that was duplicated
 * starts with a copy of its original's record, and from then on neither reads what the other
 * writes.
 */

/** @typedef {{token: string, offset: string|null}} Record */

export class Memory {
  #tab;
  #shared;
  #key;
  #token = null;
  #offset = null;
  #own = false;

  /**
   * @param {string} key
   * @param {Storage|null} tab outlives a reload of this tab
   * @param {Storage|null} shared outlives the browser. Every tab keeps its own record and leaves
   *   a copy of the newest here, for tabs to come: the gateway gives those a session of their
   *   own as long as the tab that wrote it is alive, and its session once it is not.
   */
  constructor(key, tab, shared) {
    this.#key = key;
    this.#tab = tab;
    this.#shared = shared;
    const record = read(tab, key);
    if (record) this.#take(record);
  }

  get token() {
    return this.#token;
  }

  get offset() {
    return this.#offset;
  }

  /** Call before each attempt: until it has a session, a tab goes by what others left last. */
  refresh() {
    const record = this.#own ? null : read(this.#shared, this.#key);
    if (record) [this.#token, this.#offset] = [record.token, record.offset];
  }

  /** @param {{token: string, outcome: string}} session which was granted */
  accept({ token, outcome }) {
    // After `store_reset` the offset is one that the gateway does not know, and never will.
    this.#take({ token, offset: outcome === "store_reset" ? null : this.#offset });
    this.#write();
  }

  /** @param {string} offset id of the message that was handled last */
  saw(offset) {
    // A handler may have logged out: what comes next is another player's.
    if (this.#token === null) return;
    this.#offset = offset;
    this.#write();
  }

  /** The token is worth nothing any more. Other tabs' copies are left alone. */
  forget() {
    if (read(this.#shared, this.#key)?.token === this.#token) remove(this.#shared, this.#key);
    remove(this.#tab, this.#key);
    this.#take({ token: null, offset: null });
  }

  #take({ token, offset }) {
    [this.#token, this.#offset, this.#own] = [token, offset ?? null, true];
  }

  #write() {
    const text = JSON.stringify({ token: this.#token, offset: this.#offset });
    for (const storage of [this.#tab, this.#shared]) {
      try {
        storage?.setItem(this.#key, text);
      } catch {
        // Full or forbidden. An old record would be a token that was used before: theft.
        remove(storage, this.#key);
      }
    }
  }
}

/** @returns {Record|null} */
function read(storage, key) {
  try {
    const record = JSON.parse(storage?.getItem(key) ?? "null");
    return typeof record?.token === "string" ? record : null;
  } catch {
    return null;
  }
}

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

/** Where storage is blocked, merely reading the property throws. */
function property(page, name) {
  try {
    return page?.[name] ?? null;
  } catch {
    return null;
  }
}
