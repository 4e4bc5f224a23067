// The dashboard: asks the server's public routes in rounds, and hands what they say to the parts.

import { call, isAdmin, keep, signedInWith } from "./api.js";
import { Batches } from "./batches.js";
import { byId, show, write } from "./dom.js";
import { Poller } from "./polling.js";
import { Semaphores } from "./semaphores.js";
import { SignIn } from "./sign-in.js";
import { everySecond, inWords } from "./time.js";
import { hush, say } from "./toast.js";

const poller = new Poller(round, told);
const semaphores = new Semaphores(() => poller.now());
const batches = new Batches(() => poller.now());
const signIn = new SignIn(enter, leaveSignIn);
let server; // What /status says; it does not change while the server runs.
let retryAt;

async function round(signal) {
  server ??= await call("GET", "status", { signal });
  const [limits, listed] = await Promise.all([
    call("GET", "global-semaphores", { signal }),
    call("GET", `batches?limit=${Math.min(1_000, batches.shown + 1)}`, { signal }),
  ]);
  semaphores.update(limits.semaphores, server.admin_api_configured);
  batches.update(listed.batches);
  write(byId("version"), `${server.service} ${server.version}`);
  show(byId("content"), true);
  drawWho();
  await batches.follow(signal);
  const inUse = limits.semaphores.some((each) => each.in_use || each.waiting);
  return inUse || batches.running.length > 0;
}

function told({ state, error, retryAt: at }) {
  const words = { live: "Live", idle: "Live", paused: "Paused", failing: "Offline" };
  byId("liveness").dataset.state = state;
  write(byId("liveness").lastElementChild, words[state] ?? "Not signed in");
  retryAt = at;
  show(byId("trouble"), state === "failing");
  write(byId("alert"), state === "failing" ? error.message : "");
  if (state === "failing") {
    write(byId("trouble-what"), error.message);
    drawRetry();
  }
  if (state === "refused") refused(error);
}

function drawRetry() {
  if (!retryAt) return;
  const left = Math.max(0, Math.ceil((retryAt - Date.now()) / 1_000));
  write(byId("trouble-when"), `Trying again in ${inWords(left)}; what you see may be old.`);
}

/** The server wants to know who this is; what was seen before is not for everybody. */
function refused(error) {
  const kept = signedInWith();
  keep(null);
  forget();
  const isAsked = !kept && error.message.startsWith("Authentication required");
  signIn.open({ required: true, why: isAsked ? "" : error.message, kind: kept?.kind });
  drawWho();
}

function enter() {
  forget();
  drawWho();
  byId("main").focus();
  poller.start();
}

function leaveSignIn() {
  signIn.close();
  show(byId("content"), Boolean(server));
  drawWho();
  byId("sign-in").focus();
  poller.start();
}

function forget() {
  server = undefined;
  semaphores.clear();
  batches.clear();
  show(byId("content"), false);
  show(byId("trouble"), false);
}

function drawWho() {
  const kept = signedInWith();
  write(byId("identity"), kept ? (isAdmin() ? "Admin" : "Your own token") : "");
  show(byId("sign-out"), Boolean(kept));
  show(byId("sign-in"), Boolean(server) && !kept && !signIn.isOpen);
}

byId("sign-in").addEventListener("click", () => {
  poller.stop();
  told({ state: "signing-in" });
  hush();
  show(byId("content"), false);
  signIn.open({ required: false, kind: server?.admin_api_configured ? "admin" : "token" });
  drawWho();
});
byId("sign-out").addEventListener("click", () => {
  keep(null);
  say("Signed out.");
  enter();
});
byId("try-now").addEventListener("click", () => poller.now());
everySecond(drawRetry);

drawWho();
poller.start();
