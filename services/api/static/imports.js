/** Adding pictures to the catalog: uploads in pieces, and the progress of their jobs. */

import * as api from "./api.js";
import { announce, count, element, find } from "./dom.js";

const PIECE_FILES = 50;
const PIECE_BYTES = 24 * 1024 * 1024;
const POLL_MS = 500;
const RETRY_MS = 2000;
const TRIES = 5;
const OVER = ["finished", "finished_with_errors", "failed", "cancelled"];

const dialog = find("import");
const bar = find("import-bar");
const state = find("import-state");
const failures = find("import-errors");
const label = find("add-label");

let running = false;

export function openImport() {
  if (!dialog.open) dialog.showModal();
}

/**
 * Upload files and follow them until each is searchable or refused.
 *
 * `done` is called when pictures have been added; `signedOut` when the session is over.
 */
export async function addPictures(files, { done, signedOut }) {
  openImport();
  if (running || !files.length) return;
  running = true;
  find("import-progress").hidden = false;
  find("import-choose").hidden = true;
  failures.replaceChildren();
  const progress = new Progress(files.length);
  try {
    for (const piece of pieces(files)) await follow(await upload(piece), progress);
    progress.finish();
    done();
  } catch (problem) {
    if (problem.status === 401) signedOut();
    progress.stop(problem.message);
  } finally {
    running = false;
    find("import-choose").hidden = false;
    label.textContent = "Add pictures";
  }
}

/** Files in groups that one request may carry. */
function* pieces(files) {
  let piece = [];
  let bytes = 0;
  for (const file of files) {
    if (piece.length && (piece.length === PIECE_FILES || bytes + file.size > PIECE_BYTES)) {
      yield piece;
      [piece, bytes] = [[], 0];
    }
    piece.push(file);
    bytes += file.size;
  }
  yield piece;
}

async function upload(files) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await api.startImport(files);
    } catch (problem) {
      if (!problem.passing || tries === TRIES) throw problem;
      await pause(RETRY_MS);
    }
  }
}

async function follow(job, progress) {
  let seen = job;
  progress.show(seen);
  while (!OVER.includes(seen.state)) {
    await pause(POLL_MS);
    seen = await api.job(job.id);
    progress.show(seen);
  }
  progress.settle(seen);
}

/** The dialog's bar and words, over all jobs of one choice of files. */
class Progress {
  constructor(total) {
    this.total = total;
    this.before = { done: 0, added: 0, known: 0, failed: 0 };
    bar.max = total;
    bar.removeAttribute("value");
    state.textContent = `Uploading ${count(total, "picture")}…`;
  }

  show(job) {
    this.now = {
      done: this.before.done + job.done,
      added: this.before.added + job.indexed,
      known: this.before.known + job.unchanged,
      failed: this.before.failed + job.failed,
    };
    bar.value = this.now.done;
    state.textContent = `${this.now.done} of ${count(this.total, "picture")} looked at${this.refused()}`;
    label.textContent = `Adding ${Math.floor((100 * this.now.done) / this.total)}%`;
  }

  settle(job) {
    this.before = this.now;
    failures.append(
      ...job.errors.map((error) => element("li", {}, element("strong", {}, error.ref), ` ${error.detail}`)),
    );
  }

  refused() {
    const known = this.now?.known ? `, ${this.now.known} there already` : "";
    return this.now?.failed ? `${known}, ${this.now.failed} refused` : known;
  }

  finish() {
    state.textContent = `${count(this.now.added, "picture")} added${this.refused()}.`;
    announce(state.textContent);
  }

  stop(reason) {
    state.textContent = `Stopped after ${this.now?.done ?? 0} of ${this.total}: ${reason}`;
    bar.value = this.now?.done ?? 0;
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
