/** Files as imports: which request each goes with, sending these one after the other, trying again what is passing. */

import * as api from "./api.js";
import { pause } from "./dom.js";

const PIECE_FILES = 50;
const PIECE_BYTES = 24 * 1024 * 1024;
const WHOLE_FILES = 1000;
const WHOLE_BYTES = 200 * 1024 * 1024;
const RETRY_MS = 3000;
const TRIES = 20;

const ARCHIVES = [
  [/\.zip$/i, "application/zip"],
  [/\.tar$/i, "application/x-tar"],
  [/\.(tar\.gz|tgz)$/i, "application/gzip"],
];
const MANIFESTS = [
  [/\.(jsonl|ndjson)$/i, "application/x-ndjson"],
  [/\.csv$/i, "text/csv"],
];
const HIDDEN = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|desktop\.ini$)/;

const nameOf = (file) => file.webkitRelativePath || file.name;
const typeOf = (file, kinds) => kinds.find(([suffix]) => suffix.test(file.name))?.[1];

/** What a choice of files becomes: requests with a path, a body and its type; `whole` puts all pictures into one. */
export function requestsOf(files, mode) {
  const requests = [];
  const pictures = [];
  for (const file of files) {
    const [archive, manifest] = [typeOf(file, ARCHIVES), typeOf(file, MANIFESTS)];
    if (archive) requests.push({ path: `/v1/imports/archive?mode=${mode}`, body: file, type: archive });
    else if (manifest) requests.push({ path: `/v1/imports/manifest?mode=${mode}`, body: file, type: manifest });
    else if (!HIDDEN.test(nameOf(file))) pictures.push(file);
  }
  const whole = mode === "replace";
  for (const piece of pieces(pictures, whole ? WHOLE_FILES : PIECE_FILES, whole ? WHOLE_BYTES : PIECE_BYTES)) {
    const form = new FormData();
    for (const file of piece) form.append("files", file, nameOf(file));
    form.append("mode", mode);
    requests.push({ path: "/v1/imports", body: form, type: null });
  }
  return requests;
}

/** Files in groups that one request may carry. */
function* pieces(files, most, mostBytes) {
  let piece = [];
  let bytes = 0;
  for (const file of files) {
    if (piece.length && (piece.length === most || bytes + file.size > mostBytes)) {
      yield piece;
      [piece, bytes] = [[], 0];
    }
    piece.push(file);
    bytes += file.size;
  }
  if (piece.length) yield piece;
}

/** Send one request; the job that it began. A full queue is waited for. */
export async function send({ path, body, type }, sent, signal) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await api.upload(path, body, type, sent, signal);
    } catch (problem) {
      if (!problem.passing || tries === TRIES) throw problem;
      await pause(RETRY_MS);
      signal.throwIfAborted();
    }
  }
}
