/** The page at /duplicates: looking for them, and what was found. */

import * as api from "./api.js";
import { itemLink, nameOf, percent, tile } from "./cards.js";
import { announce, bytes, count, element, find } from "./dom.js";
import { JobCard } from "./jobcard.js";
import { follow, isOver, titleOf } from "./jobs.js";
import { calm, may, report } from "./shell.js";

const PIECE = 20;
const RECENT = 20;

let cursor = null;

/** The first clusters, or those after the ones that are shown. */
async function load() {
  const first = cursor === null;
  find("more").disabled = true;
  try {
    const page = await api.duplicates({ limit: PIECE, cursor, across_items: find("across").checked });
    const rows = page.data.map(cluster);
    if (first) find("clusters").replaceChildren(...rows);
    else find("clusters").append(...rows);
    if (!first) rows[0]?.querySelector("a").focus();
    cursor = page.next_cursor;
    find("more").hidden = cursor === null;
    find("summary").textContent = page.clusters
      ? `${count(page.clusters, "group")} of ${count(page.count, "picture")}; ${bytes(page.wasted_bytes)} could go. ` +
        `Alike from ${page.threshold.toFixed(3)} on, by ${page.encoder}.`
      : "Nothing is there twice.";
  } catch (problem) {
    report(problem, load);
  } finally {
    find("more").disabled = false;
  }
}

function reload() {
  calm();
  cursor = null;
  return load();
}

function cluster(found) {
  const items = new Set(found.images.map(({ item }) => item.item_id)).size;
  const more = found.count - found.images.length;
  const words = [count(found.count, "picture"), count(items, "item"), `${bytes(found.wasted_bytes)} could go`];
  const pictures = found.images.map(member);
  if (more > 0) pictures.push(element("li", { className: "muted" }, `and ${count(more, "more picture")}`));
  return element(
    "li",
    { className: "cluster card" },
    element("h3", {}, words.join(" · ")),
    element("ul", {}, ...pictures),
  );
}

function member({ image, item, score }) {
  const link = tile(image, itemLink(item.item_id, image.id), "");
  const size = `${image.width} × ${image.height}, ${bytes(image.size_bytes)}`;
  link.append(
    element(
      "span",
      { className: "caption" },
      element("strong", {}, nameOf(item)),
      element("br"),
      `${percent(score)} alike`,
      element("br"),
      size,
    ),
  );
  return element("li", {}, link);
}

/** Show how far a job is, and what it found once it is over. */
async function watch(job) {
  const card = new JobCard(titleOf(job), report);
  find("job").replaceChildren(card.element);
  find("find").disabled = true;
  try {
    const over = await follow(job, (seen) => card.show([seen]));
    if (over.state !== "finished") return;
    await reload();
    announce(find("summary").textContent);
    find("clusters-title").focus({ preventScroll: true });
  } catch (problem) {
    report(problem);
  } finally {
    find("find").disabled = false;
  }
}

async function start(event) {
  event.preventDefault();
  calm();
  const typed = find("threshold").value;
  try {
    const { job_id: id } = await api.findDuplicates(typed === "" ? null : Number(typed));
    await watch(await api.job(id));
  } catch (problem) {
    report(problem);
  }
}

/** A job that somebody began before is shown too. */
async function resume() {
  const running = (await api.jobs(RECENT)).find((job) => job.kind === "duplicates" && !isOver(job));
  if (running) await watch(running);
}

find("start")?.addEventListener("submit", start);
find("across").addEventListener("change", reload);
find("more").addEventListener("click", load);

if ("searched" in find("found").dataset) load();
else find("summary").textContent = "Nobody has looked for duplicates yet.";
if (may("ingest")) resume().catch(report);
