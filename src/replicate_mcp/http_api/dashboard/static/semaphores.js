// The semaphores: one card each, with its usage.

import { getCredentials } from "./api.js";
import { byId, el, pluralize, setText, setVisible } from "./dom.js";
import { RegisterForm, ResizeForm } from "./semaphore-forms.js";
import { Sparkline } from "./sparkline.js";
import { everySecond, formatDuration, secondsUntil } from "./time.js";

const MAX_CELLS = 30; // More cells than these are indistinguishable at the width of a card.

const SCOPE_LABELS = {
  process: "this process only",
  machine: "shared on this machine",
  fleet: "shared across machines",
};

/** All cards, by name; an update moves existing cards instead of creating them again. */
export class Semaphores {
  #cards = new Map();
  #container = byId("semaphores");
  #form;

  /** Call `onChange()` after an admin has registered or resized a semaphore. */
  constructor(onChange) {
    this.onChange = onChange;
    this.#form = new RegisterForm(onChange);
    byId("register-semaphore").append(this.#form.element);
    everySecond(() => this.#cards.forEach((card) => card.tick()));
  }

  update(semaphores, adminConfigured) {
    const names = new Set(semaphores.map((each) => each.name));
    for (const [name, card] of this.#cards) {
      if (!names.has(name)) {
        card.element.remove();
        this.#cards.delete(name);
      }
    }
    semaphores.forEach((each, position) => {
      if (!this.#cards.has(each.name)) {
        this.#cards.set(each.name, new SemaphoreCard(each.name, this.onChange));
      }
      const card = this.#cards.get(each.name);
      card.update(each);
      const current = this.#container.children[position];
      if (current !== card.element) this.#container.insertBefore(card.element, current ?? null);
    });
    this.#form.update(adminConfigured);
    setText(byId("semaphores-summary"), semaphores.length > 1 ? String(semaphores.length) : "");
  }

  clear() {
    this.#cards.clear();
    this.#container.replaceChildren();
    this.#form.close();
  }
}

class SemaphoreCard {
  #sparkline = new Sparkline();
  #used = el("span", { class: "used" });
  #ofLimit = el("span", { class: "of-limit" });
  #fill = el("i");
  #bar;
  #facts = el("p", { class: "facts" });
  #owner = el("span", { class: "chip", hidden: true });
  #throttled = el("p", { class: "throttled", hidden: true });
  #throttledUntil;
  #resize;

  constructor(name, onChange) {
    this.#bar = el(
      "div",
      { class: "bar", role: "meter", "aria-label": `${name}: units in use`, "aria-valuemin": 0 },
      this.#fill,
    );
    this.#resize = new ResizeForm(name, onChange);
    this.element = el(
      "article",
      { class: "card semaphore", "data-semaphore": name },
      el("div", { class: "card-head" }, el("h3", {}, name), this.#owner),
      el(
        "div",
        { class: "usage" },
        el("p", { class: "usage-count" }, this.#used, this.#ofLimit),
        this.#sparkline.element,
      ),
      this.#bar,
      el("div", { class: "card-foot" }, this.#facts, this.#resize.opener),
      this.#throttled,
      this.#resize.form,
    );
  }

  update(semaphore) {
    const { in_use: used, limit, waiting, requests_per_minute: rate } = semaphore;
    setText(this.#used, used.toLocaleString("en"));
    setText(this.#ofLimit, ` of ${limit.toLocaleString("en")} in use`);
    this.#bar.setAttribute("aria-valuemax", limit);
    this.#bar.setAttribute("aria-valuenow", Math.min(used, limit));
    this.#bar.setAttribute("aria-valuetext", `${used} of ${limit}`);
    const cells = [limit, limit / 10].find((number) => number <= MAX_CELLS); // Units, or tens.
    this.#bar.toggleAttribute("data-cells", cells !== undefined);
    this.#bar.style.setProperty("--cells", cells ?? 1);
    this.#fill.style.setProperty("inline-size", `${Math.min(100, (used / limit) * 100)}%`);
    this.element.dataset.state = used > limit ? "over" : used === limit ? "full" : "free";

    const facts = [`${waiting.toLocaleString("en")} waiting`];
    if (used > limit) facts.push(`${used - limit} over the new limit, draining`);
    if (rate !== undefined) facts.push(`${pluralize(Math.round(rate), "prediction")} per minute`);
    if (used <= limit) facts.push(SCOPE_LABELS[semaphore.scope]);
    setText(this.#facts, facts.join(" · "));
    setVisible(this.#owner, rate !== undefined);
    const isOwn = getCredentials()?.kind === "token";
    setText(this.#owner, isOwn ? "your account" : "Replicate account");
    this.#owner.title = isOwn ? "" : "The account of the server’s own Replicate token";
    this.#throttledUntil = semaphore.throttled_until;
    this.#sparkline.add(used);
    this.#resize.update(limit);
    this.tick();
  }

  tick() {
    const seconds = this.#throttledUntil ? secondsUntil(this.#throttledUntil) : 0;
    setVisible(this.#throttled, seconds > 0);
    if (seconds > 0) {
      const wait = formatDuration(seconds);
      setText(this.#throttled, `Throttled by Replicate: new predictions resume in ${wait}.`);
    }
  }
}
