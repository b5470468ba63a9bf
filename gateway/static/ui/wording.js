/** Codes of the protocol in words for people. */

/** @type {Record<import("../client/gateway.d.ts").State, string>} */
export const STATE_LABELS = {
  connecting: "Connecting",
  live: "Live",
  away: "Reconnecting",
  closed: "Logged out",
};

/** @type {Record<string, string>} */
const REFUSALS = {
  bad_credentials: "That name or password was not accepted.",
  token_expired: "You were away too long, so your session has ended.",
  token_invalid: "The server does not know this session any more.",
  token_reused: "This session was also used from somewhere else, so it was ended for safety.",
  session_revoked: "This session was logged out.",
  banned: "This player is banned.",
  rate_limited: "Too many attempts from here.",
  server_full: "The server is full.",
  draining: "The server is restarting.",
  unavailable: "The server cannot take anybody in right now.",
  unsupported: "This server does not offer this way of joining.",
};

/** @type {Record<string, string>} */
const OUTCOMES = {
  new: "New session",
  resumed: "Resumed",
  expired: "Expired, new session",
  trimmed: "Resumed, older messages gone",
  store_reset: "Server storage was reset",
};

/**
 * @param {number} n
 * @param {string} one
 * @param {string} [many]
 */
export function count(n, one, many = `${one}s`) {
  return `${n} ${n === 1 ? one : many}`;
}

/**
 * @param {string} code
 * @param {string} [message] the server's own words, used when the code is new to us
 */
export function refusal(code, message) {
  return REFUSALS[code] ?? (message || "The server refused the connection.");
}

/** @param {{outcome: string, missed: number, gap: {lost: number|null}|null}} session */
export function outcomeText(session) {
  const parts = [OUTCOMES[session.outcome] ?? session.outcome];
  if (session.missed > 0) parts.push(`${count(session.missed, "message")} caught up`);
  else if (session.outcome === "resumed") parts.push("nothing missed");
  if (session.gap) parts.push(gapText(session.gap));
  return parts.join(", ");
}

/** @param {{lost: number|null}} gap */
function gapText(gap) {
  return gap.lost ? `${count(gap.lost, "message")} lost` : "some messages may be lost";
}
