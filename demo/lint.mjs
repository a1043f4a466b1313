// Checks the demo's own scripts without running them: they parse, and none is longer than the house allows.

import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const MAX_LINES = 300;
const here = dirname(fileURLToPath(import.meta.url));
const scripts = readdirSync(here).filter((name) => name.endsWith(".mjs"));
let faults = 0;

function fault(text) {
  faults += 1;
  process.stderr.write(`${text}\n`);
}

for (const name of scripts) {
  const text = readFileSync(join(here, name), "utf8");
  const lines = text.split("\n");
  try {
    execFileSync(process.execPath, ["--check", join(here, name)], { stdio: "pipe" });
  } catch (error) {
    fault(`${name}: ${error.stderr}`);
  }
  if (!text.startsWith("// ")) fault(`${name}: no header sentence`);
  if (lines.length > MAX_LINES) fault(`${name}: ${lines.length} lines`);
  lines.forEach((line, index) => {
    if (line.length > 120) fault(`${name}:${index + 1}: longer than 120 characters`);
    if (/\s$/.test(line)) fault(`${name}:${index + 1}: blank at the end`);
  });
}
process.stdout.write(`demo scripts: ${scripts.length} checked, ${faults} faults\n`);
process.exitCode = faults === 0 ? 0 : 1;
