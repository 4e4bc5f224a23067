// The admin's forms to register and to resize a semaphore.

import { callApi, isAdmin } from "./api.js";
import { el, setText, setVisible } from "./dom.js";
import { showToast } from "./toast.js";

const MAX_LIMIT = 10_000;
const MAX_NAME_LENGTH = 100;

/** The form in a semaphore's card that changes its limit. */
export class ResizeForm {
  #limit;
  #input;
  #error = formError();

  /** Call `onChange()` after the limit was changed. */
  constructor(name, onChange) {
    this.name = name;
    this.onChange = onChange;
    this.opener = el(
      "button",
      { type: "button", class: "link", hidden: true, "aria-expanded": "false" },
      "Resize",
      el("span", { class: "visually-hidden" }, ` ${name}`),
    );
    this.opener.addEventListener("click", () => (this.form.hidden ? this.open() : this.close()));
    this.#input = limitInput(`New limit of ${name}`);
    this.form = el(
      "form",
      { class: "resize", hidden: true, novalidate: true },
      el(
        "div",
        { class: "row" },
        this.#input,
        el("button", { class: "primary", type: "submit" }, "Set limit"),
        el("button", { type: "button", onclick: () => this.close() }, "Close"),
      ),
      el(
        "p",
        { class: "hint" },
        "Running predictions are not stopped; a lower limit takes effect as they end.",
      ),
      this.#error,
    );
    this.form.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submitForm();
    });
  }

  update(limit) {
    this.#limit = limit;
    setVisible(this.opener, isAdmin());
    if (!isAdmin()) setVisible(this.form, false);
  }

  open() {
    this.#input.value = this.#limit;
    setVisible(this.#error, false);
    setVisible(this.form, true);
    this.opener.setAttribute("aria-expanded", "true");
    this.#input.select();
  }

  close() {
    setVisible(this.form, false);
    this.opener.setAttribute("aria-expanded", "false");
    this.opener.focus();
  }

  async #submitForm() {
    if (await setLimit(this.name, this.#input, this.#error)) {
      this.close();
      this.onChange();
    }
  }
}

/** The form that registers a semaphore; without the admin key, a hint to sign in. */
export class RegisterForm {
  #opener = el("button", { type: "button", class: "wide" }, "Register a semaphore");
  #form;
  #name = el("input", {
    name: "semaphore",
    required: true,
    maxlength: MAX_NAME_LENGTH,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    placeholder: "team-a",
  });
  #limit = limitInput("Limit");
  #error = formError();
  #hint = el("p", { class: "hint", hidden: true }, "Sign in with the admin key to change limits.");

  /** Call `onChange()` after a semaphore was registered. */
  constructor(onChange) {
    this.onChange = onChange;
    this.#limit.removeAttribute("aria-label");
    this.#limit.value = "10";
    this.#form = el(
      "form",
      {
        class: "card register",
        hidden: true,
        novalidate: true,
        "aria-label": "Register a semaphore",
      },
      el("h3", {}, "New semaphore"),
      el(
        "p",
        { class: "hint" },
        "A named limit. A batch that names it holds one unit for each running prediction, in addition to a unit of its account’s limit.",
      ),
      el("label", {}, "Name", this.#name),
      el("label", {}, "Limit (concurrent predictions)", this.#limit),
      this.#error,
      el(
        "div",
        { class: "row" },
        el("button", { class: "primary", type: "submit" }, "Register"),
        el("button", { type: "button", onclick: () => this.close() }, "Close"),
      ),
    );
    this.#opener.addEventListener("click", () => {
      setVisible(this.#form, true);
      setVisible(this.#opener, false);
      this.#name.focus();
    });
    this.#form.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submitForm();
    });
    this.element = el("div", {}, this.#opener, this.#form, this.#hint);
  }

  update(adminConfigured) {
    setVisible(this.#opener, isAdmin() && this.#form.hidden);
    if (!isAdmin()) setVisible(this.#form, false);
    setVisible(this.#hint, adminConfigured && !isAdmin());
  }

  close() {
    setVisible(this.#error, false);
    this.#name.value = "";
    const wasOpen = !this.#form.hidden;
    setVisible(this.#form, false);
    setVisible(this.#opener, isAdmin());
    if (wasOpen) this.#opener.focus();
  }

  async #submitForm() {
    const name = this.#name.value.trim();
    if (!name) {
      showError(this.#error, "Enter a name.", this.#name);
      return;
    }
    if (await setLimit(name, this.#limit, this.#error, this.#name)) {
      this.close();
      this.onChange();
    }
  }
}

function limitInput(label) {
  return el("input", {
    type: "number",
    name: "limit",
    min: 1,
    max: MAX_LIMIT,
    step: 1,
    required: true,
    inputmode: "numeric",
    "aria-label": label,
  });
}

function formError() {
  return el("p", { class: "form-error", role: "alert", hidden: true });
}

/** Show a form's error and focus the field to correct. */
function showError(error, message, field) {
  setText(error, message);
  setVisible(error, true);
  field.focus();
}

/**
 * Register or resize a semaphore. On failure, show the message in `error` and return false; the
 * focus goes to `input` if its value is invalid, and to `field` if the server rejects the request.
 */
async function setLimit(name, input, error, field = input) {
  setVisible(error, false);
  const limit = Number(input.value);
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    const max = MAX_LIMIT.toLocaleString("en");
    showError(error, `The limit must be a whole number from 1 to ${max}.`, input);
    return false;
  }
  try {
    const body = { semaphore_id: name, limit };
    const response = await callApi("POST", "global-semaphores", { body });
    showToast(response.message);
    return true;
  } catch (failure) {
    showError(error, failure.message, field);
    return false;
  }
}
