// What the gateway says of itself now: the tiles at the top, and the counts at the bottom.

import { byId, h, setText, show, table } from "./dom.js";
import { bytes, duration, number, perSecond, words } from "./format.js";

/** Counters in words, in their order; others follow under their own names. */
const COUNTS = [
  ["messages", "Messages", "By the status of their receipt"],
  ["messages_by_kind", "Messages by kind", "One to a room for each member"],
  ["resumes", "Connects", "Accepted, by outcome"],
  ["refused_connects", "Refused connects", "By code"],
  ["refused_requests", "Refused events", "By code"],
  ["limit_hits", "Limits hit", "By key of the YAML file"],
  ["closed_connections", "Closed connections", "By reason"],
  ["takeovers", "Takeovers", "Of connections by their next one"],
  ["dropped_messages", "Messages dropped unread", "By reason"],
  ["kept_volatile", "Volatile, kept", "For slow or hidden connections"],
  ["dropped_volatile", "Volatile, dropped", "By reason"],
  ["webhooks", "Webhooks", "Sent, failed, given up"],
  ["api_calls", "API calls", "By HTTP status"],
  ["admin_logins", "Log-ins here", "By result"],
];

const total = (counts = {}) => Object.values(counts).reduce((sum, count) => sum + count, 0);

/** Remembers the last answer: a rate is what was counted since, by the gateway's clock. */
export class Rates {
  #before = null;
  #now = null;

  update(state) {
    if (this.#now && this.#now.started !== state.started) this.#now = null;
    this.#before = this.#now;
    this.#now = state;
  }

  of(counter, value) {
    if (!this.#before) return 0;
    const seconds = this.#now.time - this.#before.time;
    const count = (state) => (value === undefined ? total(state.counts[counter]) : state.counts[counter]?.[value] ?? 0);
    return seconds > 0 ? Math.max(0, count(this.#now) - count(this.#before)) / seconds : 0;
  }
}

function tilesOf({ gauges, counts, samples }, rates, lag) {
  const slow = counts.closed_connections?.slow_consumer ?? 0;
  const tiles = [
    ["connections", "Connections", number(gauges.connections), `${number(gauges.player_connections)} logged in`],
    ["players", "Players", number(gauges.players), "connected"],
    ["sessions", "Sessions", number(gauges.sessions), "kept"],
    ["messages", "Messages", perSecond(rates.of("messages")), `${number(total(counts.messages))} in all`],
    ["connects", "Connects", perSecond(rates.of("resumes") + rates.of("refused_connects")), `${number(total(counts.refused_connects))} refused in all`],
    ["lag", "Event loop lag", duration(lag), `worst of ${samples.seconds} s`, lag > 0.25 ? "bad" : lag > 0.05 ? "warn" : ""],
    ["mailboxes", "Mailboxes", bytes(gauges.mailbox_bytes), gauges.store_available ? "store is available" : "store is not available", gauges.store_available ? "" : "bad"],
    ["rooms", "Rooms", number(gauges.rooms), `${number(gauges.room_members)} ${gauges.room_members === 1 ? "member" : "members"}`],
    ["slow", "Slow consumers", number(gauges.slow_consumers), `${number(slow)} closed in all`, gauges.slow_consumers ? "warn" : ""],
    ["limits", "Limits hit", number(total(counts.limit_hits)), perSecond(rates.of("limit_hits")), rates.of("limit_hits") ? "warn" : ""],
  ];
  if ("webhooks_queued" in gauges) {
    const dead = gauges.webhooks_dead;
    tiles.push(
      ["webhooks", "Webhooks", number(gauges.webhooks_queued), `oldest ${duration(gauges.webhooks_lag_seconds)}`, gauges.webhooks_circuit_open ? "bad" : ""],
      ["dead", "Dead letters", number(dead), "webhooks given up", dead ? "warn" : ""],
    );
  }
  return tiles;
}

export class Figures {
  #tiles = new Map();
  #lag = 0;

  update(state, rates) {
    this.#lag = state.samples.columns.event_loop_lag_seconds.at(-1) ?? this.#lag;
    for (const tile of tilesOf(state, rates, this.#lag)) this.#show(...tile);
    showCounts(state.counts, rates);
  }

  #show(id, name, value, note, tone = "") {
    if (!this.#tiles.has(id)) {
      const tile = { value: h("dd", { class: "big", id: `tile-${id}` }), note: h("dd", { class: "note" }) };
      tile.element = h("div", { class: "card tile" }, h("dt", {}, name), tile.value, tile.note);
      this.#tiles.set(id, tile);
      byId("tiles").append(tile.element);
    }
    const tile = this.#tiles.get(id);
    setText(tile.value, value);
    setText(tile.note, note);
    tile.element.dataset.tone = tone;
  }
}

function showCounts(counts, rates) {
  const known = new Set(COUNTS.map(([name]) => name));
  const others = Object.keys(counts).filter((name) => !known.has(name)).map((name) => [name, words(name), ""]);
  const shown = [...COUNTS, ...others]
    .filter(([name]) => name in counts)
    .map(([name, title, note]) => [name, title, note, rowsOf(name, counts[name], rates)])
    .sort((a, b) => Boolean(b[3].length) - Boolean(a[3].length));
  const filled = shown.filter(([, , , rows]) => rows.length);
  const empty = shown.filter(([, , , rows]) => !rows.length).map(([, title]) => title);
  show(byId("counts"), [filled, empty], () => [...filled.map(countCard), ...(empty.length ? [emptyCard(empty)] : [])]);
}

function rowsOf(name, counts, rates) {
  return Object.entries(counts)
    .filter(([, count]) => count)
    .sort((a, b) => b[1] - a[1])
    .map(([value, count]) => [value, number(count), number(rates.of(name, value))]);
}

function countCard([name, title, note, rows]) {
  const cells = rows.map(([value, count, rate]) =>
    h("tr", {}, h("th", { scope: "row" }, value), h("td", { class: "number" }, count), h("td", { class: "number quiet" }, rate === "0" ? "" : `${rate}/s`)));
  return h("div", { class: "card count", data: { count: name } }, h("h3", {}, title), note ? h("p", { class: "note" }, note) : null,
    table(title, [[note || "value", "unseen-cell"], ["count", "unseen-cell"], ["per second", "unseen-cell"]], cells));
}

function emptyCard(titles) {
  return h("div", { class: "card count" }, h("h3", {}, "Nothing yet"), h("p", { class: "note" }, titles.join(" · ")));
}
