// One player: presence, sessions, connections, mailbox, rooms; and what may be done to them.

import { call, playerPath, Refused } from "./api.js";
import { byId, h, show, table } from "./dom.js";
import { confirm } from "./dialog.js";
import { ago, date, number } from "./format.js";

const DURATIONS = [
  ["600", "10 minutes"],
  ["3600", "an hour"],
  ["86400", "a day"],
  ["604800", "a week"],
  ["", "for good"],
];

const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
const plural = (count, name) => `${number(count)} ${name}${count === 1 ? "" : "s"}`;

export class Player {
  #trueId = "";
  #now = 0;
  #announce;
  #close;

  /** `announce` begins a message to a player, `close` goes back to the list. */
  constructor(announce, close) {
    this.#announce = announce;
    this.#close = close;
  }

  open(trueId) {
    this.#trueId = trueId;
    show(byId("player"), ["opening", trueId], () => h("p", { class: "empty" }, "Looking…"));
  }

  async refresh(now = this.#now) {
    this.#now = now;
    const trueId = this.#trueId;
    let found = null;
    try {
      found = await call("GET", playerPath(trueId));
    } catch (error) {
      if (!(error instanceof Refused) || ![400, 404].includes(error.status)) throw error;
    }
    if (trueId !== this.#trueId) return;
    const seen = found?.player.sessions.map((session) => (session.connected ? "connected" : ago(session.last_seen, now)));
    const since = found?.player.since ? ago(found.player.since, now) : "";
    show(byId("player"), [trueId, found, seen, since], () => [this.#back(), ...(found ? this.#view(found, seen, since) : [this.#nobody()])]);
  }

  #back() {
    return h("p", {}, h("button", { type: "button", class: "small", data: { key: "back" }, on: { click: this.#close } }, "← All players"));
  }

  #nobody() {
    return h("p", { class: "empty" }, "There is no player ", h("code", {}, this.#trueId), ".");
  }

  #view({ player, open, elsewhere }, seen, since) {
    const there = elsewhere.reduce((count, { session_ids }) => count + session_ids.length, 0);
    const name = player.name ?? player.sessions.at(-1)?.name ?? player.true_id;
    const ban = player.ban;
    const shown = [
      h("h3", { class: "name" }, name, h("span", { class: "badge", data: { tone: player.state } }, player.state)),
      h("p", { class: "mono quiet" }, player.true_id),
    ];
    if (ban) {
      shown.push(h("p", { class: "reason", id: "banned" },
        `Banned ${ban.until === null ? "for good" : `until ${date(ban.until)}`}${ban.reason ? `: ${ban.reason}` : ""}`));
    }
    shown.push(
      this.#actions(player, name),
      h("dl", { class: "facts" },
        fact("Connections", there ? `${number(open.length)} here, at least ${number(there)} at other nodes` : number(open.length)),
        fact("Since", since || "–"),
        fact("Mailbox", plural(player.mailbox.messages, "message")),
        fact("Unread", number(player.mailbox.unread)),
        player.status ? fact("Status", player.status) : null,
        fact("Rooms", ...(player.rooms?.length ? player.rooms.map((room) => h("span", { class: "chip" }, room)) : ["none"]))),
      h("h4", {}, plural(player.sessions.length, "session")),
      this.#sessions(player, seen, open, elsewhere),
    );
    return shown;
  }

  #actions({ true_id: trueId, ban, connections, sessions }, name) {
    const act = (text, danger, click, able = true) =>
      h("button", { type: "button", class: danger ? "danger" : "", disabled: !able, data: { key: text }, on: { click } }, text);
    return h("div", { class: "actions" },
      act("Message", false, () => this.#announce(trueId)),
      act("Kick", true, () => this.#kick(trueId, name), connections > 0),
      act("Revoke sessions", true, () => this.#revoke(trueId, name), sessions.length > 0),
      ban ? act("Lift ban", false, () => this.#lift(trueId, name)) : act("Ban", true, () => this.#ban(trueId, name)));
  }

  #sessions({ true_id: trueId, sessions }, seen, open, elsewhere) {
    const row = ({ session_id: id, attributes }, index) => {
      const mine = open.filter((each) => each.session_id === id);
      const given = Object.keys(attributes).length ? JSON.stringify(attributes) : "";
      const here = mine.map((each) => `connection ${each.id}${each.hidden ? ", hidden" : ""}`);
      const there = elsewhere.filter((each) => each.session_ids.includes(id))
        .map(({ node, address }) => `at node ${node}${address ? ` (${address})` : ""}`);
      const connected = [...here, ...there].join("; ");
      return h("tr", {},
        h("td", {}, h("span", { class: "mono" }, id), given ? h("div", { class: "note mono attributes" }, given) : null),
        h("td", {}, seen[index], connected ? h("div", { class: "note" }, connected) : null),
        h("td", { class: "number" }, h("button", { type: "button", class: "small danger", "aria-label": `Revoke session ${id}`, data: { key: id },
          on: { click: () => this.#revokeOne(trueId, id) } }, "Revoke")));
    };
    if (!sessions.length) return h("p", { class: "empty" }, "None.");
    return table("Sessions", [["Session"], ["Last seen"], ["", "number"]], sessions.map(row));
  }

  #do(about) {
    confirm({
      ...about,
      run: async () => {
        const done = await about.run();
        await this.refresh();
        return done;
      },
    });
  }

  #kick(trueId, name) {
    this.#do({
      title: `Kick ${name}?`,
      text: "All their connections are closed, and stock clients do not come back by themselves. Sessions stay: the player may come back.",
      action: "Kick",
      run: async () => {
        const { connections } = await call("POST", playerPath(trueId, "/kick"));
        return `${name} is kicked: ${plural(connections, "connection")} closed.`;
      },
    });
  }

  #revoke(trueId, name) {
    this.#do({
      title: `Revoke all sessions of ${name}?`,
      text: "They are disconnected, and none of their tokens is worth anything any more: they have to log in again. A guest becomes another player.",
      action: "Revoke",
      run: async () => {
        const { sessions } = await call("DELETE", playerPath(trueId, "/sessions"));
        return `${plural(sessions, "session")} of ${name} revoked.`;
      },
    });
  }

  #revokeOne(trueId, id) {
    this.#do({
      title: "Revoke this session?",
      text: `Session ${id} is disconnected, and its tokens are worth nothing any more.`,
      action: "Revoke",
      run: async () => {
        await call("DELETE", playerPath(trueId, `/sessions/${encodeURIComponent(id)}`));
        return "The session is revoked.";
      },
    });
  }

  #ban(trueId, name) {
    const reason = h("input", { id: "ban-reason", maxlength: 256, autocomplete: "off" });
    const length = h("select", { id: "ban-length" }, ...DURATIONS.map(([value, text]) => h("option", { value }, text)));
    const field = (label, input) => h("div", { class: "field" }, h("label", { for: input.id }, label), input);
    this.#do({
      title: `Ban ${name}?`,
      text: "They are disconnected and cannot connect until the ban ends. They are told the reason.",
      action: "Ban",
      fields: [field("Reason", reason), field("For how long", length)],
      run: async () => {
        const until = length.value ? Math.floor(this.#now) + Number(length.value) : null;
        await call("PUT", playerPath(trueId, "/ban"), { reason: reason.value.trim(), until });
        return `${name} is banned.`;
      },
    });
  }

  #lift(trueId, name) {
    this.#do({
      title: `Lift the ban of ${name}?`,
      text: "They may connect again.",
      action: "Lift ban",
      danger: false,
      run: async () => {
        await call("DELETE", playerPath(trueId, "/ban"));
        return `${name} may play again.`;
      },
    });
  }
}
