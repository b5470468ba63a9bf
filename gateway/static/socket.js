/** The stock Socket.IO client, set up the way this page wants it. */

import { io } from "/vendor/socket.io.esm.min.js";

/**
 * Build a socket that is not connected yet. Every player gets a new one: the
 * stock client keeps the session's pid inside and would present it again.
 *
 * Reconnection is off because the page plans it by itself (see retry.js).
 * @param {() => object} auth called at every connect
 * @param {Record<string, (payload: any) => void>} handlers by event name
 * @param {(name: string) => void} onTransport called with the transport in use
 */
export function createSocket(auth, handlers, onTransport) {
  const socket = io({
    forceNew: true,
    autoConnect: false,
    reconnection: false,
    rememberUpgrade: true,
    timeout: 10_000,
    auth: (callback) => callback(auth()),
  });
  for (const [event, handler] of Object.entries(handlers)) {
    // One argument only: a trailing one is the stock client's offset.
    socket.on(event, (payload) => handler(payload));
  }
  socket.io.on("open", () => {
    const engine = socket.io.engine;
    onTransport(engine.transport.name);
    engine.on("upgrade", (transport) => onTransport(transport.name));
  });
  return socket;
}
