// Numbers, sizes and times for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

export function number(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${two.format(value / 1e6)} M`;
  if (size >= 100 || Number.isInteger(value)) return whole.format(value);
  return (size >= 10 ? one : two).format(value);
}

export function bytes(value) {
  let unit = 0;
  for (; value >= 1024 && unit < SIZES.length - 1; unit += 1) value /= 1024;
  return `${unit && value < 100 ? one.format(value) : whole.format(value)} ${SIZES[unit]}`;
}

export function perSecond(value) {
  return `${number(value)}/s`;
}

/** Seconds as people say them, in their largest two units. */
export function duration(seconds) {
  if (seconds < 1) return seconds < 0.0005 ? "0 ms" : `${number(Math.round(seconds * 1e4) / 10)} ms`;
  if (seconds < 10) return `${one.format(seconds)} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  let left = Math.floor(seconds);
  const parts = [];
  for (const [name, length] of units.slice(first, first + 2)) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count) parts.push(`${count} ${name}`);
  }
  return parts.join(" ");
}

/** How long ago a time in Unix seconds was, by the gateway's clock. */
export function ago(time, now) {
  const seconds = now - time;
  return seconds < 2 ? "now" : `${duration(seconds)} ago`;
}

export function clock(time, seconds = false) {
  const shape = { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined, hour12: false };
  return new Date(time * 1000).toLocaleTimeString("en", shape);
}

export function date(time) {
  return new Date(time * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short", hour12: false });
}

/** A label of the metrics in words. */
export function words(label) {
  return label.replaceAll("_", " ");
}
