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

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const cause = options.body instanceof FormData ? "It is not running, or the upload is too large." : "Is it running?";
    throw new Problem(0, "unreachable", `Akin cannot be reached. ${cause}`);
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    throw new Problem(response.status, body?.code ?? "http", body?.detail ?? `The server answered ${response.status}.`);
  }
  return body;
}

const json = (method, body) => ({ method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
const itemPath = (itemId) => `/v1/items/${encodeURIComponent(itemId)}`;

export const signIn = (key) => request("/session", json("POST", { key }));
export const signOut = () => request("/session", { method: "DELETE" });

export const thumbnail = (imageId, size) => `/v1/images/${imageId}/thumbnail?size=${size}`;
export const randomImages = (limit, signal) =>
  request(`/v1/images?order=random&limit=${limit}`, { signal }).then((page) => page.data);
export const item = (itemId, signal) => request(itemPath(itemId), { signal });
export const similar = (itemId, limit, signal) => request(`${itemPath(itemId)}/similar?limit=${limit}`, { signal });

export function searchBy(file, limit, signal) {
  const form = new FormData();
  form.append("image", file, file.name || "pasted");
  form.append("limit", limit);
  return request("/v1/search", { method: "POST", body: form, signal });
}

/** The catalog that this session works in: the one that its key is bound to, else the default. */
export async function catalog() {
  const { data } = await request("/v1/catalogs");
  return data.find((one) => one.name === "default") ?? data[0];
}

export function startImport(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  return request("/v1/imports", { method: "POST", body: form });
}

export const job = (jobId) => request(`/v1/jobs/${encodeURIComponent(jobId)}`);
