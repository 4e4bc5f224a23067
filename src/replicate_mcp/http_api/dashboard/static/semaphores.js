// The limits: one card a semaphore, filling and draining; an admin changes them here.

import { call, isAdmin, signedInWith } from "./api.js";
import { byId, counted, el, show, write } from "./dom.js";
import { Sparkline } from "./sparkline.js";
import { everySecond, inWords, secondsUntil } from "./time.js";
import { say } from "./toast.js";

const MOST_CELLS = 30; // More than these cannot be told apart at a card's width.
const MOST = 10_000;

const SHARED_BY = {
  process: "this process only",
  machine: "shared on this machine",
  fleet: "shared across machines",
};

/** All cards, kept by name so that what is on the page stays where it is. */
export class Semaphores {
  #cards = new Map();
  #place = byId("semaphores");
  #form;

  /** `changed()` is called when an admin has changed something. */
  constructor(changed) {
    this.changed = changed;
    this.#form = new RegisterForm(changed);
    byId("registering").append(this.#form.element);
    everySecond(() => this.#cards.forEach((card) => card.tick()));
  }

  update(semaphores, adminIsPossible) {
    const names = new Set(semaphores.map((each) => each.name));
    for (const [name, card] of this.#cards) {
      if (!names.has(name)) {
        card.element.remove();
        this.#cards.delete(name);
      }
    }
    semaphores.forEach((each, position) => {
      if (!this.#cards.has(each.name)) {
        this.#cards.set(each.name, new SemaphoreCard(each.name, this.changed));
      }
      const card = this.#cards.get(each.name);
      card.update(each);
      const there = this.#place.children[position];
      if (there !== card.element) this.#place.insertBefore(card.element, there ?? null);
    });
    this.#form.update(adminIsPossible);
    write(byId("semaphores-summary"), semaphores.length > 1 ? String(semaphores.length) : "");
  }

  clear() {
    this.#cards.clear();
    this.#place.replaceChildren();
    this.#form.close();
  }
}

class SemaphoreCard {
  #spark = new Sparkline();
  #used = el("span", { class: "used" });
  #ofLimit = el("span", { class: "of-limit" });
  #fill = el("i");
  #bar;
  #facts = el("p", { class: "facts" });
  #owner = el("span", { class: "chip", hidden: true });
  #paused = el("p", { class: "paused", hidden: true });
  #pausedUntil;
  #resize;

  constructor(name, changed) {
    this.#bar = el(
      "div",
      { class: "bar", role: "meter", "aria-label": `${name}: units in use`, "aria-valuemin": 0 },
      this.#fill,
    );
    this.#resize = new ResizeForm(name, changed);
    this.element = el(
      "article",
      { class: "card semaphore", "data-semaphore": name },
      el("div", { class: "card-head" }, el("h3", {}, name), this.#owner),
      el(
        "div",
        { class: "fullness" },
        el("p", { class: "figure" }, this.#used, this.#ofLimit),
        this.#spark.element,
      ),
      this.#bar,
      el("div", { class: "card-foot" }, this.#facts, this.#resize.opener),
      this.#paused,
      this.#resize.form,
    );
  }

  update(semaphore) {
    const { in_use: used, limit, waiting, requests_per_minute: rate } = semaphore;
    write(this.#used, used.toLocaleString("en"));
    write(this.#ofLimit, ` of ${limit.toLocaleString("en")} in use`);
    this.#bar.setAttribute("aria-valuemax", limit);
    this.#bar.setAttribute("aria-valuenow", Math.min(used, limit));
    this.#bar.setAttribute("aria-valuetext", `${used} of ${limit}`);
    const cells = [limit, limit / 10].find((number) => number <= MOST_CELLS); // Units, or tens.
    this.#bar.toggleAttribute("data-cells", cells !== undefined);
    this.#bar.style.setProperty("--cells", cells ?? 1);
    this.#fill.style.setProperty("inline-size", `${Math.min(100, (used / limit) * 100)}%`);
    this.element.dataset.state = used > limit ? "over" : used === limit ? "full" : "free";

    const facts = [`${waiting.toLocaleString("en")} waiting`];
    if (used > limit) facts.push(`${used - limit} over the new limit, draining`);
    if (rate !== undefined) facts.push(`${counted(Math.round(rate), "new image")} a minute`);
    if (used <= limit) facts.push(SHARED_BY[semaphore.scope]);
    write(this.#facts, facts.join(" · "));
    show(this.#owner, rate !== undefined);
    const isOwn = signedInWith()?.kind === "token";
    write(this.#owner, isOwn ? "your account" : "Replicate account");
    this.#owner.title = isOwn ? "" : "The account of the token that this server was given";
    this.#pausedUntil = semaphore.throttled_until;
    this.#spark.add(used);
    this.#resize.update(limit);
    this.tick();
  }

  tick() {
    const left = this.#pausedUntil ? secondsUntil(this.#pausedUntil) : 0;
    show(this.#paused, left > 0);
    if (left > 0) {
      write(this.#paused, `Replicate asked for a pause: new images go on in ${inWords(left)}.`);
    }
  }
}

/** Changing one limit, in its card. */
class ResizeForm {
  #limit;
  #input;
  #reason = el("p", { class: "reason", role: "alert", hidden: true });

  constructor(name, changed) {
    this.name = name;
    this.changed = changed;
    this.opener = el(
      "button",
      { type: "button", class: "link", hidden: true, "aria-expanded": "false" },
      "Resize",
      el("span", { class: "unseen" }, ` ${name}`),
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
      el("p", { class: "hint" }, "Nothing that runs is stopped: a lower limit is reached as it ends."),
      this.#reason,
    );
    this.form.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
  }

  update(limit) {
    this.#limit = limit;
    show(this.opener, isAdmin());
    if (!isAdmin()) show(this.form, false);
  }

  open() {
    this.#input.value = this.#limit;
    show(this.#reason, false);
    show(this.form, true);
    this.opener.setAttribute("aria-expanded", "true");
    this.#input.select();
  }

  close() {
    show(this.form, false);
    this.opener.setAttribute("aria-expanded", "false");
    this.opener.focus();
  }

  async #send() {
    if (await setLimit(this.name, this.#input, this.#reason)) {
      this.close();
      this.changed();
    }
  }
}

/** A new name with its limit, or a word on who may make one. */
class RegisterForm {
  #opener = el("button", { type: "button", class: "wide" }, "Register a semaphore");
  #form;
  #name = el("input", {
    name: "semaphore",
    required: true,
    maxlength: 100,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    placeholder: "team-a",
  });
  #limit = limitInput("Limit");
  #reason = el("p", { class: "reason", role: "alert", hidden: true });
  #word = el("p", { class: "hint", hidden: true }, "With the admin key, limits are changed here.");

  constructor(changed) {
    this.changed = changed;
    this.#limit.removeAttribute("aria-label");
    this.#limit.value = "10";
    this.#form = el(
      "form",
      { class: "card register", hidden: true, novalidate: true, "aria-label": "Register a semaphore" },
      el("h3", {}, "A new semaphore"),
      el(
        "p",
        { class: "hint" },
        "A named limit. Batches that name it hold a unit of it for each running prediction, besides one of their account’s.",
      ),
      el("label", {}, "Name", this.#name),
      el("label", {}, "Limit: predictions at once", this.#limit),
      this.#reason,
      el(
        "div",
        { class: "row" },
        el("button", { class: "primary", type: "submit" }, "Register"),
        el("button", { type: "button", onclick: () => this.close() }, "Close"),
      ),
    );
    this.#opener.addEventListener("click", () => {
      show(this.#form, true);
      show(this.#opener, false);
      this.#name.focus();
    });
    this.#form.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
    this.element = el("div", {}, this.#opener, this.#form, this.#word);
  }

  update(adminIsPossible) {
    show(this.#opener, isAdmin() && this.#form.hidden);
    if (!isAdmin()) show(this.#form, false);
    show(this.#word, adminIsPossible && !isAdmin());
  }

  close() {
    show(this.#reason, false);
    this.#name.value = "";
    const wasOpen = !this.#form.hidden;
    show(this.#form, false);
    show(this.#opener, isAdmin());
    if (wasOpen) this.#opener.focus();
  }

  async #send() {
    const name = this.#name.value.trim();
    if (!name) {
      write(this.#reason, "Give it a name.");
      show(this.#reason, true);
      this.#name.focus();
      return;
    }
    if (await setLimit(name, this.#limit, this.#reason, this.#name)) {
      this.close();
      this.changed();
    }
  }
}

function limitInput(label) {
  return el("input", {
    type: "number",
    name: "limit",
    min: 1,
    max: MOST,
    step: 1,
    required: true,
    inputmode: "numeric",
    "aria-label": label,
  });
}

/** Register or resize; on a "no", the reason is shown and the field keeps the focus. */
async function setLimit(name, input, reason, toMend = input) {
  show(reason, false);
  const limit = Number(input.value);
  try {
    if (!Number.isInteger(limit) || limit < 1 || limit > MOST) {
      toMend = input;
      throw new Error(`The limit is a whole number from 1 to ${MOST.toLocaleString("en")}.`);
    }
    const told = await call("POST", "global-semaphores", { body: { semaphore_id: name, limit } });
    say(told.message);
    return true;
  } catch (error) {
    write(reason, error.message);
    show(reason, true);
    toMend.focus();
    return false;
  }
}
