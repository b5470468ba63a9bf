/** What browsers tell of a page's life, as three things that matter to its connection. */

/** How often to look whether time has passed unnoticed, and how much of it means a sleep. */
const LOOK_MS = 1000;
const SLEPT_MS = 2000;

/**
 * @param {any} document undefined in Node, as is the window
 * @param {any} window
 * @param {{onVisibility: (hidden: boolean) => void, onReturn: () => void, onLeave: () => void}} handlers
 * @returns {() => void} which stops listening
 */
export function watchPage(document, window, { onVisibility, onReturn, onLeave }) {
  /** @type {(() => void)[]} */
  const offs = [];
  /** @type {(target: any, event: string, handler: (event: any) => void) => void} */
  const listen = (target, event, handler) => {
    if (typeof target?.addEventListener !== "function") return;
    target.addEventListener(event, handler);
    offs.push(() => target.removeEventListener(event, handler));
  };
  let lookedAt = Date.now();
  listen(document, "visibilitychange", () => {
    lookedAt = Date.now();
    onVisibility(Boolean(document.hidden));
    if (!document.hidden) onReturn();
  });
  // The browser froze the page, or kept it for the way back, or had no network.
  listen(document, "resume", onReturn);
  listen(window, "pageshow", (event) => event.persisted !== false && onReturn());
  listen(window, "online", onReturn);
  // A page with an open connection may not be kept for the way back; and one that is loaded
  // again need not wait until the gateway believes that its old connection is dead.
  listen(window, "pagehide", onLeave);
  // Of a process that was stopped, or a computer that slept, no event tells. A page in the
  // background may have its timers slowed down, and is told when it is looked at again.
  const timer = setInterval(() => {
    const late = Date.now() - lookedAt - LOOK_MS;
    lookedAt = Date.now();
    if (late > SLEPT_MS && !document?.hidden) onReturn();
  }, LOOK_MS);
  // It keeps no process of Node alive.
  /** @type {any} */ (timer).unref?.();
  offs.push(() => clearInterval(timer));
  return () => offs.forEach((off) => off());
}
