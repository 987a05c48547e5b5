/** A query's answer, page by page, remembered by its address so that Back shows it at once. */

import * as api from "./api.js";
import { curlForm, curlJson, placeholder, python } from "./programs.js";
import { toAddress, toBody, toForm } from "./query.js";
import { recall } from "./uploads.js";

export const HITS = 24;

const answers = new Map();

/** The answer of a query: { hits, next_cursor, … } with the hits of all pages that were asked for. */
export async function ask(query, signal) {
  const address = toAddress(query);
  if (!answers.has(address)) {
    const found = await search(query, signal);
    // An answer that was complete before the reader went elsewhere is not stopped by the abort.
    signal.throwIfAborted();
    answers.set(address, found);
  }
  return answers.get(address);
}

async function search(query, signal) {
  if (!query.parts.some(({ weight }) => weight > 0)) throw new Error("Give at least one picture a weight above 0.");
  const form = toForm(query, HITS);
  if (form) return api.search(form.fields, await recall(form.upload), signal);
  const pictures = new Map();
  for (const { upload } of query.parts) {
    if (upload !== undefined) pictures.set(upload, await base64(await recall(upload)));
  }
  return api.search(toBody(query, HITS, (number) => pictures.get(number)), null, signal);
}

/** The next hits, which are added to the answer. */
export async function askMore(query, signal) {
  const answer = answers.get(toAddress(query));
  const page = await api.nextPage(answer.next_cursor, HITS, signal);
  signal.throwIfAborted();
  answer.hits.push(...page.hits);
  answer.next_cursor = page.next_cursor;
  return page.hits;
}

/** Forget the answer of a query, for example because its pages have expired. */
export const forget = (query) => answers.delete(toAddress(query));

/** A query as a command and as a program. */
export async function asPrograms(query) {
  const names = new Map();
  for (const { upload } of query.parts) {
    if (upload !== undefined) names.set(upload, (await recall(upload))?.name || "picture.jpg");
  }
  const { paged, ...body } = toBody(query, HITS, (number) => placeholder(names.get(number)));
  const form = toForm(query, HITS);
  const curl = form ? curlForm(names.get(form.upload), form.fields) : curlJson(body);
  return { curl, python: python(body, [...names.values()]) };
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
