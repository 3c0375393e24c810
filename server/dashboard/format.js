// Figures and moments as people read them. What is unknown is a dash, never 0.

export const UNKNOWN = "–";

export function duration(ms) {
  if (ms === null || ms === undefined) return UNKNOWN;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  const pad = (n) => String(n).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)} min ${pad(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${pad(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 86400)} d ${pad(Math.floor((s % 86400) / 3600))} h`;
}

export function bytes(n) {
  if (n === null || n === undefined) return UNKNOWN;
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

export function count(n) {
  return n === null || n === undefined ? UNKNOWN : n.toLocaleString("en");
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export function dollars(n) {
  if (n === null || n === undefined) return UNKNOWN;
  return `$${n.toFixed(n !== 0 && Math.abs(n) < 0.1 ? 4 : 2)}`;
}

export function percent(share, digits = 0) {
  return share === null || share === undefined ? UNKNOWN : `${(share * 100).toFixed(digits)} %`;
}

// Milliseconds since the epoch, or ISO text.
export function moment(at) {
  if (at === null || at === undefined) return UNKNOWN;
  const date = new Date(at);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${day(date)} ${time}`;
}

function day(date) {
  const pad = (n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

export function ago(at, now) {
  if (at === null || at === undefined) return UNKNOWN;
  const ms = now - at;
  return ms < 1500 ? "now" : `${duration(ms)} ago`;
}

export function json(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function shorten(text, length = 160) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

// "name: value, …" of an object.
export function details(of, between = ", ") {
  return Object.entries(of).map(([name, value]) => `${name}: ${json(value)}`).join(between);
}
