/** Searches as a command and as a program; `$AKIN_API_KEY` stands for the key. */

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const indented = (value) => JSON.stringify(value, null, 2);
const curl = () => `curl ${location.origin}/v1/search \\\n  -H "Authorization: Bearer $AKIN_API_KEY"`;
const LITERALS = new Map([[true, "True"], [false, "False"], [null, "None"]]);

/** Stands for the bytes of an upload, which nobody wants to read. */
export const placeholder = (name) => `BASE64 OF ${name}`;

/** A search with one file. */
export function curlForm(name, { paged, ...fields }) {
  const parts = [`image=@${name}`, ...Object.entries(fields).map(([field, value]) => `${field}=${text(value)}`)];
  return curl() + parts.map((part) => ` \\\n  -F ${quoted(part)}`).join("");
}

const text = (value) => (typeof value === "object" ? JSON.stringify(value) : value);

/** A search whose body is JSON. */
export const curlJson = (body) =>
  `${curl()} \\\n  -H "Content-Type: application/json" \\\n  -d ${quoted(indented(body))}`;

/** JSON as Python writes it. */
function literal(value, margin = "") {
  const inner = `${margin}    `;
  const lines = (open, members, close) =>
    `${open}\n${members.map((one) => `${inner}${one},\n`).join("")}${margin}${close}`;
  if (Array.isArray(value)) return lines("[", value.map((one) => literal(one, inner)), "]");
  if (typeof value !== "object" || value === null) return LITERALS.get(value) ?? indented(value);
  return lines("{", Object.entries(value).map(([name, one]) => `${indented(name)}: ${literal(one, inner)}`), "}");
}

/** A search in Python. */
export function python(body, names) {
  let json = literal(body, "    ");
  for (const name of names) {
    json = json.replace(indented(placeholder(name)), () => `b64encode(Path(${indented(name)}).read_bytes()).decode()`);
  }
  const imports = names.length ? "import os\nfrom base64 import b64encode\nfrom pathlib import Path\n" : "import os\n";
  return `${imports}
import httpx

answer = httpx.post(
    "${location.origin}/v1/search",
    headers={"Authorization": f"Bearer {os.environ['AKIN_API_KEY']}"},
    json=${json},
    timeout=30,
)
answer.raise_for_status()
for hit in answer.json()["hits"]:
    print(f"{hit['score']:.3f}", hit["item"]["item_id"])`;
}
