// Client for the server's public routes. The credentials are kept in this tab's sessionStorage and
// sent as a header, never as part of a URL.

import { syncClock } from "./time.js";

const STORAGE_KEY = "replicate-mcp.credentials";
const TIMEOUT_MS = 20_000;

/** An error response of the server, with its HTTP status and message. */
export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }

  get requiresSignIn() {
    return this.status === 401;
  }
}

/** Return the saved credentials, `{ kind: "token" | "admin", secret }`, or null. */
export function getCredentials() {
  try {
    const saved = JSON.parse(sessionStorage.getItem(STORAGE_KEY));
    return saved?.secret ? saved : null;
  } catch {
    return null;
  }
}

/** Save the credentials until this tab is closed; null removes them. */
export function saveCredentials(credentials) {
  if (credentials) sessionStorage.setItem(STORAGE_KEY, JSON.stringify(credentials));
  else sessionStorage.removeItem(STORAGE_KEY);
}

/** Whether the saved credentials are an admin key. */
export function isAdmin() {
  return getCredentials()?.kind === "admin";
}

/**
 * Call a route and return its JSON.
 *
 * Throw an ApiError for an error response, an AbortError when `signal` is aborted, and otherwise an
 * Error with a message for the user.
 */
export async function callApi(
  method,
  path,
  { body, headers = {}, signal, credentials = getCredentials() } = {},
) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  const timer = setTimeout(abort, TIMEOUT_MS);
  signal?.addEventListener("abort", abort);
  try {
    const response = await fetch(path, {
      method,
      headers: {
        Accept: "application/json",
        ...headers,
        ...contentHeaders(body),
        ...credentialHeaders(credentials),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: controller.signal,
    });
    syncClock(response.headers.get("Date"));
    const data = await response.json().catch(() => null);
    if (signal?.aborted) throw new DOMException("Aborted.", "AbortError");
    if (!response.ok) throw apiError(response.status, data);
    if (data === null) throw new Error("The server sent an invalid response.");
    return data;
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    if (error.name === "AbortError") throw new Error("The server did not respond in time.");
    if (error instanceof TypeError) throw new Error("The server cannot be reached.");
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

function apiError(status, data) {
  const message = data?.error ?? `The server returned an error (HTTP ${status}).`;
  return new ApiError(status, message, data?.error_code);
}

function contentHeaders(body) {
  return body === undefined ? {} : { "Content-Type": "application/json" };
}

function credentialHeaders(credentials) {
  if (!credentials) return {};
  if (credentials.kind === "admin") return { "X-Admin-API-Key": credentials.secret };
  return { Authorization: `Bearer ${credentials.secret}` };
}
