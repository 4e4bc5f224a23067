// Helpers to build the view from DOM nodes. Prompts, filenames and error messages are untrusted:
// they become text nodes and are never parsed as markup.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** Create an element: `el("p", { class: "note", onclick: f }, "text", otherElement)`. */
export function el(tag, attributes = {}, ...children) {
  return populate(document.createElement(tag), attributes, children);
}

/** Return the element of the view with this ID. */
export function byId(id) {
  return document.getElementById(id);
}

/** Set a node's text unless it is unchanged. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Format a count: "1 image", "2 images", "1,000 images". */
export function pluralize(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

const ICONS = {
  alert: "M8 5v3.8M8 11.2v.1M8 1.8 1.4 13.6h13.2z",
  check: "M3 8.5l3.5 3.5L13 4.5",
  clock: "M8 4.5V8l2.5 1.5M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  download: "M8 2v8m0 0l3-3m-3 3L5 7M2.5 13.5h11",
  expand: "M9.5 2.5h4v4M6.5 13.5h-4v-4M13.2 2.8 9.5 6.5M2.8 13.2l3.7-3.7",
  file: "M4 1.5h5l3 3v10H4zM9 1.5v3h3",
  open: "M9 2.5h4.5V7M13.2 2.8 7.5 8.5M11.5 9.5v4h-9v-9h4",
  stop: "M4 4h8v8H4z",
  regenerate: "M13 3.5v3.2H9.8M3 12.5V9.3h3.2M12.7 6.5A5 5 0 0 0 4 5M3.3 9.5A5 5 0 0 0 12 11",
};

/** Create a decorative icon; the caller supplies an accessible name beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG_NAMESPACE, "svg");
  const path = document.createElementNS(SVG_NAMESPACE, "path");
  svg.append(populate(path, { d: ICONS[name] }, []));
  return populate(svg, { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, []);
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
