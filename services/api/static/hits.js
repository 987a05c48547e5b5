/** Look-alikes: a picture, how alike it is, and what that means. */

import { TILE, detailsOf, nameOf, percent, picture } from "./cards.js";
import { element } from "./dom.js";

const KINDS = { duplicate: "Duplicate", same_item: "Same item", similar: "Similar" };

/** What the score means, where the encoder was calibrated; nothing for pictures that are unrelated. */
function badge(likeness) {
  if (!(likeness?.kind in KINDS)) return "";
  const sure = `${Math.round(likeness.probability * 100)}% certain`;
  return element(
    "span",
    { className: `badge ${likeness.kind}`, title: sure },
    KINDS[likeness.kind],
    element("span", { className: "unseen" }, `, ${sure}`),
  );
}

/** A look-alike that leads to `href`; `actions` are controls below it. */
export function hit({ score, image, item, likeness }, href, ...actions) {
  const bar = element("span", { className: "score-bar" });
  bar.style.setProperty("--score", Math.max(0, score));
  const link = element(
    "a",
    { className: "hit", href, draggable: false },
    element("span", { className: "tile" }, picture(image.id, TILE, `Picture of ${nameOf(item)}`), badge(likeness)),
    element(
      "span",
      { className: "score", title: `cosine ${score.toFixed(4)}` },
      bar,
      element("data", { value: String(score) }, percent(score)),
    ),
    element("span", { className: "name" }, nameOf(item)),
    element("span", { className: "muted" }, detailsOf(item)),
  );
  return element("li", {}, link, ...actions);
}
