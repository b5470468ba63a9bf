/** Codes of the protocol in words for people. */

/** @typedef {"connecting"|"live"|"reconnecting"|"offline"|"refused"} State */

/** @type {Record<State, string>} */
export const STATE_LABELS = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  offline: "Offline",
  refused: "Refused",
};

/** @type {Record<string, string>} */
export const PRESENCE_LABELS = {
  active: "active",
  hidden: "hidden",
  away: "away",
  offline: "offline",
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
  unsupported: "This server does not offer this way of joining. Choose the other one.",
};

/** @type {Record<string, string>} */
const SEND_ERRORS = {
  bad_request: "The server could not read the message",
  unknown_target: "Nobody has this true_id",
  forbidden: "You may not write to this player",
  too_large: "The message is too long",
  rate_limited: "You are sending too fast",
  mailbox_full: "This player's mailbox is full",
  unavailable: "The server could not store the message",
};

/** @type {Record<string, string>} */
const DISCONNECTS = {
  "transport close": "the network connection closed",
  "transport error": "the network connection failed",
  "ping timeout": "the server went silent",
  "parse error": "the server sent something unreadable",
  "forced close": "closed from this page",
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

/** @param {string} reason Socket.IO's disconnect reason */
export function disconnectReason(reason) {
  return DISCONNECTS[reason] ?? reason;
}

/** @param {{code: string, message?: string, retry_after?: number|null}} error */
export function sendError(error) {
  const words = SEND_ERRORS[error.code] ?? (error.message || "Not accepted");
  const wait = error.retry_after ? `, try again in ${Math.ceil(error.retry_after)} s` : "";
  return `${words}${wait} (${error.code})`;
}

/** @param {{status: string, connections?: number, duplicate?: boolean}} receipt */
export function receiptText(receipt) {
  const n = receipt.connections ?? 0;
  const again = receipt.duplicate ? ", already accepted before" : "";
  if (receipt.status === "delivered") return `delivered to ${count(n, "connection")}${again}`;
  if (receipt.status === "queued") return `queued, waits for their return${again}`;
  return `${receipt.status}${again}`;
}

/** @param {{outcome: string, missed: number, gap: {lost: number|null}|null}} session */
export function outcomeText(session) {
  const parts = [OUTCOMES[session.outcome] ?? session.outcome];
  if (session.missed > 0) parts.push(`${session.missed} missed, all here`);
  else if (session.outcome === "resumed") parts.push("nothing missed");
  if (session.gap) parts.push(gapText(session.gap));
  return parts.join(", ");
}

/** @param {{lost: number|null}} gap */
export function gapText(gap) {
  return gap.lost ? `${count(gap.lost, "message")} lost` : "some messages may be lost";
}
