// Calling the server's public routes, as whoever signed in. What they signed in with stays in this
// tab: in sessionStorage, sent as a header, never part of a URL.

import { heardTheTime } from "./time.js";

const PLACE = "replicate-mcp.signed-in-with";
const PATIENCE = 20_000; // ms until an answer is given up on

/** The server's "no": a sentence for a person, and HTTP's status. */
export class Refused extends Error {
  constructor(status, sentence, code) {
    super(sentence);
    this.status = status;
    this.code = code;
  }

  get wantsSignIn() {
    return this.status === 401;
  }
}

/** Who signed in: `{ kind: "token" | "admin", secret }`, or null. */
export function signedInWith() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(PLACE));
    return kept?.secret ? kept : null;
  } catch {
    return null;
  }
}

/** Remember who signed in for as long as this tab is open; null forgets. */
export function keep(credentials) {
  if (credentials) sessionStorage.setItem(PLACE, JSON.stringify(credentials));
  else sessionStorage.removeItem(PLACE);
}

/** Whether the admin signed in. */
export function isAdmin() {
  return signedInWith()?.kind === "admin";
}

/**
 * Call a route and get its JSON.
 *
 * Throws Refused for the server's "no", an AbortError when stopped, else an Error in words.
 */
export async function call(method, path, { body, signal, as = signedInWith() } = {}) {
  const patience = new AbortController();
  const stop = () => patience.abort();
  const timer = setTimeout(stop, PATIENCE);
  signal?.addEventListener("abort", stop);
  try {
    const answer = await fetch(path, {
      method,
      headers: { Accept: "application/json", ...bodyHeaders(body), ...credentialHeaders(as) },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: patience.signal,
    });
    heardTheTime(answer.headers.get("Date"));
    const told = await answer.json().catch(() => null);
    if (signal?.aborted) throw new DOMException("Stopped.", "AbortError");
    if (!answer.ok) throw refusal(answer.status, told);
    if (told === null) throw new Error("The server's answer makes no sense.");
    return told;
  } catch (error) {
    if (error instanceof Refused || signal?.aborted) throw error;
    if (error.name === "AbortError") throw new Error("The server takes too long to answer.");
    if (error instanceof TypeError) throw new Error("The server cannot be reached.");
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

function refusal(status, told) {
  const sentence = told?.error ?? `The server answered with an error (HTTP ${status}).`;
  return new Refused(status, sentence, told?.error_code);
}

function bodyHeaders(body) {
  return body === undefined ? {} : { "Content-Type": "application/json" };
}

function credentialHeaders(credentials) {
  if (!credentials) return {};
  if (credentials.kind === "admin") return { "X-Admin-API-Key": credentials.secret };
  return { Authorization: `Bearer ${credentials.secret}` };
}
