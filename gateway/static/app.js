/**
 * Wiring: the parts are made here, once, and told about each other.
 *
 * For tests and the curious, `document.documentElement.dataset` says how things stand, and
 * stays as it is named here:
 * - of the connection: `connection` (connecting, live, away, closed), `trueId`, `sessionId`,
 *   `socketId`, `outcome`, `missed`, `connections`, `blink` (milliseconds of the last outage);
 * - of the match: `match`, `synced` (the score board is complete), `members`, `round`, `phase`
 *   (play, break), `left` (seconds of it);
 * - of this player: `x`, `y`, `moving`, `score`, `claimed` (points on their way), `leads` (this
 *   tab steers), `nearest` ("dx dy": the way to the nearest spark);
 * - of the others: `others` (JSON, [x, y] by true_id);
 * - `tick` counts how often match and players were told.
 * `#players li` have `data-true-id`, `data-score` and `data-state`; `#messages li` have
 * `data-from`, `data-key`, `data-status` and `data-missed`. Keys steer unless a field has them.
 */

import { connect } from "/client/gateway.js";
import { io } from "/vendor/socket.io.esm.min.js";

import { Effects } from "./draw/effects.js";
import { Scene } from "./draw/scene.js";
import { matchOf } from "./game/rounds.js";
import { Chat } from "./net/chat.js";
import { Match } from "./net/match.js";
import { Positions } from "./net/positions.js";
import { Play } from "./play.js";
import { Backdrop } from "./ui/backdrop.js";
import { Board } from "./ui/board.js";
import { ChatView } from "./ui/chat-view.js";
import { Controls } from "./ui/controls.js";
import { Door } from "./ui/door.js";
import { byId, copyText, setText } from "./ui/dom.js";
import { Feedback } from "./ui/feedback.js";
import { Hud } from "./ui/hud.js";
import { Loop } from "./ui/loop.js";
import { Panel } from "./ui/panel.js";
import { openTabStore } from "./ui/store.js";
import { refusal } from "./ui/wording.js";

const parameters = new URLSearchParams(location.search);
if (parameters.get("player") === "new") {
  // A new player, even in a tab that began as a copy; from here on a reload resumes.
  openTabStore().clearAll();
  parameters.delete("player");
  const rest = parameters.toString();
  history.replaceState(null, "", location.pathname + (rest && `?${rest}`));
}

const store = openTabStore();
const place = matchOf(parameters);
const door = new Door(new Backdrop(place));
const hud = new Hud();
const board = new Board();
/** Why somebody is asked who they are. @type {[string, "bad"|"plain"]} */
let reason = ["", "bad"];
const client = connect({
  io,
  auth: () => door.ask(...reason),
  // What was claimed or said without a connection survives a reload.
  persist: true,
  // A round is short: rather a few attempts more than a longer pause.
  reconnectionDelay: 250,
  reconnectionDelayMax: 1000,
});
const panel = new Panel(client, store);
const match = new Match(client, store, place);
const chat = new Chat(match, store);
const positions = new Positions(match);
const play = new Play(match, positions, store);
const effects = new Effects();
const scene = new Scene(byId("arena"), match.name, match.ledger.stones);
const controls = new Controls(byId("arena"), () => play.dash(performance.now()));
const chatView = new ChatView(chat, match);
new Feedback({ play, match, positions, effects, scene, hud });
const loop = new Loop({ play, match, chat, positions, controls, effects, scene, hud, board });

document.documentElement.dataset.match = match.name;
setText(byId("match-name"), match.name);

/** Forget the player of before. */
function startOver() {
  store.clear();
  chat.clear();
}

client.on("session", () => {
  reason = ["", "bad"];
  play.enter();
  if (!door.open) return;
  door.close();
  chatView.showAll();
  byId("arena").focus({ preventScroll: true });
});
client.on("state", (state, why) => {
  if (state === "away") hud.announce("Connection lost. You can play on, it comes back by itself.");
  if (state !== "closed") return;
  if (why === "logged_out") startOver();
  // A ban is of the player, whose token is kept: only they themselves may try again.
  if (why === "banned") door.ask(...reason).then(() => client.connect());
  // Asks at the door. Not in here: the client has not finished with its end.
  else setTimeout(() => client.connect());
});
client.on("refused", ({ code, message, reconnect }) => {
  reason = [refusal(code, message), "bad"];
  if (code === "unsupported") door.withdraw();
  if (!reconnect) startOver();
  else if (door.open) door.say(`${reason[0]} Trying again…`);
});
match.on("say", (message, missed) => chat.receive(message, missed));
match.on("members", () => {
  const connections = match.members.get(match.me)?.connections ?? null;
  if (connections === null || !client.connected) return;
  panel.showConnections(connections);
  if (connections === 1) positions.lead();
});
match.on("failed", ({ message }) => hud.fail(`You cannot join this match: ${message}.`));
match.on("joined", () => hud.fail(""));

byId("dash").addEventListener("click", () => play.dash(performance.now()));
byId("logout").addEventListener("click", () => logOut(false));
byId("logout-everywhere").addEventListener("click", () => logOut(true));
byId("invite").addEventListener("click", async () => {
  const url = new URL(location.href);
  const done = await copyText(url.href, byId("match-name"));
  setText(byId("invite"), done ? "Link copied" : "Copy the address");
  setTimeout(() => setText(byId("invite"), "Invite"), 1600);
});
addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || ![byId("arena"), document.body].includes(event.target)) return;
  event.preventDefault();
  byId("text").focus();
});

async function logOut(everywhere) {
  reason = [everywhere ? "You logged out everywhere." : "You logged out.", "plain"];
  try {
    await client.logout({ everywhere });
  } catch {
    reason = ["Logged out here. The server could not be told; the session will expire.", "plain"];
  }
}

// A frozen tab may be discarded without a word.
for (const event of ["pagehide", "visibilitychange", "freeze"]) {
  (event === "pagehide" ? window : document).addEventListener(event, () => play.keep());
}
loop.start();
