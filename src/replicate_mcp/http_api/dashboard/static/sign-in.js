// Asking who it is, where the server wants to know, or where an admin or another account comes in.

import { call, keep } from "./api.js";
import { byId, el, show, write } from "./dom.js";

const KINDS = {
  token: {
    name: "Replicate token",
    placeholder: "r8_…",
    hint: "You see your own account’s limits and your own batches.",
  },
  admin: {
    name: "Admin key",
    placeholder: "The server’s admin key",
    hint: "You see the server’s batches, and may register and resize semaphores.",
  },
};

export class SignIn {
  #place = byId("sign-in-place");
  #title = el("h2");
  #why = el("p", { class: "lead" });
  #secret = el("input", {
    id: "secret",
    type: "password",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    required: true,
  });
  #label = el("label", { for: "secret" });
  #hint = el("p", { class: "hint" });
  #reason = el("p", { class: "reason", role: "alert", hidden: true });
  #submit = el("button", { class: "primary", type: "submit" }, "Sign in");
  #back = el("button", { type: "button" }, "Back");
  #kinds;
  #form;

  /** `signedIn()` and `left()` are called when the panel has done its work. */
  constructor(signedIn, left) {
    this.signedIn = signedIn;
    this.#kinds = Object.entries(KINDS).map(([value, { name }]) =>
      el("label", {}, el("input", { type: "radio", name: "kind", value }), el("span", {}, name)),
    );
    this.#form = el(
      "form",
      { class: "card sign-in", novalidate: true },
      this.#title,
      this.#why,
      el(
        "fieldset",
        { class: "kinds" },
        el("legend", { class: "unseen" }, "With what"),
        ...this.#kinds,
      ),
      this.#label,
      this.#secret,
      this.#hint,
      this.#reason,
      el("div", { class: "row" }, this.#submit, this.#back),
      el("p", { class: "hint" }, "It stays in this tab until you sign out or close it."),
    );
    this.#form.addEventListener("change", () => this.#draw());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
    this.#back.addEventListener("click", left);
    this.#form.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.#back.hidden) left();
    });
    this.#place.append(this.#form);
  }

  get isOpen() {
    return !this.#place.hidden;
  }

  /** Show the panel: `required` where nothing is seen without, `why` where something was refused. */
  open({ required, why = "", kind = "token" }) {
    write(this.#title, required ? "Sign in to see what runs" : "Sign in");
    write(
      this.#why,
      required
        ? "This server wants to know who is looking."
        : "Without signing in, you see what the server’s own token makes.",
    );
    for (const each of this.#kinds) each.firstChild.checked = each.firstChild.value === kind;
    this.#secret.value = "";
    this.#refuse(why);
    show(this.#back, !required);
    this.#draw();
    show(this.#place, true);
    this.#secret.focus();
  }

  close() {
    this.#secret.value = "";
    show(this.#place, false);
  }

  get #kind() {
    return this.#kinds.find((each) => each.firstChild.checked).firstChild.value;
  }

  #draw() {
    const { name, placeholder, hint } = KINDS[this.#kind];
    write(this.#label, name);
    write(this.#hint, hint);
    this.#secret.placeholder = placeholder;
  }

  #refuse(why) {
    write(this.#reason, why);
    show(this.#reason, Boolean(why));
  }

  async #send() {
    const credentials = { kind: this.#kind, secret: this.#secret.value.trim() };
    const wrong = mistake(credentials);
    if (wrong) return this.#ask(wrong);
    this.#submit.disabled = true;
    try {
      await call("GET", "global-semaphores", { as: credentials }); // Asks Replicate, the first time.
    } catch (error) {
      return this.#ask(error.message);
    } finally {
      this.#submit.disabled = false;
    }
    keep(credentials);
    this.close();
    this.signedIn();
  }

  #ask(why) {
    this.#refuse(why);
    this.#secret.focus();
  }
}

function mistake({ kind, secret }) {
  if (!secret) return `Put in the ${kind === "admin" ? "admin key" : "token"}.`;
  if (!/^[!-~]+$/.test(secret)) return "There are blanks or odd characters in it: copy it anew.";
  if (kind === "token" && !secret.startsWith("r8_")) return "A Replicate token begins with r8_.";
  return null;
}
