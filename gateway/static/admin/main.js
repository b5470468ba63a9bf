// The page: asks the gateway every second or two, and shows what it says.

import { Announce } from "./announce.js";
import { call, logOut } from "./api.js";
import { Charts } from "./charts.js";
import { tell, wording } from "./dialog.js";
import { byId, setText } from "./dom.js";
import { Figures, Rates } from "./figures.js";
import { duration } from "./format.js";
import { Players } from "./players.js";
import { Rooms } from "./rooms.js";

const PAUSE = 1500;
/** Rooms are asked for less often: finding the largest costs a look at all of them. */
const TURNS_FOR_ROOMS = 3;

const announce = new Announce();
const charts = new Charts();
const figures = new Figures();
const players = new Players((trueId) => announce.begin("target_id", trueId));
const rates = new Rates();
const rooms = new Rooms((room) => announce.begin("room", room));

let turn = 0;
let timer = 0;
let asking = false;

function showHealth(state) {
  const health = byId("health");
  setText(health, state.trouble ? `Not ready: ${state.trouble}` : "Serving");
  health.dataset.tone = state.trouble ? "bad" : "good";
  setText(byId("caller"), state.caller);
  setText(byId("about"), `Version ${state.version}, up for ${duration(state.time - state.started)}`);
}

async function ask() {
  const state = await call("GET", `state?after=${charts.seq}`);
  rates.update(state);
  showHealth(state);
  figures.update(state, rates);
  charts.update(state);
  const asked = [players.refresh(state.time)];
  if (turn % TURNS_FOR_ROOMS === 0) asked.push(rooms.refresh());
  turn += 1;
  await Promise.all(asked);
}

async function loop() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    await ask();
    document.body.dataset.live = "yes";
  } catch (error) {
    document.body.dataset.live = "no";
    byId("health").dataset.tone = "bad";
    setText(byId("health"), wording(error));
  }
  asking = false;
  // A page that nobody sees asks nothing.
  if (!document.hidden) timer = setTimeout(loop, PAUSE);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) loop();
});
byId("logout").addEventListener("click", () => logOut().catch((error) => tell(wording(error), "bad")));
loop();
