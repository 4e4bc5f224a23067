// The server's time, and times in words. A person's clock may be wrong by minutes, and what expires
// does so by the server's.

let ahead = 0; // ms by which the server's clock is ahead of this one
const listeners = new Set();

/** Take the time from an answer's `Date`, which is in whole seconds. */
export function heardTheTime(date) {
  const difference = Date.parse(date ?? "") - Date.now();
  if (Number.isNaN(difference)) return;
  ahead = Math.abs(difference) < 2_000 ? 0 : difference;
}

/** Now, in ms, by the server's clock. */
export function now() {
  return Date.now() + ahead;
}

/** Whole seconds until a time like "2025-01-31T12:00:00Z"; negative after it. */
export function secondsUntil(moment) {
  return Math.ceil((Date.parse(moment) - now()) / 1_000);
}

/** "43 min", "34 s": how long, in one unit. */
export function inWords(seconds) {
  if (seconds < 60) return `${Math.max(0, seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3_600)} h`;
}

/** "just now", "3 min ago". */
export function ago(moment) {
  const seconds = -secondsUntil(moment);
  return seconds < 60 ? "just now" : `${inWords(seconds)} ago`;
}

/** "14:05:09", by this computer's clock and time zone. */
export function hour(moment) {
  return new Date(moment).toLocaleTimeString();
}

/** Be called every second while the tab is seen. */
export function everySecond(listener) {
  listeners.add(listener);
}

setInterval(() => {
  if (!document.hidden) for (const listener of listeners) listener();
}, 1_000);
