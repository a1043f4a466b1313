// An MCP client on the official SDK that starts `claudemesh mcp` and records what is pushed into it.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { EmptyResultSchema } from "@modelcontextprotocol/sdk/types.js";
import { expect } from "./person.mjs";

const METHOD = "notifications/claude/channel";
const ATTRIBUTE_NAME = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

/** What the real client checks before it shows a notification; it drops one that fails, silently. */
function check({ content, meta }) {
  expect(typeof content === "string" && content.length > 0, "a notification without text");
  for (const [key, value] of Object.entries(meta)) {
    expect(ATTRIBUTE_NAME.test(key), `attribute ${key} has no name a client accepts`);
    expect(typeof value === "string", `attribute ${key} is no string`);
  }
}

export class Agent {
  #pushes = [];
  #waiting = new Set();
  #faults = [];

  constructor(person) {
    this.person = person;
    this.client = new Client({ name: "claudemesh-demo", version: "1.0.0" }, { capabilities: {} });
    this.client.fallbackNotificationHandler = async ({ method, params }) => {
      if (method !== METHOD) return;
      try {
        check(params);
      } catch (fault) {
        this.#faults.push(fault);
      }
      this.#pushes.push(params);
      for (const look of this.#waiting) look();
    };
    this.transport = new StdioClientTransport({
      command: person.binary,
      args: ["mcp"],
      env: person.env,
      cwd: person.home,
      stderr: "pipe",
    });
  }

  async connect() {
    await this.client.connect(this.transport);
  }

  get pid() {
    return this.transport.pid;
  }

  /** The code with which the server refuses a request it does not know. */
  async refusalOf(method) {
    try {
      await this.client.request({ method, params: {} }, EmptyResultSchema, { timeout: 1_000 });
    } catch (error) {
      return error.code;
    }
    return undefined;
  }

  /** The first push, past or to come, of which `holds` is true. */
  push(what, holds, patienceMs = 15_000) {
    return new Promise((resolve, reject) => {
      let timer;
      const look = () => {
        const found = this.#faults.length === 0 && this.#pushes.find(holds);
        if (!found && this.#faults.length === 0) return;
        clearTimeout(timer);
        this.#waiting.delete(look);
        if (found) resolve(found);
        else reject(this.#faults[0]);
      };
      timer = setTimeout(() => {
        this.#waiting.delete(look);
        reject(new Error(`never pushed: ${what}; pushed so far: ${JSON.stringify(this.#pushes)}`));
      }, patienceMs);
      this.#waiting.add(look);
      look();
    });
  }

  count(holds) {
    return this.#pushes.filter(holds).length;
  }

  async close() {
    await this.client.close();
  }
}
