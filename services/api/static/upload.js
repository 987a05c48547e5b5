/** The page at /upload: files go in, and their jobs and the latest others are followed. */

import { jobs as latestJobs } from "./api.js";
import { itemLink } from "./cards.js";
import { announce, count, element, find } from "./dom.js";
import { JobCard } from "./jobcard.js";
import { follow, sizeOf, titleOf } from "./jobs.js";
import { onFiles } from "./picking.js";
import { requestsOf, send } from "./sending.js";
import { report, showSize } from "./shell.js";
import { handedOver } from "./uploads.js";

const LATEST = 20;
const MOST_LINKS = 8;

const list = find("jobs");
const dialog = find("replacing");
const sendingNow = new Set();

async function add(files) {
  const mode = find("mode").value;
  const requests = requestsOf(files, mode);
  if (!requests.length) return;
  if (mode === "replace" && !(await mayReplace(files, requests))) return;
  const card = new JobCard(`Upload of ${sizeOf(files)}`, report);
  const stop = new AbortController();
  list.prepend(card.element);
  find("no-jobs").hidden = true;
  card.cancel.addEventListener("click", () => stop.abort());
  sendingNow.add(card);
  try {
    const jobs = await sendAll(requests, card, stop.signal);
    sendingNow.delete(card);
    await watch(card, jobs);
    if (!requests.some((one) => one.type)) card.links.append(...linksTo(files, card.jobs));
    announce(card.line.textContent);
    showSize();
  } catch (problem) {
    if (problem.name === "AbortError") card.element.remove();
    else report(problem);
  } finally {
    sendingNow.delete(card);
  }
}

/** Send every request; those that were sent before the visitor stopped are cancelled by the card's button. */
async function sendAll(requests, card, signal) {
  const jobs = [];
  for (const [number, request] of requests.entries()) {
    const say = (share) => {
      const percent = Math.floor((100 * (number + share)) / requests.length);
      card.show(jobs, `${percent}% uploaded`);
    };
    say(0);
    try {
      jobs.push(await send(request, say, signal));
    } catch (problem) {
      if (!jobs.length) throw problem;
      if (problem.name !== "AbortError") report(problem);
      break;
    }
  }
  return jobs;
}

/** Follow the jobs of a card until all are over; also after what failed is tried again. */
async function watch(card, jobs) {
  const now = new Map(jobs.map((job) => [job.id, job]));
  const followed = (job) => follow(job, (seen) => {
    now.set(seen.id, seen);
    card.show([...now.values()]);
  });
  card.acted = (changed) => Promise.all(changed.map(followed)).then(showSize, report);
  await Promise.all(jobs.map(followed));
}

/** Replacing removes what one import does not name: so it must be one, and the visitor must mean it. */
function mayReplace(files, requests) {
  if (requests.length > 1) {
    report(new Error("Replacing takes one archive, one manifest, or up to 1,000 pictures of 200 MB at a time."));
    return false;
  }
  find("replacing-what").textContent = sizeOf(files);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "replace"), { once: true });
  });
}

/** The items that uploaded pictures became, the first few; of those that failed as far as the jobs tell them. */
function linksTo(files, jobs) {
  const failed = new Set(jobs.flatMap((job) => job.errors ?? []).map(({ ref }) => ref));
  const names = files.map((file) => file.webkitRelativePath || file.name).filter((name) => !failed.has(name));
  const ids = [...new Set(names.map((name) => name.replace(/\.[^./]*$/, "")))];
  const links = ids.slice(0, MOST_LINKS).map((id) => element("a", { href: itemLink(id) }, id));
  return ids.length > MOST_LINKS ? [...links, element("a", { href: "/catalog" }, "all pictures")] : links;
}

async function showLatest() {
  try {
    const jobs = await latestJobs(LATEST);
    find("no-jobs").hidden = jobs.length > 0 || sendingNow.size > 0;
    for (const job of jobs) {
      const card = new JobCard(titleOf(job), report);
      list.append(card.element);
      card.show([job]);
      watch(card, [job]).catch(report);
    }
  } catch (problem) {
    report(problem, showLatest);
  }
}

// Bytes that are still on their way are lost with the page; jobs go on without it.
window.addEventListener("beforeunload", (event) => sendingNow.size && event.preventDefault());

if (find("choose")) {
  onFiles({
    inputs: [find("files"), find("folder")],
    purpose: (number) => `Drop to add ${count(number, "file")}`,
    picked: add,
  });
  showLatest().then(handedOver).then((files) => files.length && add(files));
}
