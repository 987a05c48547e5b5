/**
 * The search page. What it shows follows from the address and the history entry alone, so that Back, Forward
 * and links work: `/` is the wall, `/?item=ID` an item's look-alikes; a search by upload is an entry of `/` with
 * a number under which this tab remembers the file.
 */

import * as api from "./api.js";
import { hit, large, nameOf, percent, preview, priceOf, skeletons, tile, views } from "./cards.js";
import { announce, count, find } from "./dom.js";
import { addPictures, openImport } from "./imports.js";
import { onFiles } from "./picking.js";

const WALL = 24;
const HITS = 24;

const uploads = new Map(); // number → { file, url }
const answers = new Map(); // view → its answer, so that Back shows it at once and where it was scrolled to
let wall = null;
let empty = false;
let asked = new AbortController();

/** Show what the address says. */
async function show() {
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  find("notice").hidden = true;
  try {
    const parameters = new URLSearchParams(location.search);
    const upload = uploads.get(history.state?.upload);
    if (upload) await showUpload(upload, history.state.upload, signal);
    else if (parameters.has("item")) await showItem(parameters.get("item"), Number(parameters.get("image")), signal);
    else await showWall(signal);
  } catch (problem) {
    if (!signal.aborted) report(problem);
  }
}

function go(address, state = null) {
  history.pushState(state, "", address);
  window.scrollTo(0, 0);
  show();
}

function report(problem) {
  if (problem.status === 401) return leave();
  find("results").ariaBusy = "false";
  find("hits").replaceChildren();
  find("wall").replaceChildren();
  find("facts").textContent = "";
  find("notice-text").textContent = problem.message;
  find("retry").hidden = !problem.passing;
  find("notice").hidden = false;
  return undefined;
}

function leave() {
  location.assign(`/signin${location.search}`);
}

async function showWall(signal) {
  enterSection("start", "Akin");
  if (wall === null) {
    find("empty").hidden = true;
    find("wall-head").hidden = false;
    find("wall").replaceChildren(...skeletons(WALL));
    const drawn = await api.randomImages(WALL, signal);
    signal.throwIfAborted();
    wall = drawn;
  }
  empty = wall.length === 0;
  find("empty").hidden = !empty;
  find("wall-head").hidden = empty;
  find("choose").hidden = empty;
  find("wall").replaceChildren(...wall.map(tile));
}

async function showItem(itemId, imageId, signal) {
  const view = `item ${itemId}`;
  enterSection("results", "Look-alikes · Akin");
  if (!answers.has(view)) {
    describe(itemId, "");
    wait();
    const item = await api.item(itemId, signal);
    // An answer that was complete before the reader went elsewhere is not stopped by the abort.
    signal.throwIfAborted();
    describeItem(item, imageId);
    const found = await api.similar(itemId, HITS, signal);
    signal.throwIfAborted();
    answers.set(view, { item, found });
  }
  const { item, found } = answers.get(view);
  describeItem(item, imageId);
  showFound(found, "Nothing to compare with yet: pictures that were just added take a moment.");
}

async function showUpload({ file, url }, number, signal) {
  const view = `upload ${number}`;
  const name = file.name || "Pasted picture";
  enterSection("results", `${name} · Akin`);
  describe(name, "Your picture; it is not kept.");
  find("query-picture").replaceChildren(preview(url, name));
  if (!answers.has(view)) {
    wait();
    const found = await api.searchBy(file, HITS, signal);
    signal.throwIfAborted();
    answers.set(view, { found });
  }
  showFound(answers.get(view).found, "No look-alikes: the catalog has no searchable pictures yet.");
}

function enterSection(id, title) {
  document.title = title;
  for (const section of ["start", "results"]) find(section).hidden = section !== id;
}

function wait() {
  find("facts").textContent = "Looking…";
  find("hits").replaceChildren(...skeletons(HITS / 2));
  find("results").ariaBusy = "true";
}

function describe(title, note) {
  find("results-title").textContent = title;
  find("query-note").textContent = note;
  find("query-picture").replaceChildren();
  find("query-views").replaceChildren();
  find("query-link").hidden = true;
}

function describeItem(item, imageId) {
  describe(nameOf(item), [item.attributes.brand, priceOf(item.attributes)].filter(Boolean).join(" · "));
  document.title = `${nameOf(item)} · look-alikes · Akin`;
  const image = item.images.find((one) => one.id === imageId) ?? item.images[0];
  if (image) find("query-picture").replaceChildren(large(image, nameOf(item)));
  if (item.images.length > 1) find("query-views").replaceChildren(...views(item, image));
  const link = find("query-link");
  // An item's address is data: only one that leads to a page becomes a link.
  link.hidden = !/^https?:\/\//i.test(item.url ?? "");
  if (!link.hidden) link.href = item.url;
}

function showFound({ hits, encoder, took_ms: took }, none) {
  find("results").ariaBusy = "false";
  find("hits").replaceChildren(...hits.map(hit));
  find("facts").textContent = hits.length
    ? `${count(hits.length, "look-alike")} · ${Math.max(1, Math.round(took))} ms · ${encoder}`
    : none;
  const best = hits.length ? `, the best ${percent(hits[0].score)} alike` : "";
  announce(`${count(hits.length, "look-alike")}${best}`);
  find("results-title").focus({ preventScroll: true });
}

function searchBy(file) {
  const number = Date.now();
  uploads.set(number, { file, url: URL.createObjectURL(file) });
  go("/", { upload: number });
}

function meansAdding(number) {
  return number > 1 || empty || find("import").open;
}

function add(files) {
  addPictures(files, { done: afterImport, signedOut: leave });
}

function afterImport() {
  answers.clear();
  wall = null;
  showSize();
  if (!find("start").hidden) show();
}

async function showSize() {
  try {
    const { name, items, images } = await api.catalog();
    find("size").textContent = `${count(items, "item")}, ${count(images, "picture")} in the catalog “${name}”`;
  } catch (problem) {
    if (problem.status === 401) leave();
  }
}

function followLinks(event) {
  const link = event.target.closest("a.tile, a.hit, #home");
  const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
  if (!link || !plain) return;
  event.preventDefault();
  go(link.getAttribute("href"));
}

document.addEventListener("click", followLinks);
window.addEventListener("popstate", show);
onFiles({
  purpose: (number) => (meansAdding(number) ? "Drop to add to the catalog" : "Drop to find look-alikes"),
  picked: (files) => (meansAdding(files.length) ? add(files) : searchBy(files[0])),
});
find("retry").addEventListener("click", show);
find("shuffle").addEventListener("click", () => {
  wall = null;
  show();
});
find("add").addEventListener("click", openImport);
find("add-first").addEventListener("click", openImport);
find("import-files").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = "";
  add(files);
});
find("signout").addEventListener("click", async () => {
  try {
    await api.signOut();
    location.assign("/signin");
  } catch (problem) {
    report(problem);
  }
});
// A page that the browser kept may be shown again after signing out: asking anything finds out.
window.addEventListener("pageshow", (event) => event.persisted && showSize());

show();
showSize();
