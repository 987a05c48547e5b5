/**
 * The search page. What it shows follows from the address alone (query.js), so that Back, Forward, reloading and links
 * work; pictures of the visitor's own are numbers there, under which this browser keeps the files (uploads.js).
 */

import { HITS, asPrograms, ask, askMore, forget } from "./asking.js";
import { detailsOf, pageOf } from "./cards.js";
import { count, find } from "./dom.js";
import { showParts, views } from "./parts.js";
import { MOST_PARTS, NOTHING, fromAddress, part, toAddress } from "./query.js";
import { onRefining, showRefinement } from "./refine.js";
import { clear, showAnswer, showMore, wait } from "./results.js";
import { calm, report } from "./shell.js";
import { showWall, shuffle } from "./wall.js";
import { onAsked } from "./ways.js";

const SETTLE_MS = 200;
const STEER = 0.5;

let query = NOTHING;
let asked = new AbortController();
let settling = null;

/** Show what the address says; `fresh` is false where only a detail of the query changed. */
async function show(fresh = true) {
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  calm();
  query = fromAddress(location.search);
  try {
    if (query.parts.length) await showResults(fresh, signal);
    else {
      enter("start", "Akin");
      await showWall(signal);
    }
  } catch (problem) {
    if (signal.aborted) return;
    clear();
    find("wall").replaceChildren();
    report(problem, show);
  }
}

async function showResults(fresh, signal) {
  enter("results", "Look-alikes · Akin");
  if (fresh) {
    describe("", "");
    find("results").classList.add("unknown");
  }
  wait(fresh, HITS);
  showRefinement(query);
  const parts = await showParts(query.parts, reweigh, signal);
  describeParts(parts);
  find("results").classList.remove("unknown");
  query = { ...query, parts: query.parts.map((one, at) => pictured(one, parts[at])) };
  showRequest();
  const answer = await ask(query, signal);
  showAnswer(answer, { hrefOf, steered, narrowed: query.where.length > 0 });
  if (fresh) find("results-title").focus({ preventScroll: true });
}

/** A part with the picture of its item that is shown, where the address names none. */
const pictured = (one, { shown }) =>
  one.item !== undefined && !one.image && shown ? { ...one, image: shown.id } : one;

function enter(id, title) {
  document.title = title;
  for (const section of ["start", "results"]) find(section).hidden = section !== id;
}

function describe(title, note) {
  find("results-title").textContent = title;
  find("query-note").textContent = note;
  find("query-views").replaceChildren();
  find("query-link").hidden = true;
}

function describeParts(parts) {
  if (parts.length > 1) {
    const kind = query.parts.some(({ text }) => text !== undefined) ? "part" : "picture";
    describe(`${count(parts.length, kind)} together`, "The sliders say how much each one counts.");
    document.title = `Look-alikes of several ${kind}s · Akin`;
    return;
  }
  const [{ name, note, item, shown }] = parts;
  describe(name, item ? detailsOf(item) : note);
  document.title = `${name} · look-alikes · Akin`;
  if (!item) return;
  const at = (image) => toAddress({ ...query, parts: [part({ item: item.item_id, image: image.id })] });
  if (item.images.length > 1) find("query-views").replaceChildren(...views(item, shown, at));
  const page = pageOf(item);
  find("query-link").hidden = page === null;
  if (page !== null) find("query-link").href = page;
}

async function showRequest() {
  const { curl, python } = await asPrograms(query);
  find("curl").textContent = curl;
  find("python").textContent = python;
}

const hrefOf = ({ image, item }) => toAddress({ ...query, parts: [part({ item: item.item_id, image: image.id })] });

/** Go to another query: an entry of the history of its own. */
function go(next) {
  history.pushState(null, "", toAddress(next));
  window.scrollTo(0, 0);
  show();
}

/** Change a detail of the query: the address changes with it, the history does not grow with every movement. */
function revise(change) {
  query = { ...query, ...change };
  history.replaceState(null, "", toAddress(query));
  clearTimeout(settling);
  settling = setTimeout(() => show(false), SETTLE_MS);
}

/** The parts of the query changed: weights are details, another set of parts is another search. */
function reweigh(parts) {
  const alone = parts.length === 1 && query.parts.length > 1;
  if (parts.length === query.parts.length && parts.every((one, at) => same(one, query.parts[at]))) revise({ parts });
  else go({ ...query, parts: alone ? [{ ...parts[0], weight: 1 }] : parts });
}

const subjectOf = ({ item, image, url, upload, text, crop }) =>
  JSON.stringify([item ?? [image, url, upload, text], crop]);
const same = (one, other) => subjectOf(one) === subjectOf(other);

function steered({ image }, direction) {
  add([part({ image: image.id, weight: direction * STEER })]);
}

function add(parts) {
  const room = MOST_PARTS - query.parts.length;
  if (parts.length > room) report(new Error(`A search takes ${MOST_PARTS} pictures at most.`));
  if (room > 0) go({ ...query, parts: [...query.parts, ...parts.slice(0, room)] });
}

async function more() {
  const { signal } = asked;
  find("more").disabled = true;
  try {
    const hits = await askMore(query, signal);
    showMore(hits, await ask(query, signal), { hrefOf, steered });
  } catch (problem) {
    if (signal.aborted) return;
    // The list that was frozen for this search is gone after some minutes.
    if (problem.code === "cursor_expired") forget(query);
    report(problem, problem.code === "cursor_expired" ? show : more);
  } finally {
    find("more").disabled = false;
  }
}

function followLinks(event) {
  const link = event.target.closest("a.tile, a.hit, #home");
  const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
  if (!link || !plain) return;
  event.preventDefault();
  go(fromAddress(new URL(link.href).search));
}

document.addEventListener("click", followLinks);
window.addEventListener("popstate", () => show());
onRefining(revise);
onAsked({ search: (parts) => go({ ...NOTHING, where: query.where, parts }), add });
find("more").addEventListener("click", more);
find("shuffle").addEventListener("click", () => {
  shuffle();
  show();
});

show();
