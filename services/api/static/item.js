/** The page at /item?id=…: all that is known of one item, and what looks like it. */

import * as api from "./api.js";
import { itemLink, large, nameOf, pageOf, picture, searchLink, skeletons } from "./cards.js";
import { announce, element, find } from "./dom.js";
import { hit } from "./hits.js";
import { report } from "./shell.js";

const SIMILAR = 12;
const MOST_VIEWS = 24;
const STATES = { pending: "waiting for the encoder", indexed: "searchable", failed: "failed" };
const DATES = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

const parameters = new URLSearchParams(location.search);
const itemId = parameters.get("id") ?? "";

async function show() {
  try {
    const item = await api.item(itemId);
    describe(item);
    find("item").hidden = false;
    showSimilar();
    await Promise.all(item.images.slice(0, MOST_VIEWS).map(showState));
  } catch (problem) {
    report(problem, show);
  }
}

function describe(item) {
  const name = nameOf(item);
  document.title = `${name} · Akin`;
  find("item-title").textContent = name;
  find("item-id").textContent = item.item_id;
  find("item-facts").replaceChildren(...factsOf(item).map(row));
  find("item-demo").href = `/demo/product/${encodeURIComponent(item.item_id)}`;
  const page = pageOf(item);
  find("item-page").hidden = page === null;
  if (page !== null) find("item-page").href = page;
  const chosen = item.images.find((one) => one.id === Number(parameters.get("image"))) ?? item.images[0];
  find("item-views").replaceChildren(...item.images.slice(0, MOST_VIEWS).map((image) => view(item, image)));
  const left = item.images.length - MOST_VIEWS;
  find("item-more-pictures").hidden = left <= 0;
  find("item-more-pictures").textContent = `and ${left} more`;
  if (chosen) choose(item, chosen);
  else find("item-search").hidden = true;
  if (find("deletion-name")) find("deletion-name").textContent = name;
}

function choose(item, image) {
  find("item-picture").replaceChildren(large(image, nameOf(item)));
  find("item-search").href = searchLink(item.item_id, image.id);
  for (const button of find("item-views").querySelectorAll("button")) {
    button.ariaPressed = String(button.id === `view-${image.id}`);
  }
}

function view(item, image) {
  const alt = `Picture ${image.id}, ${image.width} × ${image.height}`;
  const button = element("button", { type: "button", id: `view-${image.id}` }, picture(image.id, 128, alt));
  button.addEventListener("click", () => choose(item, image));
  return element("li", {}, button, element("span", { className: "state", id: `state-${image.id}` }, "…"));
}

async function showState(image) {
  const { state, error } = await api.image(image.id);
  const shown = find(`state-${image.id}`);
  shown.textContent = STATES[state];
  shown.className = `state ${state}`;
  if (error) shown.append(element("span", { className: "reason" }, error.detail || error.code));
}

/** Members and attributes as pairs of a name and what is shown for it. */
function factsOf(item) {
  const page = pageOf(item);
  return [
    ["title", item.title],
    ["url", page === null ? item.url : element("a", { href: page, rel: "noreferrer noopener" }, page)],
    ...Object.entries(item.attributes),
    ["created", DATES.format(new Date(item.created_at))],
    ["updated", DATES.format(new Date(item.updated_at))],
  ].filter(([, value]) => value !== null && value !== undefined);
}

function row([name, value]) {
  const shown = typeof value === "string" || value instanceof Node ? value : JSON.stringify(value, null, 1);
  return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, shown));
}

async function showSimilar() {
  find("similar").hidden = false;
  find("similar-hits").replaceChildren(...skeletons(SIMILAR));
  try {
    const { hits } = await api.similar(itemId, SIMILAR);
    find("similar-hits").replaceChildren(...hits.map((one) => hit(one, itemLink(one.item.item_id, one.image.id))));
    find("similar-none").hidden = hits.length > 0;
  } catch (problem) {
    find("similar").hidden = true;
    report(problem, showSimilar);
  }
}

const dialog = find("deletion");
find("item-delete")?.addEventListener("click", () => {
  dialog.returnValue = "";
  dialog.showModal();
});
dialog?.addEventListener("close", async () => {
  if (dialog.returnValue !== "delete") return;
  try {
    await api.deleteItem(itemId);
    announce("Deleted");
    location.replace("/catalog");
  } catch (problem) {
    report(problem);
  }
});

show();
