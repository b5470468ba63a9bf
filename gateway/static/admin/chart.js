// A line chart over time, drawn as SVG in the size that its place has.

import { h, s, setText } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 150;
const PAD = { left: 4, right: 4, top: 16, bottom: 20 };

/** The round number at or above `value`: 1, 2, 2.5 or 5 times a power of ten (or of two). */
function ceiling(value, base) {
  if (!(value > 0)) return 0;
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  const steps = base === 10 ? [1, 2, 2.5, 5, 10] : [1, 1.5, 2];
  return power * steps.find((step) => value <= power * step * 1.000001);
}

export class Chart {
  /** `series` are `[column, name]`; `format` says a value; `least` is the least top of the scale. */
  constructor({ title, series, format, least = 1, base = 10 }) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.base = base;
    this.samples = null;
    this.at = null;
    this.values = series.map(([, name], index) =>
      h("span", { class: "value" }, h("i", { class: `swatch series-${index + 1}` }), `${name} `, h("b", {}, "–")));
    this.when = h("span", { class: "note when" });
    this.svg = s("svg", { class: "chart", height: HEIGHT, role: "img", tabindex: 0, "aria-label": title });
    this.title = title;
    this.element = h("figure", { class: "card figure", data: { chart: series[0][0] } },
      h("figcaption", {}, h("h3", {}, title), this.when, h("div", { class: "legend" }, ...this.values)), this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.select(null));
    this.svg.addEventListener("blur", () => this.select(null));
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /** Show these samples, of which the window from `start` to `end` (Unix seconds) is drawn. */
  update(samples, start, end) {
    this.samples = samples;
    this.start = start;
    this.end = end;
    this.draw();
  }

  point(x) {
    if (!this.samples?.time.length) return;
    const time = this.start + ((x - PAD.left) / this.inner) * (this.end - this.start);
    let best = 0;
    this.samples.time.forEach((each, index) => {
      if (Math.abs(each - time) < Math.abs(this.samples.time[best] - time)) best = index;
    });
    this.select(this.samples.time[best]);
  }

  onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const times = this.samples?.time ?? [];
    if (step === undefined || !times.length) return;
    event.preventDefault();
    const last = times.length - 1;
    const now = this.at === null ? last : times.indexOf(this.at);
    this.select(times[Math.min(last, Math.max(0, now + step))]);
  }

  select(time) {
    this.at = time;
    this.draw();
  }

  draw() {
    const width = Math.floor(this.svg.clientWidth);
    if (!this.samples || width < 50) return;
    this.inner = width - PAD.left - PAD.right;
    const { time, columns } = this.samples;
    const rows = this.series.map(([column]) => columns[column] ?? []);
    const peak = Math.max(this.least, ...rows.map((row) => row.reduce((a, b) => Math.max(a, b), 0)));
    const top = ceiling(peak, this.base);
    const x = (moment) => PAD.left + ((moment - this.start) / (this.end - this.start)) * this.inner;
    const y = (value) => HEIGHT - PAD.bottom - (value / top) * (HEIGHT - PAD.top - PAD.bottom);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const chosen = this.at === null ? time.length - 1 : time.indexOf(this.at);
    this.svg.replaceChildren(
      ...this.grid(top, y, width),
      ...this.hours(x),
      ...rows.flatMap((row, index) => this.line(row, index, time, x, y, rows.length === 1)).reverse(),
      ...(this.at !== null && chosen >= 0 ? this.cross(rows, chosen, x(this.at), y) : []),
    );
    this.tell(rows, chosen);
  }

  grid(top, y, width) {
    return [top, top / 2, 0].flatMap((value) => {
      const line = s("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) });
      if (!value) return [line];
      return [line, s("text", { class: "tick", x: PAD.left, y: y(value) - 4 }, this.format(value))];
    });
  }

  hours(x) {
    const minutes = (this.end - this.start) / 60;
    const step = 60 * (minutes > 40 ? 15 : minutes > 20 ? 10 : minutes > 8 ? 5 : 1);
    const marks = [];
    for (let moment = Math.ceil(this.start / step) * step; moment <= this.end; moment += step) {
      const place = x(moment);
      if (place < 20 || place > this.inner - 16) continue;
      marks.push(s("text", { class: "tick", x: place, y: HEIGHT - 5, "text-anchor": "middle" }, clock(moment)));
    }
    return marks;
  }

  line(row, index, time, x, y, filled) {
    const points = [];
    time.forEach((moment, place) => {
      if (moment >= this.start) points.push(`${x(moment).toFixed(1)} ${y(row[place]).toFixed(1)}`);
    });
    if (!points.length) return [];
    const path = `M${points.join("L")}`;
    const drawn = [s("path", { class: `line series-${index + 1}`, d: path })];
    if (filled || index === 0) {
      const base = y(0).toFixed(1);
      const area = `${path}L${points.at(-1).split(" ")[0]} ${base}L${points[0].split(" ")[0]} ${base}Z`;
      drawn.push(s("path", { class: `area series-${index + 1}`, d: area }));
    }
    return drawn;
  }

  cross(rows, chosen, place, y) {
    return [
      s("line", { class: "cross", x1: place, x2: place, y1: PAD.top, y2: HEIGHT - PAD.bottom }),
      ...rows.map((row, index) => s("circle", { class: `dot series-${index + 1}`, cx: place, cy: y(row[chosen]), r: 3.5 })),
    ];
  }

  tell(rows, chosen) {
    const said = rows.map((row) => (chosen >= 0 ? this.format(row[chosen]) : "–"));
    this.values.forEach((value, index) => setText(value.lastChild, said[index]));
    setText(this.when, this.at === null ? "" : clock(this.at, true));
    const parts = this.series.map(([, name], index) => {
      const most = this.format(rows[index].reduce((a, b) => Math.max(a, b), 0));
      return `${name} ${said[index]}, at most ${most}`;
    });
    const label = `${this.title}${this.at === null ? "" : ` at ${clock(this.at, true)}`}: ${parts.join("; ")}`;
    if (this.svg.getAttribute("aria-label") !== label) this.svg.setAttribute("aria-label", label);
  }
}
