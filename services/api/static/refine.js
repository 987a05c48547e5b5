/** Narrowing a search: rows of conditions on items, how different the hits are to be, and whether to explain them. */

import { element, find, icon } from "./dom.js";
import { OPERATORS, needsValue } from "./query.js";

const rows = find("conditions");
const diversity = find("diversity");
const explain = find("explain");
const MEMBERS = ["item_id", "title"];
const MOST_VALUES = 30;

const seen = new Map(); // field → the values that hits had there
let changed = () => {};

/** `told` gets what the visitor changed: { where }, { diversity } or { explain }. */
export function onRefining(told) {
  changed = told;
}

/** Show what a query asks for. */
export function showRefinement(query) {
  const typing = rows.contains(document.activeElement);
  if (!typing) rows.replaceChildren(...query.where.map(row));
  diversity.value = query.diversity;
  find("diversity-value").textContent = Number(query.diversity).toFixed(1);
  explain.checked = query.explain;
  find("timings").hidden = !query.explain;
  find("legend").hidden = !query.explain;
  const active = query.where.length + (query.diversity > 0) + query.explain;
  find("refined").textContent = active ? String(active) : "";
  find("refined").hidden = !active;
}

/** Learn which attributes there are from the items of hits. */
export function learn(items) {
  for (const item of items) {
    for (const [field, value] of leaves(item.attributes)) {
      const values = seen.get(field) ?? new Set();
      if (values.size < MOST_VALUES) values.add(value);
      seen.set(field, values);
    }
  }
  find("fields").replaceChildren(...[...seen.keys(), ...MEMBERS].map((name) => element("option", { value: name })));
}

/** Attributes as fields of filters: names of nested ones with dots between them, arrays by their members. */
function leaves(attributes, before = "") {
  return Object.entries(attributes).flatMap(([name, value]) => {
    if (Array.isArray(value)) return value.filter((one) => typeof one !== "object").map((one) => [before + name, one]);
    if (typeof value === "object" && value !== null) return leaves(value, `${before}${name}.`);
    return value === null ? [] : [[before + name, value]];
  });
}

function row([field, operator, value]) {
  const name = element("input", { className: "field", value: field, placeholder: "Field", ariaLabel: "Field" });
  name.setAttribute("list", "fields");
  const compare = element("select", { className: "field", ariaLabel: "Comparison" });
  compare.append(...Object.entries(OPERATORS).map(([key, [label]]) => element("option", { value: key }, label)));
  compare.value = operator;
  const options = element("datalist", { id: `values-${crypto.getRandomValues(new Uint32Array(1))[0]}` });
  const wanted = element("input", { className: "field", value: value ?? "", placeholder: "Value", ariaLabel: "Value" });
  wanted.setAttribute("list", options.id);
  const remove = element("button", { type: "button", className: "button small quiet" });
  remove.ariaLabel = "Remove this condition";
  remove.append(icon("M5 5l10 10M15 5L5 15"));
  const made = element("li", { className: "condition" }, name, compare, wanted, remove, options);
  const suit = () => {
    wanted.hidden = !needsValue(compare.value);
    const known = [...(seen.get(name.value) ?? [])].sort();
    options.replaceChildren(...known.map((one) => element("option", { value: String(one) })));
  };
  made.addEventListener("input", suit);
  made.addEventListener("change", () => changed({ where: all() }));
  remove.addEventListener("click", () => {
    made.remove();
    find("add-condition").focus();
    changed({ where: all() });
  });
  suit();
  return made;
}

/** The rows that say something. */
function all() {
  return [...rows.children]
    .map((one) => {
      const [field, operator, value] = one.querySelectorAll(".field");
      return [field.value.trim(), operator.value, typed(field.value.trim(), value.value.trim())];
    })
    .filter(([field, operator, value]) => field && (!needsValue(operator) || value !== ""));
}

/** A typed value as the type that the field has where it was seen, else as what it looks like. */
function typed(field, text) {
  const types = new Set([...(seen.get(field) ?? [])].map((value) => typeof value));
  const may = (type) => types.size === 0 || types.has(type);
  if (MEMBERS.includes(field) || text === "") return text;
  if (may("boolean") && ["true", "false"].includes(text)) return text === "true";
  if (may("number") && Number.isFinite(Number(text))) return Number(text);
  return text;
}

find("add-condition").addEventListener("click", () => {
  rows.append(row(["", "eq", ""]));
  rows.lastElementChild.querySelector("input").focus();
});
diversity.addEventListener("input", () => {
  find("diversity-value").textContent = Number(diversity.value).toFixed(1);
  changed({ diversity: Number(diversity.value) });
});
explain.addEventListener("change", () => changed({ explain: explain.checked }));
