// The charts, and the hour of samples that they show.

import { Chart } from "./chart.js";
import { byId, setText } from "./dom.js";
import { bytes, duration, number, perSecond } from "./format.js";

const CHARTS = [
  {
    title: "Connections",
    series: [["connections", "Connections"], ["players", "Players"]],
    format: number,
    least: 4,
  },
  {
    title: "Messages",
    series: [["delivered", "Delivered"], ["queued", "Queued"], ["dropped", "Dropped"], ["duplicate", "Duplicate"]],
    format: perSecond,
  },
  {
    title: "Connects",
    series: [["connects", "Accepted"], ["refused_connects", "Refused"], ["closed_connections", "Closed"]],
    format: perSecond,
  },
  { title: "Event loop lag, worst", series: [["event_loop_lag_seconds", "Lag"]], format: duration, least: 0.01 },
  { title: "Mailboxes", series: [["mailbox_bytes", "Size"]], format: bytes, least: 1024, base: 2 },
  { title: "Refused events", series: [["refused_requests", "Refused"]], format: perSecond },
  {
    title: "Webhooks, waiting",
    series: [["webhooks_queued", "Waiting"]],
    format: number,
    needs: "webhooks_queued",
  },
  {
    title: "Webhooks, age of the oldest",
    series: [["webhooks_lag_seconds", "Age"]],
    format: duration,
    needs: "webhooks_lag_seconds",
  },
];
const WINDOWS = [5, 15, 30, 60];

export class Charts {
  #samples = { seq: 0, time: [], columns: {} };
  #charts = [];

  /** The newest sample that is here. */
  get seq() {
    return this.#samples.seq;
  }

  /** Take the samples of an answer, and draw. */
  update(state) {
    this.#take(state.samples);
    if (!this.#charts.length) {
      const there = CHARTS.filter(({ needs }) => !needs || needs in state.gauges);
      this.#charts = there.map((about) => new Chart(about));
      byId("charts").append(...this.#charts.map((chart) => chart.element));
    }
    const { time } = this.#samples;
    const minutes = time.length ? (state.time - time[0]) / 60 : 0;
    const length = WINDOWS.find((each) => minutes <= each) ?? WINDOWS.at(-1);
    setText(byId("window"), `last ${length === 60 ? "hour" : `${length} minutes`}, a sample each ${state.samples.seconds} s`);
    for (const chart of this.#charts) chart.update(this.#samples, state.time - 60 * length, state.time);
  }

  #take({ seq, first, capacity, time, columns }) {
    const old = this.#samples;
    // Else the gateway has been started anew, or we have missed some.
    const follows = first === old.seq + 1;
    const join = (before, after) => (follows ? [...before, ...after].slice(-capacity) : after);
    this.#samples = {
      seq,
      time: join(old.time, time),
      columns: Object.fromEntries(
        Object.entries(columns).map(([name, values]) => [name, join(old.columns[name] ?? [], values)]),
      ),
    };
  }
}
