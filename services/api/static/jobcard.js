/** The card that shows how far a job is, what failed in it and why, with buttons that stop it or try again. */

import * as api from "./api.js";
import { element, icon } from "./dom.js";
import { isOver, merged, words } from "./jobs.js";

const STATES = {
  queued: "Waiting",
  running: "Running",
  finished: "Done",
  finished_with_errors: "Done, with failures",
  failed: "Failed",
  cancelled: "Cancelled",
};
const AGAIN = "M15.5 8A6 6 0 105 14M15.5 3.5V8H11";
const STOPPABLE = ["import", "delete", "duplicates"];
const TIMES = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

/** One job, or several that one choice of files became; `failed` is told of problems with its buttons. */
export class JobCard {
  constructor(title, failed) {
    this.failed = failed;
    this.state = element("span", { className: "state pending" });
    this.when = element("span", { className: "muted job-when" });
    this.bar = element("progress", { ariaLabel: title });
    this.line = element("p", { className: "job-line" }, "\u00a0");
    this.reasons = element("ul", { className: "reasons", ariaLabel: "Why pictures failed" });
    this.errors = element("ul", { className: "failures" });
    this.details = element("details", { hidden: true }, element("summary", {}, "What failed"), this.errors);
    this.all = this.button("Show all", "M5 8l5 5 5-5", () => this.showAll());
    this.details.append(this.all);
    this.cancel = this.button("Cancel", "M5 5l10 10M15 5L5 15", () => this.onEach(api.cancelJob));
    this.retry = this.button("Retry what failed", AGAIN, () => this.onEach(api.retryJob));
    this.links = element("span", { className: "job-links" });
    this.title = element("h3", {}, title);
    this.element = element(
      "article",
      { className: "job card" },
      element("header", {}, this.title, this.state, this.when),
      this.bar,
      this.line,
      this.reasons,
      this.details,
      element("p", { className: "job-actions" }, this.cancel, this.retry, this.links),
    );
    this.jobs = [];
    this.cancel.hidden = true;
    this.retry.hidden = true;
  }

  button(label, lines, act) {
    const made = element("button", { type: "button", className: "button small" }, icon(lines), label);
    made.addEventListener("click", async () => {
      made.disabled = true;
      try {
        await act();
      } catch (problem) {
        this.failed(problem);
      } finally {
        made.disabled = false;
      }
    });
    return made;
  }

  /** Show what `jobs` come to; `sending` is what there is to say while bytes are still on their way. */
  show(jobs, sending = null) {
    this.jobs = jobs;
    const job = merged(jobs);
    this.state.textContent = sending ? "Uploading" : STATES[job.state];
    this.state.className = `state ${sending ? "running" : job.state}`;
    this.when.textContent = job.created_at ? TIMES.format(new Date(job.created_at)) : "";
    this.line.textContent = sending ?? (job.error ? job.error.detail : words(job));
    this.setBar(job, sending);
    this.reasons.replaceChildren(...Object.entries(job.failed_by_code).map(reason));
    this.details.hidden = job.errors.length === 0;
    if (!this.shownAll) this.errors.replaceChildren(...job.errors.map(failure));
    this.all.hidden = this.shownAll || job.failed <= job.errors.length;
    this.cancel.hidden = isOver(job) || !(sending || STOPPABLE.includes(job.kind));
    this.retry.hidden = !isOver(job) || job.kind !== "import" || job.failed === 0;
  }

  setBar(job, sending) {
    if (sending || (!isOver(job) && !job.total)) this.bar.removeAttribute("value");
    else {
      this.bar.max = Math.max(1, job.total);
      this.bar.value = isOver(job) && job.state === "finished" ? this.bar.max : job.done;
    }
    this.bar.hidden = isOver(job) && !sending;
  }

  async onEach(act) {
    const fits = act === api.cancelJob ? (job) => !isOver(job) : (job) => job.failed > 0;
    const changed = await Promise.all(this.jobs.filter(fits).map((job) => act(job.id)));
    const now = new Map(changed.map((job) => [job.id, job]));
    this.shownAll = false;
    this.show(this.jobs.map((job) => now.get(job.id) ?? job));
    this.acted?.(this.jobs.filter((job) => now.has(job.id)));
  }

  async showAll() {
    const found = [];
    for (const job of this.jobs.filter((one) => one.failed)) {
      let cursor = null;
      do {
        const page = await api.jobErrors(job.id, cursor);
        found.push(...page.data);
        cursor = page.next_cursor;
      } while (cursor !== null);
    }
    this.shownAll = true;
    this.errors.replaceChildren(...found.map(failure));
    this.all.hidden = true;
  }
}

const reason = ([code, number]) =>
  element("li", {}, element("strong", {}, String(number)), ` ${code.replaceAll("_", " ")}`);
const failure = (error) => element("li", {}, element("strong", {}, error.ref), ` ${error.detail || error.code}`);
