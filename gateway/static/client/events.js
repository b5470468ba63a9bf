/** Who listens to what. */

export class Events {
  /** @type {Map<string, Map<Function, Function>>} */
  #handlers = new Map();

  /** @returns {() => void} which stops listening */
  on(event, handler, called = handler) {
    if (!this.#handlers.has(event)) this.#handlers.set(event, new Map());
    this.#handlers.get(event).set(handler, called);
    return () => this.off(event, handler);
  }

  once(event, handler) {
    return this.on(event, handler, (...values) => {
      this.off(event, handler);
      handler(...values);
    });
  }

  /** Without a handler, all of the event's. */
  off(event, handler) {
    if (handler) this.#handlers.get(event)?.delete(handler);
    else this.#handlers.delete(event);
  }

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
