/** Where a search starts: the ways to ask, and pictures drawn from all over the catalog. */

import * as api from "./api.js";
import { searchLink, skeletons, tile } from "./cards.js";
import { element, find } from "./dom.js";

const WALL = 24;

let drawn = null;

/** Draw other pictures next time. */
export function shuffle() {
  drawn = null;
}

/** Whether the catalog was empty when it was last looked at. */
export const isEmpty = () => drawn?.length === 0;

/** Show the wall; until it is there, places are kept for it. */
export async function showWall(signal) {
  if (drawn === null) {
    find("empty").hidden = true;
    find("wall-head").hidden = false;
    find("wall").replaceChildren(...skeletons(WALL));
    const pictures = await api.randomImages(WALL, signal);
    signal.throwIfAborted();
    drawn = pictures;
  }
  const empty = isEmpty();
  find("empty").hidden = !empty;
  find("wall-head").hidden = empty;
  find("ask").hidden = empty;
  find("wall").replaceChildren(
    ...drawn.map((image) => element("li", {}, tile(image, searchLink(image.item_id, image.id)))),
  );
}
