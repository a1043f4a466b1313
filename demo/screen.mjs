// What the demo prints: one line a step with its time, colours only on a terminal.

const isColoured = process.stdout.isTTY && !process.env.NO_COLOR;
const paint = (code) => (text) => (isColoured ? `\u001b[${code}m${text}\u001b[0m` : text);

export const bold = paint("1");
export const dim = paint("2");
export const green = paint("32");
export const red = paint("31");
export const cyan = paint("36");

const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
const timings = [];

export function print(line = "") {
  process.stdout.write(`${line}\n`);
}

export function chapter(title) {
  print();
  print(bold(title));
}

export function detail(line) {
  print(dim(`    ${line}`));
}

/** Runs one step, prints how long it took, and remembers it for the table at the end. */
export async function step(title, work) {
  const started = performance.now();
  if (process.stdout.isTTY) process.stdout.write(`  … ${title}`);
  try {
    const result = await work();
    const took = performance.now() - started;
    timings.push({ title, took });
    if (process.stdout.isTTY) process.stdout.write("\r\u001b[K");
    print(`  ${green("✔")} ${title} ${dim(seconds(took))}`);
    return result;
  } catch (error) {
    if (process.stdout.isTTY) process.stdout.write("\r\u001b[K");
    print(`  ${red("✘")} ${title}`);
    throw error;
  }
}

export function table() {
  const width = Math.max(...timings.map(({ title }) => title.length));
  for (const { title, took } of timings) print(`  ${title.padEnd(width)}  ${seconds(took).padStart(8)}`);
  const total = timings.reduce((sum, { took }) => sum + took, 0);
  print(`  ${"in all".padEnd(width)}  ${seconds(total).padStart(8)}`);
}
