/** Small helpers over the DOM. Data reaches the page as text nodes and attributes only. */

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

/** A new element; strings among the children become text. */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in created) created[name] = value;
    else created.setAttribute(name, value);
  }
  created.append(...children);
  return created;
}

/** Text without its %-escapes; what is none stays as it is. */
export function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** An address; null where the text is none. (URL.canParse came to browsers at the end of 2023 only.) */
export function urlOf(text, base) {
  try {
    return new URL(text, base);
  } catch {
    return null;
  }
}

/** A line drawing of 20 × 20 units, for beside words. */
export function icon(lines) {
  const drawn = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", lines);
  drawn.setAttribute("viewBox", "0 0 20 20");
  drawn.setAttribute("class", "icon");
  drawn.setAttribute("aria-hidden", "true");
  drawn.append(path);
  return drawn;
}

/** Say something to screen readers. */
export function announce(text) {
  find("status").textContent = text;
}

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** For example "3.4 MB". */
export function bytes(number) {
  const unit = number < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(number) / 3));
  return `${(number / 1000 ** unit).toFixed(unit && number / 1000 ** unit < 10 ? 1 : 0)} ${UNITS[unit]}`;
}
