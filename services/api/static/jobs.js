/** Jobs: following them until they are over, and what there is to say of one. */

import * as api from "./api.js";
import { bytes, count, pause } from "./dom.js";

const POLL_MS = 500;
const CALM_MS = 2000;
const CALM_AFTER_MS = 20_000;
const KINDS = { delete: "Deletion", duplicates: "Search for duplicates", audit: "Audit", train: "Training" };
const UNITS = { import: "pictures", reindex: "pictures", delete: "items" };

export const isOver = (job) => !["queued", "running"].includes(job.state);

/** Ask for a job until it is over; `changed` is told what it is like. What is passing is waited out. */
export async function follow(job, changed, ask = () => api.job(job.id)) {
  const began = Date.now();
  let seen = job;
  changed(seen);
  while (!isOver(seen)) {
    await pause(Date.now() - began < CALM_AFTER_MS ? POLL_MS : CALM_MS);
    try {
      seen = await ask();
      changed(seen);
    } catch (problem) {
      if (!problem.passing) throw problem;
    }
  }
  return seen;
}

/** For example "Import of 12 pictures". */
export function titleOf(job) {
  if (job.kind === "reindex") return `Reindexing with ${job.result.encoder}`;
  if (job.kind !== "import") return KINDS[job.kind] ?? job.kind;
  const from = job.source.location ?? job.source.url;
  if (from) return `Import of ${from}`;
  if (job.source.kind === "stored") return `Import of ${job.source.form === "manifest" ? "a manifest" : "an archive"}`;
  if (job.source.kind === "urls") return `Import of ${count(job.total, "address", "addresses")}`;
  return `Import of ${count(job.total, "picture")}`;
}

/** For example "about 3 minutes". */
function duration(seconds) {
  if (seconds < 90) return `about ${count(Math.max(1, Math.round(seconds)), "second")}`;
  if (seconds < 5400) return `about ${count(Math.round(seconds / 60), "minute")}`;
  return `about ${count(Math.round(seconds / 3600), "hour")}`;
}

/** For example "340 of 1,000 pictures · 52 per second · about 13 seconds left". */
export function words(job) {
  const done = `${job.done.toLocaleString("en")} of ${job.listed ? "" : "at least "}${job.total.toLocaleString("en")}`;
  const parts = [`${done} ${UNITS[job.kind] ?? "steps"}`];
  if (job.indexed) parts.push(`${job.indexed.toLocaleString("en")} searchable`);
  if (job.unchanged) parts.push(`${job.unchanged.toLocaleString("en")} there already`);
  if (job.failed) parts.push(`${job.failed.toLocaleString("en")} failed`);
  if (job.cancelled) parts.push(`${job.cancelled.toLocaleString("en")} left out`);
  if (!isOver(job) && job.rate) parts.push(`${job.rate.toFixed(job.rate < 10 ? 1 : 0)} per second`);
  if (!isOver(job) && job.eta_seconds) parts.push(`${duration(job.eta_seconds)} left`);
  return parts.join(" · ");
}

/** Several jobs as if they were one. */
export function merged(jobs) {
  if (jobs.length === 1) return jobs[0];
  const sum = (name) => jobs.reduce((total, job) => total + (job[name] ?? 0), 0);
  const byCode = {};
  for (const job of jobs) {
    for (const [code, number] of Object.entries(job.failed_by_code)) byCode[code] = (byCode[code] ?? 0) + number;
  }
  const counts = ["total", "done", "indexed", "unchanged", "failed", "cancelled", "rate"];
  const states = ["running", "queued", "failed", "cancelled", "finished_with_errors", "finished"];
  const open = jobs.filter((job) => !isOver(job));
  return {
    ...Object.fromEntries(counts.map((name) => [name, sum(name)])),
    kind: "import",
    state: states.find((state) => jobs.some((job) => job.state === state)) ?? "queued",
    listed: jobs.every((job) => job.listed),
    eta_seconds: Math.max(0, ...open.map((job) => job.eta_seconds ?? 0)),
    created_at: jobs[0]?.created_at,
    error: null,
    errors: jobs.flatMap((job) => job.errors).slice(0, 10),
    failed_by_code: byCode,
  };
}

/** For example "2 files, 3.4 MB". */
export const sizeOf = (files) =>
  `${count(files.length, "file")}, ${bytes(files.reduce((total, file) => total + file.size, 0))}`;
