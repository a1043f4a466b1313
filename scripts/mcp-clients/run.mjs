// Official MCP clients list claudemesh's tools, call some of each family and read its resource: the TypeScript SDK in
// every revision, the MCP Inspector's command line and the Python SDK, against a real daemon and broker in a HOME of its
// own.

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const TOOLS = "messaging,profile,groups,state,mesh,security,administration";
const UNREAD = "inbox://claudemesh/unread";
/** Every revision that the server speaks, newest first; the SDK itself would only ask for the newest. */
const REVISIONS = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const PATIENCE_MS = 120_000;

const here = dirname(fileURLToPath(import.meta.url));
const targetDir = process.env.CARGO_TARGET_DIR ?? join(here, "..", "..", "target");
const binary = process.env.CLAUDEMESH_BIN ?? join(targetDir, "debug", "claudemesh");
const python = process.env.CLAUDEMESH_PYTHON ?? join(here, ".venv", "bin", "python");
const calls = JSON.parse(readFileSync(join(here, "calls.json"), "utf8"));
const root = mkdtempSync(join(realpathSync(tmpdir()), "cm-clients-"));
const home = join(root, "home");
// Nothing of the caller's own mesh or session may shine through.
const env = { HOME: home, USER: "ana", LOGNAME: "ana", PATH: process.env.PATH, LANG: "C.UTF-8", NO_COLOR: "1", TMPDIR: root };

async function run(command, ...args) {
  const options = { env, cwd: home, timeout: PATIENCE_MS, maxBuffer: 16 * 1024 * 1024 };
  return (await promisify(execFile)(command, args, options)).stdout;
}

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

function check(call, result, isStructured = true) {
  const shown = JSON.stringify(result);
  expect(!result.isError, `${call.tool}: ${shown}`);
  const told = JSON.parse(result.content[0].text);
  expect(call.has in told, `${call.tool} without ${call.has}: ${shown}`);
  expect(isStructured === ("structuredContent" in result), `${call.tool}: ${shown}`);
  if (isStructured) {
    expect(result.content[0].text === JSON.stringify(result.structuredContent), `${call.tool}: two results: ${shown}`);
  }
}

/** Asks for another revision than the newest. */
class InRevision extends StdioClientTransport {
  constructor(revision, ...args) {
    super({ command: binary, args: ["mcp", "--tools", TOOLS, ...args], env, cwd: home });
    this.revision = revision;
  }

  send(message) {
    if (message.method === "initialize") message.params.protocolVersion = this.revision;
    return super.send(message);
  }
}

/** The TypeScript SDK in every revision: it checks every result against the tool's output schema by itself. */
async function typescript() {
  let tools;
  for (const revision of REVISIONS) {
    const client = new Client({ name: "claudemesh-check", version: "1.0.0" }, { capabilities: {} });
    await client.connect(new InRevision(revision));
    try {
      tools = (await client.listTools()).tools;
      const isStructured = revision >= "2025-06-18";
      for (const call of calls) {
        check(call, await client.callTool({ name: call.tool, arguments: call.arguments }), isStructured);
      }
      const missing = await client.callTool({ name: "get_state", arguments: { key: "nothing-there" } });
      expect(missing.isError && missing.content[0].text.startsWith("not_found"), JSON.stringify(missing));
      const refused = await client.callTool({ name: "get_state", arguments: { key: 5 } }).catch((error) => error);
      expect(refused.code === -32602, `a wrong argument was not refused: ${refused}`);
      expect((await client.listPrompts()).prompts.length === 0, "prompts out of nowhere");
      const { resources } = await client.listResources();
      expect(resources.some((resource) => resource.uri === UNREAD), JSON.stringify(resources));
      await client.subscribeResource({ uri: UNREAD });
      const { contents } = await client.readResource({ uri: UNREAD });
      expect("remaining" in JSON.parse(contents[0].text), JSON.stringify(contents));
    } finally {
      await client.close();
    }
  }
  return { tools: tools.length, calls: calls.length, revisions: REVISIONS };
}

/** The same with text for people: their words beside the same structure. */
async function humanText() {
  const client = new Client({ name: "claudemesh-check", version: "1.0.0" }, { capabilities: {} });
  await client.connect(new InRevision(REVISIONS[0], "--tool-text", "human"));
  try {
    await client.listTools();
    const set = await client.callTool({ name: "set_state", arguments: { key: "sprint", value: 15 } });
    expect(set.structuredContent.value === 15 && set.content[0].text.includes("sprint = 15"), JSON.stringify(set));
    return { text: set.content[0].text.trim() };
  } finally {
    await client.close();
  }
}

/** The Inspector starts a server for each call, with the settings that `mcp print-config` prints. */
async function inspector() {
  const settings = JSON.parse(await run(binary, "mcp", "print-config", "json"));
  const server = settings.mcpServers.claudemesh;
  server.args[server.args.indexOf("--tools") + 1] = TOOLS;
  const config = join(root, "inspector.json");
  writeFileSync(config, JSON.stringify(settings));
  const inspect = (...args) => run(join(here, "node_modules", ".bin", "mcp-inspector"),
    "--cli", "--config", config, "--server", "claudemesh", "--method", ...args);
  const { tools } = JSON.parse(await inspect("tools/list", "--strict"));
  for (const call of calls) {
    const pairs = Object.entries(call.arguments).flatMap(([name, value]) =>
      ["--tool-arg", `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`]);
    check(call, JSON.parse(await inspect("tools/call", "--tool-name", call.tool, ...pairs)));
  }
  for (const list of ["prompts/list", "resources/list", "resources/templates/list"]) JSON.parse(await inspect(list));
  const { contents } = JSON.parse(await inspect("resources/read", "--uri", UNREAD));
  expect(contents[0].uri === UNREAD, JSON.stringify(contents));
  return { tools: tools.length, calls: calls.length };
}

async function pythonSdk() {
  return JSON.parse(await run(python, join(here, "client.py"), binary, TOOLS));
}

expect(existsSync(binary), `${binary} is missing: cargo build -p claudemesh`);
mkdirSync(home, { recursive: true, mode: 0o700 });
const clients = { "TypeScript SDK": typescript, "human text": humanText, Inspector: inspector, "Python SDK": pythonSdk };
let failures = 0;
try {
  await run(binary, "up", "--name", "Ana");
  for (const [name, client] of Object.entries(clients)) {
    try {
      console.log(`✔ ${name.padEnd(15)} ${JSON.stringify(await client())}`);
    } catch (error) {
      failures += 1;
      console.log(`✘ ${name.padEnd(15)} ${error.message}\n${error.stderr ?? ""}${error.stdout ?? ""}`);
    }
  }
} finally {
  await run(binary, "down", "--yes").catch((error) => console.error(error.stderr ?? error));
  rmSync(root, { recursive: true, force: true });
}
process.exitCode = failures === 0 ? 0 : 1;
