/**
 * Pictures that a visitor searched with, kept by this browser: Back and reloading show such a search again, although
 * the server keeps none of it. Signing out forgets them.
 */

const DATABASE = "akin";
const STORE = "uploads";
const KEPT = 24;
const DROPPED = "dropped";

const held = new Map(); // key → files, also where the browser refuses to store anything
const addresses = new Map();

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** The result of one request to the store; null where the browser has none (private windows). */
async function stored(mode, ask) {
  try {
    const database = await opened();
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = ask(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result ?? null);
      transaction.onerror = () => reject(transaction.error);
      transaction.onabort = () => reject(transaction.error);
    }).finally(() => database.close());
  } catch {
    return null;
  }
}

/** Keep a file and answer the number that it is recalled by. */
export async function keep(file) {
  const numbers = (await stored("readonly", (store) => store.getAllKeys())) ?? [];
  const known = [...numbers, ...held.keys()].filter(Number.isInteger);
  const number = Math.max(Date.now(), ...known.map((one) => one + 1));
  held.set(number, [file]);
  await stored("readwrite", (store) => store.put([file], number));
  for (const old of numbers.filter(Number.isInteger).slice(0, -KEPT)) {
    await stored("readwrite", (store) => store.delete(old));
  }
  return number;
}

/** The file of a number; null if it was forgotten. */
export async function recall(number) {
  const files = held.get(number) ?? (await stored("readonly", (store) => store.get(number)));
  if (files) held.set(number, files);
  return files?.[0] ?? null;
}

/** Where an <img> finds a file. */
export function addressOf(number, file) {
  if (!addresses.has(number)) addresses.set(number, URL.createObjectURL(file));
  return addresses.get(number);
}

/** Give files to the page at /upload, which is on its way. */
export const handOver = (files) => stored("readwrite", (store) => store.put([...files], DROPPED));

/** The files that were handed over, once. */
export async function handedOver() {
  const files = await stored("readonly", (store) => store.get(DROPPED));
  if (files) await stored("readwrite", (store) => store.delete(DROPPED));
  return files ?? [];
}

/** Forget everything. */
export async function forgetAll() {
  held.clear();
  await stored("readwrite", (store) => store.clear());
}
