/** Calls of Akin's HTTP API. The browser's session cookie is the credential. */

/** A refusal (RFC 9457), or no answer at all (status 0). */
export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

const unreachable = (cause) => new Problem(0, "unreachable", `Akin cannot be reached. ${cause}`);
const refusal = (status, body) =>
  new Problem(status, body?.code ?? "http", body?.detail ?? `The server answered ${status}.`);

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable("Is it running?");
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => null);
  if (!response.ok) throw refusal(response.status, body);
  return body;
}

const JSON_TYPE = { "Content-Type": "application/json" };
const json = (method, body) => ({ method, body: JSON.stringify(body), headers: JSON_TYPE });
const itemPath = (itemId) => `/v1/items/${encodeURIComponent(itemId)}`;
const jobPath = (jobId) => `/v1/jobs/${encodeURIComponent(jobId)}`;
const query = (parameters) =>
  new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined));

export const signIn = (key) => request("/session", json("POST", { key }));
export const signOut = () => request("/session", { method: "DELETE" });

/** The catalog that this session works in: the one that its key is bound to, else the default. */
export async function catalog() {
  const { data } = await request("/v1/catalogs");
  return data.find((one) => one.name === "default") ?? data[0];
}

export const thumbnail = (imageId, size) => `/v1/images/${imageId}/thumbnail?size=${size}`;
export const randomImages = (limit, signal) =>
  request(`/v1/images?order=random&limit=${limit}`, { signal }).then((page) => page.data);
export const images = (limit, cursor) => request(`/v1/images?${query({ limit, cursor })}`);
export const image = (imageId, signal) => request(`/v1/images/${imageId}`, { signal });
export const item = (itemId, signal) => request(itemPath(itemId), { signal });
export const deleteItem = (itemId) => request(itemPath(itemId), { method: "DELETE" });
export const similar = (itemId, limit) => request(`${itemPath(itemId)}/similar?limit=${limit}`);

/** Search with a body as the API documents it; `file` is sent as it is, for a query of nothing else. */
export function search(body, file, signal) {
  if (!file) return request("/v1/search", { ...json("POST", body), signal });
  const form = new FormData();
  form.append("image", file, file.name || "pasted");
  for (const [name, value] of Object.entries(body)) {
    form.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  return request("/v1/search", { method: "POST", body: form, signal });
}

export const nextPage = (cursor, limit, signal) =>
  request("/v1/search", { ...json("POST", { cursor, limit }), signal });

// Asking again costs little: the browser sends the ETag of the answer that it kept.
export const job = (jobId) => request(jobPath(jobId));
export const jobs = (limit) => request(`/v1/jobs?limit=${limit}`).then((list) => list.data);
export const jobErrors = (jobId, cursor) => request(`${jobPath(jobId)}/errors?${query({ limit: 100, cursor })}`);
export const cancelJob = (jobId) => request(`${jobPath(jobId)}/cancel`, { method: "POST" });
export const retryJob = (jobId) => request(`${jobPath(jobId)}/retry`, { method: "POST" });

export const findDuplicates = (threshold) => request("/v1/duplicates", json("POST", { threshold }));
export const duplicates = (parameters) => request(`/v1/duplicates?${query(parameters)}`);

/**
 * Send something large, with a word on how much of it has gone; `sent` is called with a share in 0..1.
 *
 * fetch() cannot tell how far an upload is, XMLHttpRequest can.
 */
export function upload(path, body, type, sent, signal) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", path);
    sending.responseType = "json";
    if (type) sending.setRequestHeader("Content-Type", type);
    sending.upload.onprogress = (event) => sent(event.total ? event.loaded / event.total : 0);
    sending.onload = () => {
      if (sending.status < 300) resolve(sending.response);
      else reject(refusal(sending.status, sending.response));
    };
    sending.onerror = () => reject(unreachable("It is not running, or the upload is too large."));
    sending.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(body);
  });
}
