// The main job of claudemesh, for real: two people, two daemons, one broker, one MCP client, and a look at the bytes.

import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Agent } from "./agent.mjs";
import { dump, leaks, size } from "./evidence.mjs";
import { Mismatch, Person, expect } from "./person.mjs";
import { bold, chapter, cyan, detail, dim, green, print, red, step, table } from "./screen.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const targetDir = process.env.CARGO_TARGET_DIR ?? join(here, "..", "target");
const binary = process.env.CLAUDEMESH_BIN ?? join(targetDir, "release", "claudemesh");
const keeps = Boolean(process.env.KEEP) && process.env.KEEP !== "0";

const root = mkdtempSync(join(realpathSync(tmpdir()), "cm-demo-"));
const ana = new Person("Ana", root, binary);
const ben = new Person("Ben", root, binary);
const brokerDir = join(ana.home, ".local", "share", "claudemesh-broker");
const pids = new Set();
let agent;

/** A sentence with a marker that stands nowhere else. */
const sentence = (text) => `${text} [${randomBytes(6).toString("hex")}]`;
const said = {
  hello: sentence("Hi Ben, welcome to the mesh"),
  reply: sentence("Hi Ana, glad to be here"),
  group: sentence("Makers, the demo is on"),
  away: sentence("Ben, read this when you are back"),
  urgent: sentence("Ben, the build is red, can you look"),
  answer: sentence("On it, Ana"),
};

function tells(from, to, text) {
  detail(`${cyan(from)} → ${cyan(to)}: ${text}`);
}

async function start() {
  chapter("1 · Ana starts everything on her machine");
  const bringUp = () => ana.json("up", "--name", "Ana");
  const up = await step("claudemesh up: broker, daemon, account, first mesh", bringUp);
  pids.add(up.broker.pid).add(up.daemon.pid);
  detail(`broker ${up.broker.url}, mesh ${up.mesh.slug}`);
  await step("a second up changes nothing", async () => {
    const again = await bringUp();
    expect(again.broker.pid === up.broker.pid && again.daemon.pid === up.daemon.pid, "up started something twice");
  });
  const invite = await step("claudemesh share: an invite for one person", () => ana.json("share"));
  detail(invite.url.replace(invite.code, `${invite.code.slice(0, 2)}…`));
  return { up, invite };
}

async function joinMesh(invite) {
  chapter("2 · Ben joins from another HOME");
  const joined = await step("claudemesh join <invite>", () => ben.json("join", invite.url, "--name", "Ben", "--yes"));
  await step("Ben's first command starts his daemon", async () => {
    await ben.json("peer", "list");
    const isOpen = ({ brokers }) => Object.values(brokers ?? {}).includes("open");
    const { pid } = await ben.until("connected", () => ben.json("daemon", "status"), isOpen);
    pids.add(pid);
  });
  await step("each sees the other in peer list", async () => {
    const sees = (other) => (peers) => peers.some((peer) => peer.displayName === other);
    await ana.until("saw Ben", () => ana.json("peer", "list"), sees("Ben"));
    await ben.until("saw Ana", () => ben.json("peer", "list"), sees("Ana"));
  });
  return joined;
}

async function talk() {
  chapter("3 · Messages");
  await step("Ana writes to Ben", async () => {
    await ana.json("send", "ben", said.hello);
    const item = await ben.receives(said.hello);
    expect(item.sender_name === "Ana" && item.sender_verified, "Ben cannot tell who wrote");
  });
  tells("Ana", "Ben", said.hello);
  await step("Ben answers", async () => {
    await ben.json("send", "ana", said.reply);
    const item = await ana.receives(said.reply);
    expect(item.sender_name === "Ben" && item.sender_verified, "Ana cannot tell who wrote");
  });
  tells("Ben", "Ana", said.reply);
  await step("both join the group @makers, Ana writes to it", async () => {
    await ana.json("group", "join", "@makers");
    await ben.json("group", "join", "@makers");
    const isMaker = (peer) => peer.displayName === "Ben" && peer.groups.some(({ name }) => name === "makers");
    await ana.until("saw Ben in @makers", () => ana.json("peer", "list"), (peers) => peers.some(isMaker));
    await ana.json("send", "@makers", said.group);
    const item = await ben.receives(said.group);
    expect(item.channel === "group", `a group message came as ${item.channel}`);
  });
  tells("Ana", "@makers", said.group);
}

async function away() {
  chapter("4 · Ben closes his laptop");
  await step("Ben's daemon stops", async () => {
    await ben.json("daemon", "down");
    await ana.until("saw Ben leave", () => ana.json("peer", "list"),
      (peers) => !peers.some((peer) => peer.displayName === "Ben"));
  });
  const sent = await step("Ana writes; the broker holds it, sealed", () => ana.json("send", "ben", said.away));
  expect(sent.recipient_online === false && sent.outcome === "queued", `held message reported as ${sent.outcome}`);
  tells("Ana", "Ben (away)", said.away);
  await step("Ben is back and has it", async () => {
    const up = await ben.json("daemon", "up");
    pids.add(up.pid);
    await ben.receives(said.away);
  });
  return sent;
}

