/** What the page shows of a picture: tiles of the wall, hits, the picture asked for. */

import { thumbnail } from "./api.js";
import { element } from "./dom.js";

const TILE = 256;
const LARGE = 512;

export const itemLink = (itemId, imageId) => `/?${new URLSearchParams({ item: itemId, image: imageId })}`;
export const nameOf = (item) => item.title || item.item_id;

/** For example "€12.95"; empty where the item has no price. */
export function priceOf({ price, currency }) {
  if (typeof price === "string") return price;
  if (typeof price !== "number") return "";
  try {
    return new Intl.NumberFormat("en", { style: "currency", currency }).format(price);
  } catch {
    return price.toLocaleString("en"); // no currency, or not one that has a code
  }
}

/** The cosine as a percentage that says 100 for equal pictures only. */
export function percent(score) {
  return `${(Math.floor(Math.max(0, score) * 1000 + 0.05) / 10).toFixed(1)}%`;
}

function picture(imageId, size, alt) {
  return element("img", {
    src: thumbnail(imageId, size),
    alt,
    width: size,
    height: size,
    loading: "lazy",
    decoding: "async",
    draggable: false,
  });
}

/** A picture of the wall. */
export function tile(image) {
  const link = element(
    "a",
    { className: "tile", href: itemLink(image.item_id, image.id), draggable: false },
    picture(image.id, TILE, image.item_id),
  );
  return element("li", {}, link);
}

/** A look-alike with its score. */
export function hit({ score, image, item }) {
  const details = [item.attributes.brand, priceOf(item.attributes)].filter((text) => text && typeof text === "string");
  const bar = element("span", { className: "score-bar" });
  bar.style.setProperty("--score", Math.max(0, score));
  const link = element(
    "a",
    { className: "hit", href: itemLink(image.item_id, image.id), draggable: false },
    element("span", { className: "tile" }, picture(image.id, TILE, "")),
    element(
      "span",
      { className: "score", title: `cosine ${score.toFixed(4)}` },
      bar,
      element("data", { value: String(score) }, percent(score)),
    ),
    element("span", { className: "name" }, nameOf(item)),
    element("span", { className: "muted" }, details.join(" · ")),
  );
  link.querySelector("img").alt = `Picture of ${nameOf(item)}`;
  return element("li", {}, link);
}

/** Grey places that keep the page still while an answer is on its way. */
export function skeletons(number) {
  return Array.from({ length: number }, () =>
    element("li", { ariaHidden: "true" }, element("span", { className: "tile skeleton" })),
  );
}

/** The picture asked for, large and whole. */
export function large(image, name) {
  const shown = picture(image.id, LARGE, `Picture of ${name}`);
  const scale = Math.min(1, LARGE / Math.max(image.width, image.height));
  shown.width = Math.max(1, Math.round(image.width * scale));
  shown.height = Math.max(1, Math.round(image.height * scale));
  shown.loading = "eager";
  return shown;
}

/** A file of the visitor; in its place a word where the browser cannot show it. */
export function preview(url, name) {
  const shown = element("img", { src: url, alt: `Your picture ${name}`, draggable: false });
  shown.addEventListener("error", () => {
    shown.replaceWith(element("span", { className: "no-preview muted" }, "No preview"));
  });
  return shown;
}

/** The other views of an item that has several pictures. */
export function views(item, current) {
  return item.images.map((image) => {
    const link = element(
      "a",
      { className: "tile", href: itemLink(item.item_id, image.id) },
      picture(image.id, 128, `View ${image.id} of ${nameOf(item)}`),
    );
    if (image.id === current.id) link.ariaCurrent = "true";
    return element("li", {}, link);
  });
}
