// Calls to the gateway. Who is not logged in any more is sent to the log-in.

/** The gateway refused: `code` for programs, the message for people. */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail ?? "the gateway has failed");
    this.status = problem.status;
    this.code = problem.code;
  }
}

/** Path of a call about a player. */
export function playerPath(trueId, rest = "") {
  return `players/${encodeURIComponent(trueId)}${rest}`;
}

/** Call the gateway and return what it answers. Throws Refused, or TypeError without an answer. */
export async function call(method, path, body) {
  const response = await fetch(`/admin/api/${path}`, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(15_000),
  });
  const answer = await response.json();
  if (response.ok) return answer;
  if (response.status === 401) location.replace("/admin/login#ended");
  throw new Refused(answer);
}

/** End the session of this page. */
export async function logOut() {
  await fetch("/admin/logout", { method: "POST" });
  location.replace("/admin/login");
}
