/** What browsers tell of a page's life, as three things that matter to its connection. */

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
  listen(document, "visibilitychange", () => {
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
  return () => offs.forEach((off) => off());
}
