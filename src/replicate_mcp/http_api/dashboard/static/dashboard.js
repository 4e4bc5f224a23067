// The dashboard: polls the server's public routes and updates the sections of the page.

import { callApi, getCredentials, isAdmin, saveCredentials } from "./api.js";
import { Batches } from "./batches.js";
import { byId, setText, setVisible } from "./dom.js";
import { Poller } from "./polling.js";
import { Semaphores } from "./semaphores.js";
import { SignIn } from "./sign-in.js";
import { everySecond, formatDuration } from "./time.js";
import { hideToast, showToast } from "./toast.js";

const MAX_LISTED_BATCHES = 1_000; // The server's limit.

const CONNECTION_LABELS = { live: "Live", idle: "Live", paused: "Paused", failing: "Offline" };

const poller = new Poller(poll, renderConnection);
const semaphores = new Semaphores(() => poller.pollNow());
const batches = new Batches(() => poller.pollNow());
const signIn = new SignIn(restart, closeSignIn);
let server; // The response of /status, which is constant while the server runs.
let retryAt;

async function poll(signal) {
  server ??= await callApi("GET", "status", { signal });
  const batchLimit = Math.min(MAX_LISTED_BATCHES, batches.visibleCount + 1);
  const [limits, list] = await Promise.all([
    callApi("GET", "global-semaphores", { signal }),
    callApi("GET", `batches?limit=${batchLimit}`, { signal }),
  ]);
  semaphores.update(limits.semaphores, server.admin_api_configured);
  batches.update(list.batches);
  setText(byId("version"), `${server.service} ${server.version}`);
  setVisible(byId("content"), true);
  renderAccount();
  await batches.fetchResults(signal);
  const inUse = limits.semaphores.some(({ in_use, waiting }) => in_use || waiting);
  return inUse || batches.running.length > 0;
}

function renderConnection({ state, error, retryAt: time }) {
  const failing = state === "failing";
  byId("connection").dataset.state = state;
  setText(byId("connection").lastElementChild, CONNECTION_LABELS[state] ?? "Not signed in");
  retryAt = time;
  setVisible(byId("connection-error"), failing);
  setText(byId("alert"), failing ? error.message : "");
  if (failing) {
    setText(byId("connection-error-message"), error.message);
    renderRetry();
  }
  if (state === "unauthorized") requireSignIn(error);
}

function renderRetry() {
  if (!retryAt) return;
  const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1_000));
  setText(
    byId("connection-error-retry"),
    `Retrying in ${formatDuration(seconds)}. The data shown may be out of date.`,
  );
}

/** Discard the rejected credentials and all data that was visible with them, then ask to sign in. */
function requireSignIn(error) {
  const rejected = getCredentials();
  saveCredentials(null);
  clear();
  const isFirstSignIn = !rejected && error.message.startsWith("Authentication required");
  signIn.open({
    required: true,
    error: isFirstSignIn ? "" : error.message,
    kind: rejected?.kind,
  });
  renderAccount();
}

function restart() {
  clear();
  renderAccount();
  byId("main").focus();
  poller.start();
}

function closeSignIn() {
  signIn.close();
  setVisible(byId("content"), Boolean(server));
  renderAccount();
  byId("sign-in").focus();
  poller.start();
}

function clear() {
  server = undefined;
  semaphores.clear();
  batches.clear();
  setVisible(byId("content"), false);
  setVisible(byId("connection-error"), false);
}

function renderAccount() {
  const credentials = getCredentials();
  const label = isAdmin() ? "Admin" : "Your own token";
  setText(byId("identity"), credentials ? label : "");
  setVisible(byId("sign-out"), Boolean(credentials));
  setVisible(byId("sign-in"), Boolean(server) && !credentials && !signIn.isOpen);
}

byId("sign-in").addEventListener("click", () => {
  poller.stop();
  renderConnection({ state: "signing-in" });
  hideToast();
  setVisible(byId("content"), false);
  signIn.open({ required: false, kind: server?.admin_api_configured ? "admin" : "token" });
  renderAccount();
});
byId("sign-out").addEventListener("click", () => {
  saveCredentials(null);
  showToast("Signed out.");
  restart();
});
byId("retry-now").addEventListener("click", () => poller.pollNow());
everySecond(renderRetry);

renderAccount();
poller.start();
