/** What is searched with: a picture or words, or several with weights; pictures can be cropped, and each taken away. */

import * as api from "./api.js";
import { itemLink, large, nameOf, picture, preview } from "./cards.js";
import { element, find, icon, unescaped } from "./dom.js";
import { overlay, paint } from "./overlay.js";
import { addressOf, recall } from "./uploads.js";
import { chooseCrop } from "./crop.js";

const LARGE = 512;
const GONE = "This browser no longer has the picture that was searched with.";

const list = find("parts");
const items = new Map();
const owners = new Map();

let current = [];
let tell = () => {};
let drawn = { key: null, found: [] }; // what the cards show, but for the weights

/** What can be said of a part: its name, an <img>, where the picture is, and the item where it is one's. */
async function lookUp(part, signal) {
  if (part.upload !== undefined) {
    const file = await recall(part.upload);
    if (!file) throw new Error(GONE);
    const address = addressOf(part.upload, file);
    const name = file.name || "Pasted picture";
    return { name, note: "Your picture; it is not kept.", address, image: preview(address, name), file };
  }
  if (part.url !== undefined) {
    const name = unescaped(new URL(part.url).pathname.split("/").pop()) || new URL(part.url).host;
    return { name, note: new URL(part.url).host, address: part.url, image: preview(part.url, name) };
  }
  if (part.text !== undefined) {
    return { name: part.text, note: "", image: element("span", { className: "quote", ariaHidden: "true" }, "“") };
  }
  const itemId = part.item ?? (await ownerOf(part.image, signal));
  if (!items.has(itemId)) items.set(itemId, await api.item(itemId, signal));
  const item = items.get(itemId);
  const shown = item.images.find((one) => one.id === part.image) ?? item.images[0];
  const none = element("span", { className: "no-preview muted" }, "No picture yet");
  const image = shown ? large(shown, nameOf(item)) : none;
  return { name: nameOf(item), note: "", address: shown && api.thumbnail(shown.id, LARGE), image, item, shown };
}

async function ownerOf(imageId, signal) {
  if (!owners.has(imageId)) owners.set(imageId, (await api.image(imageId, signal)).item_id);
  return owners.get(imageId);
}

/** Show the parts of a query; answers what was found out about each. `changed` gets the parts anew. */
export async function showParts(parts, changed, signal) {
  [current, tell] = [parts, changed];
  const key = JSON.stringify(parts.map(({ weight, ...subject }) => subject));
  if (key === drawn.key) {
    // A slider that is being dragged must stay the one it is.
    const sliders = list.querySelectorAll("input[type=range]");
    for (const [number, input] of sliders.entries()) setWeight(input, parts[number].weight);
    return drawn.found;
  }
  drawn = { key: null, found: [] };
  list.classList.toggle("single", parts.length === 1);
  list.replaceChildren(...parts.map(placeholder));
  const found = await Promise.all(parts.map((part) => lookUp(part, signal)));
  signal.throwIfAborted();
  drawn = { key, found };
  list.replaceChildren(...found.map(card));
  return found;
}

const placeholder = () =>
  element("li", { className: "part", ariaHidden: "true" }, element("div", { className: "part-picture skeleton" }));

/** Lay what a hit's regions say of the picture that was searched with over it; without any it is taken away. */
export function showRegions(regions) {
  const [{ canvas, image } = {}] = drawn.found;
  if (!canvas || current.length > 1) return;
  paint(canvas, image, { crop: current[0].crop, grid: regions?.query, box: regions?.query_box });
}

const replace = (number, change) => tell(current.map((one, at) => (at === number ? { ...one, ...change } : one)));

function card(known, number) {
  const { crop, weight } = current[number];
  const frame = element("div", { className: "part-picture" }, known.image);
  if (known.image instanceof HTMLImageElement) {
    known.canvas = overlay(known.image);
    paint(known.canvas, known.image, { crop });
  }
  const { item, shown } = known;
  const name = item ? element("a", { href: itemLink(item.item_id, shown?.id) }, known.name) : known.name;
  const text = element("div", { className: "part-text" }, element("p", { className: "part-name" }, name));
  if (current.length > 1) text.append(slider(known.name, weight, number));
  text.append(element("p", { className: "part-actions" }, ...actions(known, crop, number)));
  return element("li", { className: "part" }, frame, text);
}

function actions(known, crop, number) {
  const made = [];
  if (known.address) {
    const words = crop ? "Change the crop" : "Crop";
    made.push(
      button(words, `${words} of ${known.name}`, "M6 2v12h12M2 6h12v12", async () => {
        const chosen = await chooseCrop(known.address, crop);
        const picked = known.shown ? { image: known.shown.id } : {};
        if (chosen !== undefined) replace(number, { crop: chosen, ...picked });
      }),
    );
  }
  if (current.length > 1) {
    const without = () => tell(current.filter((_, at) => at !== number));
    made.push(button("Remove", `Remove ${known.name}`, "M5 5l10 10M15 5L5 15", without));
  }
  return made;
}

function button(words, label, lines, act) {
  const made = element("button", { type: "button", className: "button small", ariaLabel: label }, icon(lines), words);
  made.addEventListener("click", act);
  return made;
}

/** How much a part counts: below 0 hits are to be unlike it. */
function slider(name, weight, number) {
  const input = element("input", { type: "range", min: -1, max: 1, step: 0.1, ariaLabel: `Weight of ${name}` });
  const made = element("span", { className: "weight" }, input, element("output"));
  setWeight(input, weight);
  input.addEventListener("input", () => {
    setWeight(input, Number(input.value));
    replace(number, { weight: Number(input.value) });
  });
  return made;
}

function setWeight(input, weight) {
  if (Number(input.value) !== weight) input.value = weight;
  input.setAttribute("aria-valuetext", meaning(weight));
  input.nextElementSibling.textContent = meaning(weight);
}

function meaning(weight) {
  if (weight === 0) return "ignored";
  return `${weight > 0 ? "more" : "less"} like this, ${Math.abs(weight).toFixed(1)}`;
}

/** The other pictures of an item, each leading to itself. */
export function views(item, shown, hrefOf) {
  return item.images.slice(0, 12).map((image) => {
    const alt = `View ${image.id} of ${nameOf(item)}`;
    const link = element("a", { className: "tile", href: hrefOf(image) }, picture(image.id, 128, alt));
    if (image.id === shown?.id) link.ariaCurrent = "true";
    return element("li", {}, link);
  });
}
