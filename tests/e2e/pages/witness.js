/** What a page saw of its player, for tests to read: `witness`. It outlives a reload. */

const kept = { messages: [], sessions: [], rejoins: [] };
export const witness = JSON.parse(sessionStorage.witness ?? JSON.stringify(kept));
/** How often this page was shown again without being loaded. */
witness.returns = 0;
window.witness = witness;

const keep = () => { sessionStorage.witness = JSON.stringify(witness); };

export function sawSession({ true_id, session_id, outcome, missed }, socket) {
  const { recovered } = socket;
  witness.sessions.push({ true_id, session_id, outcome, missed, recovered, at: Date.now() });
  keep();
  document.getElementById("true-id").textContent = true_id;
}

export function sawMessage({ id, data }) {
  witness.messages.push([id, data]);
  keep();
  const row = document.createElement("li");
  row.textContent = data;
  document.getElementById("messages").append(row);
}

export function sawRejoin(members) {
  witness.rejoins.push(members);
  keep();
}

addEventListener("pageshow", ({ persisted }) => { witness.returns += Number(persisted); });
