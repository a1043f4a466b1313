// Looks at the bytes that lie around after the story: what the broker stored, and what it must not have.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";

const LINE_BYTES = 16;

/** Every regular file below `dir`. */
export function files(dir) {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

/** Which of the texts stand in the files below `dir` that are meant, in plain form, as base64 or as hex. */
export function leaks(dir, texts, isMeant = () => true) {
  const found = [];
  for (const file of files(dir).filter(isMeant)) {
    const bytes = readFileSync(file);
    for (const text of texts) {
      const forms = [Buffer.from(text), Buffer.from(Buffer.from(text).toString("hex"))];
      // A text inside base64 may begin at any of three offsets; the ends that depend on neighbours are cut off.
      for (const offset of [0, 1, 2]) {
        const encoded = Buffer.concat([Buffer.alloc(offset), Buffer.from(text)]).toString("base64");
        forms.push(Buffer.from(encoded.slice(offset === 0 ? 0 : 4, -4)));
      }
      if (forms.some((form) => form.length >= 8 && bytes.includes(form))) {
        found.push(`${relative(dir, file)}: ${text}`);
      }
    }
  }
  return found;
}

/** The bytes around `needle` in the first database file below `dir` that holds it, as a hex dump. */
export function dump(dir, needle, lines = 10) {
  const databases = files(dir).filter((file) => /\.db(-wal)?$|\.sqlite3?(-wal)?$/.test(file));
  for (const file of databases) {
    const bytes = readFileSync(file);
    const at = bytes.indexOf(needle);
    if (at < 0) continue;
    const start = at - (at % LINE_BYTES);
    const rows = [];
    for (let row = start; row < Math.min(bytes.length, start + lines * LINE_BYTES); row += LINE_BYTES) {
      const part = bytes.subarray(row, row + LINE_BYTES);
      const hex = [...part].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
      const text = [...part].map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
      rows.push(`${row.toString(16).padStart(8, "0")}  ${hex.padEnd(LINE_BYTES * 3 - 1)}  ${text}`);
    }
    return { file: relative(dir, file), rows };
  }
  return undefined;
}

/** Bytes of all files below `dir`. */
export function size(dir) {
  return files(dir).reduce((sum, file) => sum + statSync(file).size, 0);
}
