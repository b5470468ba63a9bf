/** One room: made by `game.join` or `game.room`. */
export class Room {
  #rooms;
  #requests;
  #sender;
  #events;

  /**
   * @param {string} name
   * @param {import("./events.js").Events} events
   * @param {import("./rooms.js").Rooms} rooms
   * @param {import("./requests.js").Requests} requests
   * @param {import("./sender.js").Sender} sender
   */
  constructor(name, events, rooms, requests, sender) {
    this.name = name;
    /** How many members there are, as far as was heard. @type {number|null} */
    this.members = null;
    this.#events = events;
    this.#rooms = rooms;
    this.#requests = requests;
    this.#sender = sender;
  }

  /**
   * @param {keyof import("./gateway.d.ts").RoomEvents} event
   * @param {Function} handler
   * @returns {() => void} which stops listening
   */
  on(event, handler) {
    return this.#events.on(event, handler);
  }

  /**
   * @param {keyof import("./gateway.d.ts").RoomEvents} event
   * @param {Function} handler
   */
  once(event, handler) {
    return this.#events.once(event, handler);
  }

  /**
   * @param {keyof import("./gateway.d.ts").RoomEvents} event
   * @param {Function} [handler] without it, all of the event's
   */
  off(event, handler) {
    this.#events.off(event, handler);
  }

  /**
   * Send to all members until there is a receipt; in order, and it arrives once.
   * @param {any} data
   * @param {import("./gateway.d.ts").PublishOptions} [options]
   * @returns {Promise<import("./gateway.d.ts").Receipt>} rejects with a GatewayError
   */
  publish(data, { echo, ...options } = {}) {
    return this.#sender.send("publish", { room: this.name, echo }, data, options);
  }

  /**
   * Send the latest state of something: who is slow gets the newest of this key only.
   * @param {string} key
   * @param {any} data
   * @param {import("./gateway.d.ts").VolatileOptions} [options]
   * @returns {Promise<import("./gateway.d.ts").Receipt>} `dropped` when a newer one replaced it
   */
  volatile(key, data, { type, echo } = {}) {
    return this.#sender.sendLatest({ room: this.name, key, type, echo }, data);
  }

  /**
   * The members, page by page.
   * @param {{limit?: number, cursor?: string}} [options] which page
   * @returns {Promise<import("./gateway.d.ts").Members>}
   */
  async players({ limit, cursor } = {}) {
    const page = await this.#requests.request("members", { room: this.name, limit, cursor });
    this.members = page.members;
    return page;
  }

  /**
   * Leave, and listen no more.
   * @returns {Promise<void>}
   */
  leave() {
    return this.#rooms.leave(this);
  }
}
