// One person of the demo: a HOME of their own and the real binary, run in it.

import { execFile } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const COMMAND_TIMEOUT_MS = 30_000;
const POLL_MS = 50;

/** A command of the demo failed or answered something else than promised. */
export class Mismatch extends Error {}

export function expect(holds, what) {
  if (!holds) throw new Mismatch(what);
}

export class Person {
  constructor(name, root, binary) {
    this.name = name;
    this.home = join(root, name.toLowerCase());
    this.binary = binary;
    mkdirSync(this.home, { recursive: true, mode: 0o700 });
    // Nothing of the caller's own mesh, session or build machine may shine through.
    this.env = {
      HOME: this.home,
      USER: name.toLowerCase(),
      LOGNAME: name.toLowerCase(),
      PATH: process.env.PATH,
      LANG: "C.UTF-8",
      NO_COLOR: "1",
      TMPDIR: root,
    };
  }

  /** Runs `claudemesh <args> --json` and returns the parsed answer. */
  async json(...args) {
    const { status, stdout, stderr } = await this.run(...args, "--json");
    expect(status === 0, `${this.name}: claudemesh ${args.join(" ")} ended with ${status}\n${stdout}${stderr}`);
    try {
      return JSON.parse(stdout);
    } catch {
      throw new Mismatch(`${this.name}: claudemesh ${args.join(" ")} printed no JSON:\n${stdout}${stderr}`);
    }
  }

  run(...args) {
    const options = { env: this.env, cwd: this.home, timeout: COMMAND_TIMEOUT_MS, encoding: "utf8" };
    return new Promise((resolve) => {
      execFile(this.binary, args, options, (error, stdout, stderr) => {
        resolve({ status: error ? (error.code ?? error.signal ?? 1) : 0, stdout, stderr });
      });
    });
  }

  /** Asks again until `holds` is true of the answer; the answer. */
  async until(what, ask, holds, patienceMs = 15_000) {
    const deadline = Date.now() + patienceMs;
    for (;;) {
      const answer = await ask();
      if (holds(answer)) return answer;
      expect(Date.now() < deadline, `${this.name}: never ${what}; last answer: ${JSON.stringify(answer)}`);
      await sleep(POLL_MS);
    }
  }

  /** Waits for a message with this text and returns it. */
  async receives(text, patienceMs) {
    const ask = () => this.json("inbox", "--peek", "--limit", "50");
    const items = await this.until(
      `received "${text}"`, ask, (rows) => rows.some((row) => row.body === text), patienceMs);
    const copies = items.filter((row) => row.body === text);
    expect(copies.length === 1, `${this.name}: "${text}" is in the inbox ${copies.length} times`);
    return copies[0];
  }

  /** Secret keys and root keys of this person, as they stand in config.json. */
  secrets() {
    const config = JSON.parse(readFileSync(join(this.home, ".claudemesh", "config.json"), "utf8"));
    return config.meshes.flatMap((mesh) => [mesh.secretKey, mesh.rootKey]).filter(Boolean);
  }
}
