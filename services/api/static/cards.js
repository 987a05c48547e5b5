/** Pictures as the pages show them: tiles of a wall, large ones, the places kept for those to come. */

import { thumbnail } from "./api.js";
import { element } from "./dom.js";

export const TILE = 256;
const LARGE = 512;

export const searchLink = (itemId, imageId) => `/?${new URLSearchParams({ item: itemId, image: imageId })}`;
export const itemLink = (itemId, imageId = null) =>
  `/item?${new URLSearchParams({ id: itemId, ...(imageId === null ? {} : { image: imageId }) })}`;
export const nameOf = (item) => item.title || item.item_id;

/** For example "€12.95"; empty where the item has no price. */
export function priceOf({ price, currency }) {
  if (typeof price === "string") return price;
  if (!Number.isFinite(price)) return "";
  try {
    return new Intl.NumberFormat("en", { style: "currency", currency }).format(price);
  } catch {
    return price.toLocaleString("en"); // no currency, or not one that has a code
  }
}

/** The brand and the price, as far as there are any. */
export const detailsOf = ({ attributes }) =>
  [attributes.brand, priceOf(attributes)].filter((text) => text && typeof text === "string").join(" · ");

/** The cosine as a percentage that says 100 for equal pictures only. */
export function percent(score) {
  const rounded = Math.round(Math.max(0, score) * 1000) / 10;
  return `${(score < 0.99995 ? Math.min(99.9, rounded) : rounded).toFixed(1)}%`;
}

/** An item's address is data: only one that leads to a page becomes a link. */
export const pageOf = (item) => (/^https?:\/\//i.test(item.url ?? "") ? item.url : null);

export function picture(imageId, size, alt) {
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

/** A picture of a wall; `href` is where it leads. */
export function tile(image, href, alt = image.item_id) {
  return element("a", { className: "tile", href, draggable: false }, picture(image.id, TILE, alt));
}

/** A picture large and whole. */
export function large(image, name) {
  const shown = picture(image.id, LARGE, `Picture of ${name}`);
  const scale = Math.min(1, LARGE / Math.max(image.width, image.height));
  shown.width = Math.max(1, Math.round(image.width * scale));
  shown.height = Math.max(1, Math.round(image.height * scale));
  shown.loading = "eager";
  return shown;
}

/** A picture of the visitor's; in its place a word where the browser cannot show it. */
export function preview(url, name) {
  const shown = element("img", { src: url, alt: `Your picture ${name}`, draggable: false });
  shown.addEventListener("error", () => {
    shown.replaceWith(element("span", { className: "no-preview muted" }, "No preview"));
  });
  return shown;
}

/** Grey places that keep the page still while an answer is on its way. */
export function skeletons(number) {
  return Array.from({ length: number }, () =>
    element("li", { ariaHidden: "true" }, element("span", { className: "tile skeleton" })),
  );
}
