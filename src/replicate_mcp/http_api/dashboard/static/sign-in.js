// The sign-in form, for servers that require authentication and for users who switch to the admin
// key or to another account.

import { callApi, saveCredentials } from "./api.js";
import { byId, el, setText, setVisible } from "./dom.js";

const KINDS = {
  token: {
    label: "Replicate token",
    placeholder: "r8_…",
    hint: "With your token, you see your own batches and your account’s limits.",
  },
  admin: {
    label: "Admin key",
    placeholder: "The server’s admin key",
    hint: "With the admin key, you see the server’s batches and can register and resize semaphores.",
  },
};

export class SignIn {
  #container = byId("sign-in-panel");
  #title = el("h2");
  #description = el("p", { class: "lead" });
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
  #error = el("p", { class: "form-error", role: "alert", hidden: true });
  #submit = el("button", { class: "primary", type: "submit" }, "Sign in");
  #back = el("button", { type: "button" }, "Back");
  #kinds;
  #form;

  /** Call `onSignedIn()` when credentials were accepted and saved, `onBack()` when the user leaves. */
  constructor(onSignedIn, onBack) {
    this.onSignedIn = onSignedIn;
    this.#kinds = Object.entries(KINDS).map(([value, { label }]) =>
      el("label", {}, el("input", { type: "radio", name: "kind", value }), el("span", {}, label)),
    );
    this.#form = el(
      "form",
      { class: "card sign-in", novalidate: true },
      this.#title,
      this.#description,
      el(
        "fieldset",
        { class: "kinds" },
        el("legend", { class: "visually-hidden" }, "Credential type"),
        ...this.#kinds,
      ),
      this.#label,
      this.#secret,
      this.#hint,
      this.#error,
      el("div", { class: "row" }, this.#submit, this.#back),
      el("p", { class: "hint" }, "This tab keeps the credential until you sign out or close it."),
    );
    this.#form.addEventListener("change", () => this.#render());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submitForm();
    });
    this.#back.addEventListener("click", onBack);
    this.#form.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.#back.hidden) onBack();
    });
    this.#container.append(this.#form);
  }

  get isOpen() {
    return !this.#container.hidden;
  }

  /** Show the form. Set `required` if the server shows nothing without signing in. */
  open({ required, error = "", kind = "token" }) {
    setText(this.#title, required ? "Sign in to continue" : "Sign in");
    setText(
      this.#description,
      required
        ? "This server requires authentication."
        : "Without signing in, you see the batches of the server’s own token.",
    );
    for (const each of this.#kinds) each.firstChild.checked = each.firstChild.value === kind;
    this.#secret.value = "";
    this.#setError(error);
    setVisible(this.#back, !required);
    this.#render();
    setVisible(this.#container, true);
    this.#secret.focus();
  }

  close() {
    this.#secret.value = "";
    setVisible(this.#container, false);
  }

  get #kind() {
    return this.#kinds.find((each) => each.firstChild.checked).firstChild.value;
  }

  #render() {
    const { label, placeholder, hint } = KINDS[this.#kind];
    setText(this.#label, label);
    setText(this.#hint, hint);
    this.#secret.placeholder = placeholder;
  }

  #setError(message) {
    setText(this.#error, message);
    setVisible(this.#error, Boolean(message));
  }

  async #submitForm() {
    const credentials = { kind: this.#kind, secret: this.#secret.value.trim() };
    const problem = validationError(credentials);
    if (problem) return this.#reject(problem);
    this.#submit.disabled = true;
    try {
      // The server verifies a new token with Replicate.
      await callApi("GET", "global-semaphores", { credentials });
    } catch (error) {
      return this.#reject(error.message);
    } finally {
      this.#submit.disabled = false;
    }
    saveCredentials(credentials);
    this.close();
    this.onSignedIn();
  }

  #reject(message) {
    this.#setError(message);
    this.#secret.focus();
  }
}

function validationError({ kind, secret }) {
  const name = kind === "admin" ? "admin key" : "token";
  if (!secret) return `Enter the ${name}.`;
  if (!/^[!-~]+$/.test(secret)) {
    return `The ${name} contains whitespace or invalid characters; copy it again.`;
  }
  if (kind === "token" && !secret.startsWith("r8_")) return "A Replicate token starts with r8_.";
  return null;
}
