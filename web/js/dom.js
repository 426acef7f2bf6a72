// DOM helpers. Strings always become text nodes, never HTML.

/**
 * Creates an element: `el("button.primary", { type: "button", onclick }, "Save")`. Names starting
 * with `on` add listeners, names of properties set them, all others become attributes unless their
 * value is `null`, `undefined` or `false`.
 *
 * @template {string} Selector
 * @param {Selector} selector a tag name and classes
 * @param {ElementProperties} [properties]
 * @param {...Child} children
 * @returns {ElementOf<Selector>}
 */
export function el(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  /** @type {any} */
  const element = document.createElement(tag);
  if (classes.length > 0) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  appendChildren(element, children);
  return element;
}

/**
 * @param {Element} element
 * @param {Child[]} children
 */
export function appendChildren(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) appendChildren(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
}

/**
 * @param {Element} element
 * @param {...Child} children
 */
export function setChildren(element, ...children) {
  element.replaceChildren();
  appendChildren(element, children);
}

/**
 * Sets the children and moves only those out of place: a moved element loses the focus.
 *
 * @param {Element} element
 * @param {Element[]} children
 */
export function syncChildren(element, children) {
  const wanted = new Set(children);
  for (const child of [...element.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    const current = element.children[index] ?? null;
    if (child !== current) element.insertBefore(child, current);
  });
}

/**
 * Drawn on a grid of 24 by 24.
 *
 * @type {Record<string, string>}
 */
const ICON_PATHS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14a7 7 0 0 0 0-14M16 16l4.5 4.5",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  menu: "M4 7h16M4 12h16M4 17h16",
  pin: "M9 4h6l-1 6 3 3v2H7v-2l3-3zM12 15v5",
  archive: "M4 5h16v4H4zM6 9v10h12V9M10 13h4",
  trash: "M5 7h14M10 4h4M7 7l1 13h8l1-13M10 11v5M14 11v5",
  pencil: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  redo: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  up: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  close: "M6 6l12 12M18 6L6 18",
  folder: "M3 6h6l2 2h10v11H3z",
  memory: "M4 7c0-4 16-4 16 0s-16 4-16 0M4 7v10c0 4 16 4 16 0V7M4 12c0 4 16 4 16 0",
  clip: "M19 11l-7.5 7.5a4.5 4.5 0 0 1-6.4-6.4L13 4.300a3 3 0 0 1 4.300 4.300L9.500 16.300a1.500 1.500 0 0 1-2.100-2.100L14.500 7",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  fork: "M7 9v6M7 9a2.500 2.500 0 1 0 0-5a2.500 2.500 0 0 0 0 5M7 20a2.500 2.500 0 1 0 0-5a2.500 2.500 0 0 0 0 5M17 9a2.500 2.500 0 1 0 0-5a2.500 2.500 0 0 0 0 5M17 9c0 6-10 2-10 6",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  key: "M8 11a4 4 0 1 0 0 8a4 4 0 0 0 0-8M11 12l8-8M16 7l3 3",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  tool: "M14.500 6.500a4 4 0 0 1 5-3.800l-2.700 2.700 1.800 1.800 2.700-2.700a4 4 0 0 1-5.300 4.800L8 17.300a2 2 0 1 1-2.800-2.800l8-8",
  people: "M9 5a3 3 0 1 0 0 6a3 3 0 0 0 0-6M3 20c0-8 12-8 12 0M16 6a3 3 0 0 1 0 5M18 14c2 1 3 3 3 6",
};

/** @param {string} name */
export function createIcon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICON_PATHS[name]);
  if (name === "more") path.setAttribute("stroke-width", "2.6");
  if (name === "stop") path.setAttribute("fill", "currentColor");
  svg.append(path);
  return svg;
}

/**
 * @param {string} name
 * @param {string} label the tooltip and the accessible name
 * @param {() => unknown} onclick
 * @param {ElementProperties & { small?: boolean }} [options]
 */
export function createIconButton(name, label, onclick, { small, ...properties } = {}) {
  const selector = small ? "button.icon-button.small" : "button.icon-button";
  return el(selector, { type: "button", title: label, "aria-label": label, onclick, ...properties }, createIcon(name));
}

/** @param {() => void} callback */
export function throttleToFrame(callback) {
  let isScheduled = false;
  return () => {
    if (isScheduled) return;
    isScheduled = true;
    const run = () => {
      isScheduled = false;
      callback();
    };
    // Hidden tabs draw no frames.
    if (document.hidden) setTimeout(run, 200);
    else requestAnimationFrame(run);
  };
}
