/** What all pages of a visitor who has signed in share: the catalog's size, problems, signing out. */

import * as api from "./api.js";
import { count, find } from "./dom.js";
import { forgetAll } from "./uploads.js";

/** Whether this visitor's key has a scope. */
export const may = (scope) => (document.body.dataset.scopes ?? "").split(" ").includes(scope);

/** To the sign-in page, which leads back here. */
export function leave() {
  const here = location.pathname + location.search;
  location.assign(here === "/" ? "/signin" : `/signin?${new URLSearchParams({ next: here })}`);
}

let again = null;

/** Say what went wrong; `retry` is offered where it may succeed later. */
export function report(problem, retry = null) {
  if (problem.status === 401) {
    leave();
    return;
  }
  again = retry;
  find("notice-text").textContent = problem.message;
  find("retry").hidden = !(problem.passing && retry);
  find("notice").hidden = false;
}

/** Take the last problem away. */
export function calm() {
  find("notice").hidden = true;
}

/** Count the catalog anew. */
export async function showSize() {
  try {
    const { name, items, images } = await api.catalog();
    find("size").textContent = `${count(items, "item")}, ${count(images, "picture")} in the catalog “${name}”`;
  } catch (problem) {
    // The documentation is for everybody.
    if (problem.status === 401 && document.body.dataset.scopes) leave();
  }
}

find("signout").addEventListener("click", async () => {
  try {
    await api.signOut();
    await forgetAll();
    location.assign("/signin");
  } catch (problem) {
    report(problem);
  }
});
find("retry")?.addEventListener("click", () => {
  calm();
  again?.();
});
// A page that the browser kept may be shown again after signing out: asking anything finds out.
window.addEventListener("pageshow", (event) => event.persisted && showSize());

showSize();
