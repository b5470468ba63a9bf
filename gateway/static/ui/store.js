/**
 * What this tab remembers over a reload: sessionStorage with a prefix, JSON
 * values, and a fallback to memory where the browser refuses storage.
 *
 * What may be large is in localStorage, under a name of this tab's own. Firefox
 * gives a tab that it has discarded its sessionStorage back only if that has 2048
 * characters at most, and the player's resume token is in there.
 *
 * Credentials never come here. A tab that was duplicated starts with a copy.
 */

const PREFIX = "sparks.";
const TAB = `${PREFIX}tab`;
const TABS = `${PREFIX}tabs`;
/** So many tabs' large values are kept: those of closed tabs have to go some day. */
const MOST_TABS = 16;

/** Keys in use, in one place. */
export const KEYS = Object.freeze({
  chat: "chat",
  ledger: "ledger",
  panel: "panel",
  place: "place",
});

const LARGE = [KEYS.chat, KEYS.ledger];

export class TabStore {
  /** What the large values are found under. @type {string|null} */
  #tab;
  /** Whether that is this tab's own, and not perhaps that of the tab it is a copy of. */
  #own = false;

  /**
   * @param {Storage|null} storage usually `window.sessionStorage`
   * @param {Storage|null} shared usually `window.localStorage`
   */
  constructor(storage, shared) {
    this.storage = storage;
    this.shared = shared;
    this.#tab = storage?.getItem(TAB) ?? null;
    /** @type {Map<string, string>} */
    this.memory = new Map();
  }

  /**
   * @template T
   * @param {string} key
   * @param {T} fallback returned when the key is absent or unreadable
   * @returns {T}
   */
  read(key, fallback) {
    const raw = this.memory.get(key) ?? this.#at(key)?.getItem(this.#name(key)) ?? null;
    return parse(raw, fallback);
  }

  /**
   * @param {string} key
   * @param {unknown} value anything JSON can hold; `undefined` or `null` removes the key
   */
  write(key, value) {
    const large = LARGE.includes(key);
    if (value === undefined || value === null) {
      this.memory.delete(key);
      if (large && this.#tab === null) return;
      try {
        if (large) this.#moveIn();
        this.#at(key)?.removeItem(this.#name(key));
      } catch {
        // Full: then at least it is not read any more.
        this.memory.set(key, "null");
      }
      return;
    }
    const raw = JSON.stringify(value);
    try {
      if (large) this.#moveIn();
      const storage = this.#at(key);
      if (!storage) throw new Error("no storage");
      storage.setItem(this.#name(key), raw);
      this.memory.delete(key);
    } catch {
      // Full or forbidden: remembered as long as the page lives.
      this.memory.set(key, raw);
    }
  }

  /** Forget everything of this player. The resume token is the client's. */
  clear() {
    this.memory.clear();
    if (this.#own) for (const key of LARGE) this.shared?.removeItem(this.#name(key));
    for (const key of Object.values(KEYS)) this.storage?.removeItem(PREFIX + key);
    this.#leave();
  }

  /** Forget whoever was in this tab, the resume token included. */
  clearAll() {
    this.clear();
    this.storage?.clear();
  }

  #leave() {
    this.storage?.removeItem(TAB);
    this.#tab = null;
    this.#own = false;
  }

  #at(key) {
    return LARGE.includes(key) ? this.shared : this.storage;
  }

  #name(key) {
    return LARGE.includes(key) ? `${PREFIX}${key}.${this.#tab}` : PREFIX + key;
  }

  /** Take a name of its own, and what was found under the one before along. */
  #moveIn() {
    if (this.#own || !this.storage || !this.shared) return;
    const found = LARGE.map((key) => [key, this.shared.getItem(this.#name(key))]);
    const name = crypto.getRandomValues(new Uint32Array(2)).join("-");
    this.storage.setItem(TAB, name);
    this.#tab = name;
    this.#own = true;
    for (const [key, raw] of found) if (raw !== null) this.shared.setItem(this.#name(key), raw);
    const tabs = [...parse(this.shared.getItem(TABS), []), this.#tab];
    for (const tab of tabs.splice(0, tabs.length - MOST_TABS)) {
      for (const key of LARGE) this.shared.removeItem(`${PREFIX}${key}.${tab}`);
    }
    this.shared.setItem(TABS, JSON.stringify(tabs));
  }
}

/**
 * Open the tab's store. Reading the property itself throws where storage is blocked.
 * @returns {TabStore}
 */
export function openTabStore() {
  try {
    return new TabStore(window.sessionStorage, window.localStorage);
  } catch {
    return new TabStore(null, null);
  }
}

function parse(raw, fallback) {
  if (raw === null) return fallback;
  try {
    return JSON.parse(raw);
  } catch {
    return fallback;
  }
}
