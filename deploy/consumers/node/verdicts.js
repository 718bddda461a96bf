// Read verdicts and say what to do with each image: one JSON line a verdict. An example to start from.
//
//     npm install --omit=dev
//     node verdicts.js --bootstrap localhost:9092 --group my-service --out actions.jsonl
//
// What every consumer must do, in this language or another, is in docs/consumers.md.

"use strict";

const fs = require("node:fs");
const { parseArgs } = require("node:util");
const { decompress } = require("fzstd");
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require("kafkajs");

const TYPE = "genprint.verdict.v1";
const ACTIONS = new Set(["allow", "review", "block"]);
const DECISIONS = new Set(["real", "generated", "unsure"]);
const REASONS = new Set([
  "ambiguous_rendering",
  "animated_first_frame",
  "conflict",
  "detector_unsure",
  "image_too_small",
  "no_template",
  "views_disagree",
]);

// kafkajs brings gzip alone, and the topic of verdicts is compressed with zstd.
CompressionCodecs[CompressionTypes.ZSTD] = () => ({ decompress: async (bytes) => Buffer.from(decompress(bytes)) });

// Read until SIGTERM or Ctrl-C.
async function main() {
  const { bootstrap, topic, group, out } = readArguments();
  const actions = new Actions(out);
  const kafka = new Kafka({ brokers: bootstrap.split(","), clientId: group, logLevel: logLevel.ERROR });
  const consumer = kafka.consumer({
    groupId: group,
    readUncommitted: false, // verdicts of an aborted transaction were never given
  });
  const stop = () => consumer.disconnect().then(() => process.exit(0));
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (!payload.restart) {
      console.error(payload.error);
      process.exit(1);
    }
  });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch, heartbeat, isStale }) => {
      if (isStale() || batch.messages.length === 0) return;
      for (const message of batch.messages) {
        actions.take(actionFor(message, `${batch.topic}/${batch.partition}/${message.offset}`));
      }
      actions.keep();
      await heartbeat();
      const offset = String(BigInt(batch.lastOffset()) + 1n);
      await consumer.commitOffsets([{ topic: batch.topic, partition: batch.partition, offset }]); // last
    },
  });
}

// What to do about a verdict, and why if that is not what the verdict says.
function actionFor(message, place) {
  const headers = Object.fromEntries(
    Object.entries(message.headers ?? {}).map(([name, value]) => [name, String(Array.isArray(value) ? value.at(-1) : value)]),
  );
  const unknown = [];
  let verdict = null;
  try {
    verdict = JSON.parse(String(message.value ?? ""));
  } catch {
    unknown.push("not JSON");
  }
  if (headers.ce_type !== TYPE) unknown.push(`type ${headers.ce_type}`);
  const { verdict_id: id, action, event, generated, attribution } = part(verdict);
  const { decision, reasons, probability } = part(generated);
  if (!ACTIONS.has(action)) unknown.push(`action ${action}`);
  if (!DECISIONS.has(decision)) unknown.push(`decision ${decision}`);
  if (Array.isArray(reasons)) {
    unknown.push(...reasons.filter((reason) => !REASONS.has(reason)).map((reason) => `reason ${reason}`));
  } else {
    unknown.push("reasons");
  }
  return {
    verdict_id: text(id) || headers.ce_id || place,
    subject: text(part(event).subject),
    action: unknown.length > 0 ? "review" : action,
    decision: text(decision),
    probability: typeof probability === "number" ? probability : null,
    source: text(part(attribution).source),
    unknown,
  };
}

// An object, or an empty one where there is none. Fields that nobody here asks for do no harm.
function part(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
}

function text(value) {
  return typeof value === "string" ? value : null;
}

// Every verdict once, by its id: the lines that are in the file already are what was done. In a service this is a table
// with a unique key. Without a file repetitions are known only while this runs.
class Actions {
  constructor(path) {
    this.done = new Set();
    this.lines = [];
    this.path = path;
    if (path === undefined) return;
    this.file = fs.openSync(path, "a+");
    const written = fs.readFileSync(path);
    const whole = written.lastIndexOf(10) + 1;
    fs.ftruncateSync(this.file, whole); // half a line is what a crash leaves
    const lines = written.subarray(0, whole).toString().split("\n").filter(Boolean);
    this.done = new Set(lines.map((line) => JSON.parse(line).verdict_id));
  }

  // Write it, unless it was there before.
  take(action) {
    if (this.done.has(action.verdict_id)) return;
    this.done.add(action.verdict_id);
    this.lines.push(`${JSON.stringify(action)}\n`);
  }

  // Make it last.
  keep() {
    fs.writeSync(this.file ?? 1, this.lines.join(""));
    if (this.file !== undefined) fs.fsyncSync(this.file);
    this.lines = [];
  }
}

function readArguments() {
  const { values } = parseArgs({
    options: {
      bootstrap: { type: "string", default: "localhost:9092" },
      topic: { type: "string", default: "verdicts" },
      group: { type: "string" },
      out: { type: "string" },
    },
  });
  if (values.group === undefined) {
    console.error("usage: node verdicts.js --group GROUP [--bootstrap HOST:PORT] [--topic TOPIC] [--out FILE]");
    process.exit(2);
  }
  return values;
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
