/** Wiring: the parts are made here, once, and told about each other. */

import { ConversationView } from "./conversation-view.js";
import { byId, setText } from "./dom.js";
import { Identity } from "./identity.js";
import { IdentityView } from "./identity-view.js";
import { ConversationLog } from "./log.js";
import { LoginView } from "./login-view.js";
import { Outbox } from "./outbox.js";
import { PlayersView } from "./players-view.js";
import { Roster } from "./roster.js";
import { GatewaySession } from "./session.js";
import { KEYS, openTabStore } from "./store.js";
import { Timeline } from "./timeline.js";
import { PRESENCE_LABELS } from "./wording.js";

const store = openTabStore();
const parameters = new URLSearchParams(location.search);
if (parameters.get("player") === "new") {
  // A new player, even in a tab that began as a copy; from here on a reload resumes.
  store.clear();
  history.replaceState(null, "", location.pathname);
}

const identity = new Identity(store);
const session = new GatewaySession(identity);
const log = new ConversationLog(store);
const outbox = new Outbox(session, log);
const roster = new Roster(session, store);
const timeline = new Timeline(store);
const identityView = new IdentityView(session);
const playersView = new PlayersView(roster, pick);
const conversationView = new ConversationView(log, roster, {
  onPick: pick,
  onAgain: (entry) => outbox.again(entry),
});
const loginView = new LoginView((credentials) => {
  startOver();
  session.signIn(credentials);
});

const target = byId("target");
const text = byId("text");

/** Forget the player of before everywhere. */
function startOver() {
  store.clear();
  log.reload();
  roster.clear();
  timeline.reload();
  conversationView.showAll();
  target.value = "";
}

function showGame() {
  loginView.hide();
  if (!byId("game").hidden) return;
  byId("game").hidden = false;
  if (document.activeElement === document.body) byId("game").focus({ preventScroll: true });
  conversationView.showAll();
  target.value = store.read(KEYS.target, "");
  showPlayers();
}

function showLogin(reason = "", tone = "bad") {
  byId("game").hidden = true;
  identityView.name = "";
  identityView.showTitle(0);
  loginView.show(reason, tone);
}

/** Address the next message. */
function pick(trueId) {
  target.value = trueId;
  targetChanged();
  text.focus();
}

function targetChanged() {
  const trueId = target.value.trim();
  store.write(KEYS.target, trueId);
  setText(byId("receipt"), "");
  showPlayers();
}

function showPlayers() {
  const own = identity.player?.true_id ?? "";
  const trueId = target.value.trim();
  playersView.show(own, trueId);
  const presence = roster.presence.get(trueId);
  const name = roster.nameOf(trueId);
  const state = presence && PRESENCE_LABELS[presence.state];
  setText(byId("target-note"), [name, state].filter(Boolean).join(", "));
  const mine = roster.presence.get(own);
  if (mine && session.live) identityView.showConnections(mine.connections);
}

function tellVisibility() {
  const state = document.hidden ? "hidden" : "active";
  session.request("presence_set", { state }).catch(() => {});
}

session.addEventListener("state", ({ detail }) => {
  identityView.showState(detail);
  if (detail.state !== "live") roster.stop();
  if (!identity.known) loginView.say(detail.reason);
});
session.addEventListener("session", ({ detail }) => {
  identityView.showPlayer(identity.player);
  identityView.showSession(detail.session, detail.socketId);
  timeline.addArrival(detail);
  showGame();
  roster.start();
  roster.care([detail.session.true_id, ...log.peers()]);
  tellVisibility();
  outbox.flush();
});
session.addEventListener("transport", ({ detail }) => identityView.showTransport(detail));
session.addEventListener("message", ({ detail: { envelope, replayed } }) => {
  if (!log.receive(envelope, replayed)) return;
  if (envelope.from) roster.care([envelope.from]);
  if (document.hidden) identityView.showTitle(identityView.unread + 1);
});
session.addEventListener("presence", ({ detail }) => roster.update(detail));
session.addEventListener("notice", ({ detail }) => timeline.add(detail.text, detail.tone));
session.addEventListener("signedout", ({ detail }) => {
  startOver();
  showLogin(detail.reason, detail.code === "logged_out" ? "plain" : "bad");
});

roster.addEventListener("change", () => {
  showPlayers();
  conversationView.showNames();
});

byId("send-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const to = target.value.trim();
  const missing = to ? (text.value.trim() ? null : text) : target;
  if (missing) {
    setText(byId("receipt"), missing === target ? "Whom to? Pick a player or paste a true_id." : "");
    missing.focus();
    return;
  }
  outbox.submit(identity.player.true_id, to, text.value);
  text.value = "";
});
target.addEventListener("input", targetChanged);
target.addEventListener("change", () => target.value.trim() && roster.care([target.value.trim()]));
byId("logout").addEventListener("click", () => session.logout(false));
byId("logout-everywhere").addEventListener("click", () => session.logout(true));

document.addEventListener("visibilitychange", () => {
  tellVisibility();
  if (document.hidden) return;
  identityView.showTitle(0);
  session.hasten();
  roster.refresh();
});
document.addEventListener("resume", () => session.hasten());
window.addEventListener("pageshow", () => session.hasten());
window.addEventListener("online", () => session.hasten());

if (identity.known) {
  identityView.showPlayer(identity.player);
  showGame();
  session.open();
} else {
  showLogin();
}
