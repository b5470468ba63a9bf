/**
 * What this tab remembers over a reload: sessionStorage with a prefix, JSON
 * values, and a fallback to memory where the browser refuses storage.
 *
 * Credentials never come here. A tab that was duplicated starts with a copy.
 */

const PREFIX = "sparks.";

/** Keys in use, in one place. */
export const KEYS = Object.freeze({
  chat: "chat",
  ledger: "ledger",
  panel: "panel",
  place: "place",
});

export class TabStore {
  /** @param {Storage|null} storage usually `window.sessionStorage` */
  constructor(storage) {
    this.storage = storage;
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
    const raw = this.memory.get(key) ?? this.storage?.getItem(PREFIX + key) ?? null;
    if (raw === null) return fallback;
    try {
      return JSON.parse(raw);
    } catch {
      return fallback;
    }
  }

  /**
   * @param {string} key
   * @param {unknown} value anything JSON can hold; `undefined` or `null` removes the key
   */
  write(key, value) {
    if (value === undefined || value === null) {
      this.memory.delete(key);
      this.storage?.removeItem(PREFIX + key);
      return;
    }
    const raw = JSON.stringify(value);
    try {
      if (!this.storage) throw new Error("no storage");
      this.storage.setItem(PREFIX + key, raw);
      this.memory.delete(key);
    } catch {
      // Full or forbidden: remembered as long as the page lives.
      this.memory.set(key, raw);
    }
  }

  /** Forget everything of this player. The resume token is the client's. */
  clear() {
    this.memory.clear();
    for (const key of Object.values(KEYS)) this.storage?.removeItem(PREFIX + key);
  }

  /** Forget whoever was in this tab, the resume token included. */
  clearAll() {
    this.memory.clear();
    this.storage?.clear();
  }
}

/**
 * Open the tab's store. Reading the property itself throws where storage is blocked.
 * @returns {TabStore}
 */
export function openTabStore() {
  try {
    return new TabStore(window.sessionStorage);
  } catch {
    return new TabStore(null);
  }
}
