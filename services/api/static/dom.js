/** Small helpers over the DOM. Data reaches the page as text nodes and attributes only. */

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

/** Say something to screen readers. */
export function announce(text) {
  find("status").textContent = text;
}

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
