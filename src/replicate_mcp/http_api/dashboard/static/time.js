// The server's clock, and times as text. Expiry follows the server's clock because the user's may
// be off by minutes.

const MAX_CLOCK_SKEW_MS = 2_000; // A `Date` header has whole seconds only.

let clockOffsetMs = 0; // The server's clock minus this computer's.
const tickListeners = new Set();

/** Set the clock offset from a response's `Date` header. */
export function syncClock(date) {
  const difference = Date.parse(date ?? "") - Date.now();
  if (Number.isNaN(difference)) return;
  clockOffsetMs = Math.abs(difference) < MAX_CLOCK_SKEW_MS ? 0 : difference;
}

/** Return the current time in ms, by the server's clock. */
export function now() {
  return Date.now() + clockOffsetMs;
}

/** Return the whole seconds until a time such as "2025-01-31T12:00:00Z"; negative once it has passed. */
export function secondsUntil(time) {
  return Math.ceil((Date.parse(time) - now()) / 1_000);
}

/** Format a duration in one unit: "43 min", "34 s". */
export function formatDuration(seconds) {
  if (seconds < 60) return `${Math.max(0, seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3_600)} h`;
}

/** Format the time since `time`: "just now", "3 min ago". */
export function formatTimeAgo(time) {
  const seconds = -secondsUntil(time);
  return seconds < 60 ? "just now" : `${formatDuration(seconds)} ago`;
}

/** Format a time of day such as "14:05:09" in the user's time zone. */
export function formatTime(time) {
  return new Date(time).toLocaleTimeString();
}

/** Call `listener` every second while the tab is visible. */
export function everySecond(listener) {
  tickListeners.add(listener);
}

setInterval(() => {
  if (!document.hidden) for (const listener of tickListeners) listener();
}, 1_000);
