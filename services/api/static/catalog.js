/** The page at /catalog: every picture, more of them as the visitor scrolls. */

import * as api from "./api.js";
import { itemLink, skeletons, tile } from "./cards.js";
import { announce, count, element, find } from "./dom.js";
import { leave, report } from "./shell.js";

const PIECE = 48;
const LARGEST_PIECE = 200;

const wall = find("pictures");
const more = find("more");

const end = new IntersectionObserver((seen) => seen.at(-1).isIntersecting && load(), { rootMargin: "900px" });

let cursor = null;
let shown = 0;
let total = null;
let loading = false;

async function load(limit = PIECE) {
  if (loading) return;
  loading = true;
  more.disabled = true;
  try {
    const page = await api.images(limit, cursor);
    if (shown === 0) wall.replaceChildren();
    wall.append(...page.data.map(captioned));
    shown += page.data.length;
    cursor = page.next_cursor;
    more.hidden = cursor === null;
    find("empty").hidden = shown > 0;
    say();
    follow();
  } catch (problem) {
    if (shown === 0) wall.replaceChildren();
    report(problem, () => load(limit));
  } finally {
    loading = false;
    more.disabled = false;
  }
}

/** Load on where the end is near. Begun anew for each piece: an observer tells only what has changed since. */
function follow() {
  end.disconnect();
  if (cursor !== null) end.observe(more);
}

function captioned(image) {
  const link = tile(image, itemLink(image.item_id, image.id), "");
  link.append(element("span", { className: "caption" }, image.item_id));
  return element("li", {}, link);
}

function say() {
  if (total === null || shown > total.images) find("shown").textContent = count(shown, "picture");
  else {
    find("shown").textContent =
      `${shown.toLocaleString("en")} of ${count(total.images, "picture")} shown, of ${count(total.items, "item")}`;
  }
}

async function countAll() {
  try {
    total = await api.catalog();
    say();
  } catch (problem) {
    if (problem.status === 401) leave();
  }
}

/** Where the visitor comes back to this page, it is as long as it was and scrolled to the same place. */
async function start() {
  const { shown: before = 0, top = 0 } = history.state ?? {};
  wall.replaceChildren(...skeletons(PIECE));
  do await load(Math.min(LARGEST_PIECE, Math.max(PIECE, before - shown)));
  while (cursor !== null && shown < before);
  if (before) window.scrollTo(0, top);
}

history.scrollRestoration = "manual";
window.addEventListener("pagehide", () => history.replaceState({ shown, top: window.scrollY }, ""));
more.addEventListener("click", async () => {
  const before = wall.children.length;
  await load();
  wall.children[before]?.querySelector("a").focus();
  announce(find("shown").textContent);
});
find("jump").addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(itemLink(find("jump-id").value.trim()));
});

countAll();
start();
