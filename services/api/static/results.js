/** The answer of a search: hits with their actions, more of them, and what explains them. */

import { itemLink, percent, skeletons } from "./cards.js";
import { announce, count, element, find, icon } from "./dom.js";
import { hit } from "./hits.js";
import { overlay, paint } from "./overlay.js";
import { showRegions } from "./parts.js";
import { learn } from "./refine.js";

const list = find("hits");
const INFO = "M10 9v5M10 6v.01M10 18a8 8 0 100-16 8 8 0 000 16z";
const COMMON =
  "The brighter, the more both pictures have in common there. Point at a hit for its part of your picture.";
const UNCOMMON = "Nothing to draw: that takes a search with one picture, and an encoder that sees regions.";
const NONE = "No look-alikes: the catalog has no searchable pictures like this.";
const NONE_MEETS = "Nothing meets these conditions. Check their fields and values, or remove some.";

/** Keep the page still while an answer is on its way; the hits before stay where they are, paler. */
export function wait(fresh, places) {
  find("results").ariaBusy = "true";
  find("more").hidden = true;
  if (!fresh) return;
  find("facts").textContent = "Looking…";
  list.replaceChildren(...skeletons(places));
}

/** Nothing to show. */
export function clear() {
  find("results").ariaBusy = "false";
  find("more").hidden = true;
  find("facts").textContent = "";
  list.replaceChildren();
}

/**
 * Show an answer. `hrefOf` says where a hit leads, `steered` gets a hit and 1 or -1: more or less like this;
 * `narrowed`: there are conditions.
 */
export function showAnswer(answer, { hrefOf, steered, narrowed }) {
  const { hits, encoder, took_ms: took, next_cursor: cursor, explain } = answer;
  find("results").ariaBusy = "false";
  list.replaceChildren(...hits.map((one) => card(one, hrefOf, steered)));
  find("more").hidden = !cursor;
  find("facts").textContent = hits.length
    ? `${count(hits.length, "look-alike")} · ${Math.max(1, Math.round(took))} ms · ${encoder}`
    : narrowed ? NONE_MEETS : NONE;
  const explained = hits.find((one) => one.regions);
  find("legend-text").textContent = explained ? COMMON : UNCOMMON;
  showRegions(explained?.regions);
  showTimings(explain);
  learn(hits.map((one) => one.item));
  const best = hits.length ? `, the best ${percent(hits[0].score)} alike` : "";
  announce(`${count(hits.length, "look-alike")}${best}`);
}

/** Add the hits of a further page, and go on with the keyboard there. */
export function showMore(hits, answer, { hrefOf, steered }) {
  const cards = hits.map((one) => card(one, hrefOf, steered));
  list.append(...cards);
  cards[0]?.querySelector("a").focus({ preventScroll: true });
  find("more").hidden = !answer.next_cursor;
  find("facts").textContent = find("facts").textContent.replace(/^\S+/, answer.hits.length.toLocaleString("en"));
  learn(hits.map((one) => one.item));
  announce(`${count(hits.length, "more look-alike")}`);
}

function card(one, hrefOf, steered) {
  const name = one.item.title || one.item.item_id;
  const steer = (direction, words, lines) => {
    const button = element("button", { type: "button", className: "round", title: words });
    button.ariaLabel = `${words}: ${name}`;
    button.append(icon(lines));
    button.addEventListener("click", () => steered(one, direction));
    return button;
  };
  const details = element("a", { className: "round", title: "Details", ariaLabel: `Details of ${name}` }, icon(INFO));
  details.href = itemLink(one.item.item_id, one.image.id);
  const actions = element(
    "span",
    { className: "hit-actions" },
    steer(1, "More like this", "M10 4v12M4 10h12"),
    steer(-1, "Less like this", "M4 10h12"),
    details,
  );
  const made = hit(one, hrefOf(one), actions);
  if (one.regions) explain(made, one.regions);
  return made;
}

function explain(made, regions) {
  const image = made.querySelector("img");
  paint(overlay(image), image, { grid: regions.hit, box: regions.hit_box });
  for (const name of ["pointerenter", "focusin"]) made.addEventListener(name, () => showRegions(regions));
}

/** How long each stage took, for those who asked for an explanation. */
function showTimings(explained) {
  find("timings").textContent = "";
  if (!explained) return;
  const named = ([stage, took]) => `${stage.replaceAll("_", " ")} ${took.toFixed(1)} ms`;
  const stages = Object.entries(explained.timings_ms).map(named);
  const filtered = explained.filtered_by === "none" ? "" : ` · filtered by ${explained.filtered_by}`;
  find("timings").textContent = `${stages.join(" · ")} · ${count(explained.candidates, "candidate")}${filtered}`;
}
