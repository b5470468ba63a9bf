/** What the gateway does for this page, for those who want to know. */

import { byId, copyText, setText } from "./dom.js";
import { KEYS } from "./store.js";
import { outcomeText, STATE_LABELS } from "./wording.js";

const WIDE = "(min-width: 62rem)";

export class Panel {
  #client;
  /** When the connection was lost; of performance.now(). */
  #lostAt = 0;

  /**
   * @param {import("../client/gateway.js").GatewayClient} client
   * @param {import("./store.js").TabStore} store
   */
  constructor(client, store) {
    this.#client = client;
    const panel = byId("panel");
    panel.open = store.read(KEYS.panel, matchMedia(WIDE).matches);
    panel.addEventListener("toggle", () => store.write(KEYS.panel, panel.open));
    byId("drop").addEventListener("click", () => client.socket?.io.engine?.close());
    byId("copy").addEventListener("click", () => this.#copy());
    client.on("state", (state) => this.#showState(state));
    client.on("session", (session) => this.#showSession(session));
  }

  /** @param {number} connections tabs and devices of this player */
  showConnections(connections) {
    setText(byId("connections"), String(connections));
    document.documentElement.dataset.connections = String(connections);
  }

  #showState(state) {
    const { dataset } = document.documentElement;
    const live = state === "live";
    if (state === "away" && dataset.connection === "live") this.#lostAt = performance.now();
    dataset.connection = state;
    byId("state").dataset.state = state;
    setText(byId("state"), STATE_LABELS[state]);
    byId("drop").disabled = !live;
    if (live && this.#lostAt) {
      dataset.blink = String(Math.round(performance.now() - this.#lostAt));
      setText(byId("blink"), `${(Number(dataset.blink) / 1000).toFixed(1)} s`);
      this.#lostAt = 0;
    }
    if (!live) {
      dataset.socketId = "";
      setText(byId("socket-id"), "none");
    }
  }

  #showSession(session) {
    const { dataset } = document.documentElement;
    const socketId = this.#client.socket.id;
    Object.assign(dataset, {
      trueId: session.true_id,
      sessionId: session.session_id,
      socketId,
      outcome: session.outcome,
      missed: session.missed ?? 0,
    });
    setText(byId("own-name"), session.name);
    setText(byId("true-id"), session.true_id);
    setText(byId("session-id"), session.session_id);
    setText(byId("socket-id"), socketId);
    setText(byId("outcome"), outcomeText(session));
    this.showConnections(session.connections);
  }

  async #copy() {
    const button = byId("copy");
    const shown = byId("true-id");
    const done = await copyText(shown.textContent, shown);
    setText(button, done ? "Copied" : "Selected");
    setTimeout(() => setText(button, "Copy"), 1600);
  }
}
