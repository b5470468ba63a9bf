/** Who listens to what. */

export class Events {
  /** @type {Map<string, Map<Function, Function>>} */
  #handlers = new Map();

  /**
   * @param {string} event
   * @param {Function} handler
   * @returns {() => void} which stops listening
   */
  on(event, handler, called = handler) {
    if (typeof handler !== "function") throw new TypeError(`no handler for ${event}`);
    const handlers = this.#handlers.get(event) ?? new Map();
    this.#handlers.set(event, handlers.set(handler, called));
    return () => this.off(event, handler);
  }

  /**
   * @param {string} event
   * @param {Function} handler
   */
  once(event, handler) {
    return this.on(event, handler, (/** @type {any[]} */ ...values) => {
      this.off(event, handler);
      handler(...values);
    });
  }

  /**
   * @param {string} event
   * @param {Function} [handler] without it, all of the event's
   */
  off(event, handler) {
    const handlers = this.#handlers.get(event);
    if (handler) handlers?.delete(handler);
    if (!handler || !handlers?.size) this.#handlers.delete(event);
  }

  /** Events that somebody listens to. */
  get names() {
    return [...this.#handlers.keys()];
  }

  /** @param {string} event */
  has(event) {
    return this.#handlers.has(event);
  }

  /**
   * @param {string} event
   * @param {any[]} values
   */
  emit(event, ...values) {
    for (const handler of [...(this.#handlers.get(event)?.values() ?? [])]) {
      try {
        handler(...values);
      } catch (error) {
        // Reported like any uncaught error; the connection and other handlers go on.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}
