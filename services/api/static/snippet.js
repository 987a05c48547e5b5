/** The page at /widget: what the form says becomes the preview and the lines for a shop's pages. */

import { element, find } from "./dom.js";

const form = find("builder");
const preview = find("preview");
const script = new URL("/widget.js", location.origin).href;
// What the widget does without being told stays out of the lines.
const DEFAULTS = { limit: "8", diversity: "0", "--akin-tile": "170px", "--akin-gap": "16px", "--akin-radius": "10px" };
const TYPED = ["heading", "limit", "fill-by", "min-score", "diversity"];
const SHOWN = ["price", "currency", "in_stock"]; // by a key that is not told what to show
const known = new Map(); // key → its origins and the attributes that it shows
let height = 0; // of the row, in pixels: the place is kept until the script has come

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");

/** Attributes of the element by name; true for those without a value. */
function attributes() {
  const { elements } = form;
  // By its id: a form's elements have a method `item`.
  const item = find("item").value.trim();
  const text = Object.fromEntries(TYPED.map((name) => [name, elements[name].value.trim()]));
  const [collapse, target] = [elements.near.checked ? "near" : "", elements.blank.checked ? "_blank" : ""];
  const chosen = { item, ...text, collapse, "in-stock": elements["in-stock"].checked, target };
  return Object.entries(chosen).filter(([name, value]) => value && DEFAULTS[name] !== value);
}

/** Custom properties by name. */
function properties() {
  const inputs = [...form.elements].filter((input) => input.name.startsWith("--"));
  const used = inputs.filter((input) => input.type !== "color" || form.elements.coloured.checked);
  return used.map((input) => [input.name, input.value + (input.dataset.unit ?? "")]);
}

/** The attribute to fill up by, without what is nested in it; "" for none. */
const filledBy = () => form.elements["fill-by"].value.trim().replace(/^attributes\./, "").split(".")[0];

function show() {
  find("colours").hidden = !form.elements.coloured.checked;
  for (const input of form.querySelectorAll("input[type=range]")) {
    input.closest("label").querySelector(".value").textContent = input.value + input.dataset.unit;
  }
  showPreview();
  measure();
  showSnippet();
}

/** How much place the row takes, rounded up: a shop's fonts are a little larger or smaller. */
function measure() {
  if (preview?.offsetHeight) height = Math.ceil(preview.offsetHeight / 10 + 1) * 10;
}

function showPreview() {
  if (!preview) return;
  const wanted = new Map(attributes());
  // The preview's own key shows no attribute to fill up by.
  for (const name of ["item", "heading", "limit", "min-score", "diversity", "collapse", "in-stock", "target"]) {
    const value = wanted.get(name);
    if (value === undefined) preview.removeAttribute(name);
    else if (preview.getAttribute(name) !== String(value)) preview.setAttribute(name, value);
  }
  const styles = new Map(properties());
  for (const input of form.elements) {
    if (!input.name.startsWith("--")) continue;
    if (styles.has(input.name)) preview.style.setProperty(input.name, styles.get(input.name));
    else preview.style.removeProperty(input.name);
  }
}

function showSnippet() {
  const key = form.elements.key.value || "pk_…";
  const kept = height ? [["display", "block"], ["min-height", `${height}px`]] : [];
  const styles = [...kept, ...properties().filter(([name, value]) => DEFAULTS[name] !== value)];
  const style = styles.map((pair) => pair.join(": ")).join("; ");
  const all = [...attributes(), ["key", key], ...(style ? [["style", style]] : [])];
  const written = all.map(([name, value]) => (value === true ? ` ${name}` : ` ${name}="${escaped(value)}"`)).join("");
  find("snippet").textContent = `<script async src="${script}"></` + `script>\n<akin-similar${written}></akin-similar>`;
  find("snippet-item").textContent = find("item").value || "item";
  find("key-origins").textContent = known.has(key) ? about(known.get(key)) : "";
}

/** What a key is for, and what it is not enough for. */
function about({ origins, attributes }) {
  const missing = [filledBy(), form.elements["in-stock"].checked ? "in_stock" : ""].filter(
    (name) => name && !attributes.includes(name),
  );
  const lacking = missing.length ? ` It does not show ${missing.join(" and ")}: make one that does.` : "";
  return `For pages of ${origins.join(", ")}.${lacking}`;
}

async function call(method, body) {
  const response = await fetch("/v1/admin/keys", {
    method,
    body: body && JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

/** Offer the publishable keys that there are; Akin's own pages have theirs, which is none for a shop. */
async function listKeys(chosen) {
  const { data } = await call("GET");
  const usable = data.filter((key) => key.public && !key.origins.includes(location.origin));
  find("keys").replaceChildren(
    ...usable.map((key) => element("option", { value: key.public }, `${key.name} (${key.public.slice(0, 11)}…)`)),
  );
  if (usable.length === 0) find("keys").append(element("option", { value: "" }, "None yet: make one below"));
  for (const { public: key, origins, attributes } of usable) known.set(key, { origins, attributes: attributes ?? [] });
  if (chosen) find("keys").value = chosen;
  showSnippet();
}

async function makeKey() {
  const origins = find("origins").value.split(/[\s,]+/).filter(Boolean);
  const name = (origins[0] ?? "shop").slice(0, 100);
  const attributes = [...new Set([...SHOWN, filledBy()])].filter(Boolean);
  const { key } = await call("POST", { name, scopes: ["widget"], origins, attributes });
  find("origins").value = "";
  await listKeys(key);
}

/** Do something with keys, and say why it was refused if it was. */
async function trying(step) {
  find("key-error").textContent = "";
  try {
    await step();
  } catch (problem) {
    find("key-error").textContent = problem.message;
  }
}

async function copy() {
  const button = find("copy");
  try {
    await navigator.clipboard.writeText(find("snippet").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(find("snippet")); // where the browser keeps the clipboard from pages
    button.textContent = "Selected";
  }
  setTimeout(() => {
    button.textContent = "Copy";
  }, 2000);
}

form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
find("make-key")?.addEventListener("click", () => trying(makeKey));
find("copy").addEventListener("click", copy);
preview?.addEventListener("akin-load", (event) => {
  const empty = event.detail.hits.length + event.detail.others.length === 0;
  find("preview-none").hidden = !empty;
  if (empty) return;
  measure();
  showSnippet();
});
show();
if (find("make-key")) trying(listKeys);
