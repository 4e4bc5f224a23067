// Helpers to build the page from DOM nodes. Prompts, filenames and error messages are untrusted:
// they become text nodes and are never parsed as markup.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** Create an element: `el("p", { class: "note", onclick: f }, "text", otherElement)`. */
export function el(tag, attributes = {}, ...children) {
  return populate(document.createElement(tag), attributes, children);
}

/** Create an SVG element, with the arguments of `el`. */
export function svg(tag, attributes = {}, ...children) {
  return populate(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

/** Return the element of the page with this ID. */
export function byId(id) {
  return document.getElementById(id);
}

/** Set a node's text unless it is unchanged. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show or hide a node. */
export function setVisible(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Format a count: "1 task", "2 tasks", "1,000 tasks". */
export function pluralize(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

const ICONS = {
  chevron: "M6 4l4 4-4 4",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  download: "M8 2v8m0 0l3-3m-3 3L5 7M2.5 13.5h11",
  check: "M3 8.5l3.5 3.5L13 4.5",
  expired: "M8 4.5V8l2.5 1.5M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z",
  again: "M13 3.5v3.2H9.8M3 12.5V9.3h3.2M12.7 6.5A5 5 0 0 0 4 5M3.3 9.5A5 5 0 0 0 12 11",
  file: "M4 1.5h5l3 3v10H4zM9 1.5v3h3",
};

/** Create a decorative icon; the caller supplies an accessible name beside it. */
export function icon(name) {
  const path = svg("path", { d: ICONS[name] });
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, path);
}

function populate(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}