async function push() {
  chapter("5 · An agent on Ben's machine, through the official MCP SDK");
  agent = new Agent(ben);
  await step("claudemesh mcp: handshake", async () => {
    await agent.connect();
    pids.add(agent.pid);
    const { name } = agent.client.getServerVersion();
    expect(name === "claudemesh", `the server calls itself ${name}`);
    const { experimental } = agent.client.getServerCapabilities();
    expect(experimental?.["claude/channel"] !== undefined, "the channel is not declared");
    expect((await agent.client.listTools()).tools.length === 0, "there are tools");
    expect(await agent.refusalOf("server/discover") === -32601, "server/discover is not refused");
  });
  const isWelcome = ({ meta }) => meta.kind === "welcome";
  const welcome = await step("the session is welcomed", () => agent.push("a welcome", isWelcome));
  detail(welcome.content.split("\n")[0]);
  const isUrgent = ({ content }) => content.includes(said.urgent);
  const event = await step("Ana's urgent message is pushed into the conversation", async () => {
    await ana.json("send", "ben", said.urgent, "--priority", "now");
    return agent.push("the urgent message", isUrgent);
  });
  expect(event.content === `[URGENT] Ana: ${said.urgent}`, `pushed as: ${event.content}`);
  for (const key of ["kind", "from_name", "from_pubkey", "mesh_slug", "priority", "message_id", "inbox_id"]) {
    expect(event.meta[key], `the attribute ${key} is missing`);
  }
  detail(event.content);
  const short = (value) => (value.length > 16 ? `${value.slice(0, 16)}…` : value);
  detail(Object.entries(event.meta).map(([key, value]) => `${key}=${short(value)}`).join(" "));
  await step("the agent answers with the name it was given", async () => {
    await ben.json("send", event.meta.from_name, said.answer);
    await ana.receives(said.answer);
  });
  tells("Ben", "Ana", said.answer);
  expect(agent.count(isUrgent) === 1, "the message was pushed twice");
  return event;
}

async function look(invite, sent, event) {
  chapter("6 · What the broker saw");
  const texts = Object.values(said);
  await step("no text of any message in the broker's files", () => {
    const found = leaks(brokerDir, texts);
    expect(found.length === 0, `plain text at the broker: ${found.join(", ")}`);
    expect(size(brokerDir) > 0, `the broker stored nothing in ${brokerDir}`);
  });
  await step("no secret key of Ana or Ben there either", () => {
    const found = leaks(brokerDir, [...ana.secrets(), ...ben.secrets()]);
    expect(found.length === 0, `secrets at the broker: ${found.length}`);
  });
  await step("no invite code in Ben's files", () => {
    const found = leaks(ben.home, [invite.code]);
    expect(found.length === 0, `the invite code is in ${found.join(", ")}`);
  });
  await step("no text and no secret in any log of either", () => {
    const isLog = (file) => file.endsWith(".log");
    const hidden = [...texts, ...ana.secrets(), ...ben.secrets(), invite.code];
    const found = [ana.home, ben.home].flatMap((home) => leaks(home, hidden, isLog));
    expect(found.length === 0, `in a log: ${found.join(", ")}`);
  });
  const status = await ana.json("message", "status", sent.broker_message_id ?? sent.client_message_id);
  const rungs = status.recipients.map((recipient) => `${recipient.name}: ${recipient.status}`);
  detail(`message ${status.messageId} → ${rungs.join(", ")}`);
  const bytes = dump(brokerDir, event.meta.message_id);
  expect(bytes !== undefined, "the urgent message is not in the broker's database");
  print(dim(`    the urgent message in ${bytes.file}:`));
  for (const row of bytes.rows) print(dim(`    ${row}`));
}

async function stop() {
  await agent?.close().catch(() => undefined);
  await ben.run("daemon", "down");
  await ana.run("down");
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended by itself, as it should.
    }
  }
  rmSync(root, { recursive: true, force: true, maxRetries: 5 });
}

function whatNext() {
  chapter("Everything is still running. Try, in two terminals:");
  const line = (person, rest) => print(`  HOME=${person.home} ${binary} ${rest}`);
  line(ana, 'send ben "your own words"');
  line(ben, "inbox");
  line(ana, "peer list");
  print(dim("  stop it and remove its files:"));
  print(`  HOME=${ben.home} ${binary} daemon down; HOME=${ana.home} ${binary} down; rm -r ${root}`);
}

async function story() {
  expect(existsSync(binary), `no binary at ${binary}; run: make build`);
  print(bold("claudemesh demo") + dim(`  ${binary}`));
  const { invite } = await start();
  await joinMesh(invite);
  await talk();
  const sent = await away();
  const event = await push();
  await look(invite, sent, event);
  chapter("Timings");
  table();
}

for (const [signal, number] of [["SIGINT", 2], ["SIGTERM", 15], ["SIGHUP", 1]]) {
  process.once(signal, async () => {
    await stop();
    process.exit(128 + number);
  });
}

try {
  await story();
  if (keeps) {
    await agent.close();
    whatNext();
  } else {
    await step("everything stopped and removed", stop);
  }
  print();
  print(green("Everything went as it should."));
} catch (error) {
  print();
  print(red(error instanceof Mismatch ? error.message : error.stack));
  if (keeps) print(dim(`files are left in ${root}`));
  else await stop();
  process.exitCode = 1;
}
