/**
 * Messages without a receipt, kept over a reload (option `persist`). Each has its idempotency
 * key, so that one which had arrived arrives once, also when a duplicated tab sends it, too.
 */

/** Writing is put together: one message after the other would cost its square. */
const WRITE_AFTER_MS = 50;
/** UTF-16 units; storage holds about five million for a whole origin. */
const MAX_LENGTH = 500_000;

export class Kept {
  #storage;
  #key;
  #letters;
  #trueId;
  /** @type {any} */
  #timer = null;

  /**
   * @param {any} storage null: nothing is kept
   * @param {string} key
   * @param {() => import("./outbox.js").Letter[]} letters to keep
   * @param {() => string|null} trueId whose they are
   */
  constructor(storage, key, letters, trueId) {
    this.#storage = storage;
    this.#key = key;
    this.#letters = letters;
    this.#trueId = trueId;
  }

  /** @returns {{trueId: string|null, letters: import("./outbox.js").Letter[]}} of the last page */
  read() {
    try {
      const { trueId, letters } = JSON.parse(this.#storage?.getItem(this.#key) ?? "{}");
      return { trueId: trueId ?? null, letters: Array.isArray(letters) ? letters : [] };
    } catch {
      return { trueId: null, letters: [] };
    }
  }

  /** The letters are others now. */
  changed() {
    if (this.#storage) this.#timer ??= setTimeout(() => this.write(), WRITE_AFTER_MS);
  }

  /** Write now, if there is anything to write: the page may end. */
  write() {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    const kept = [];
    let length = 0;
    for (const letter of this.#letters()) {
      length += JSON.stringify(letter).length;
      if (length > MAX_LENGTH) break;
      kept.push(letter);
    }
    try {
      if (!kept.length) this.#storage.removeItem(this.#key);
      else {
        const record = { trueId: this.#trueId(), letters: kept };
        this.#storage.setItem(this.#key, JSON.stringify(record));
      }
    } catch {
      // Full or forbidden. What is kept is older: its keys make sending it again harmless.
    }
  }
}
