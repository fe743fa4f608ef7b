// A consumer in another language: what nats_to_maildir.py does, for Node.js.
//
//     npm install nats@2
//     node nats_to_maildir.mjs nats://127.0.0.1:4222 MAIL ./mail
//
// Unlike the other one, it wants the durable consumer `maildir` to exist.

import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeFileSync } from "node:fs";
import { crc32 } from "node:zlib";
import { connect } from "nats";

const [servers, stream, directory] = process.argv.slice(2);

function read(octets) {
  const record = Buffer.from(octets);
  const end = record.indexOf(10);
  const [word, version, envelopeSize, messageSize, check] = record.toString("ascii", 0, end).split(" ");
  const rest = record.subarray(end + 1);
  if (word !== "fastsmtp-record" || version !== "1") throw new Error("not a record, or one of a newer version");
  if (rest.length !== Number(envelopeSize) + Number(messageSize) || crc32(rest) !== parseInt(check, 16)) {
    throw new Error("a damaged record");
  }
  const envelope = JSON.parse(rest.toString("utf8", 0, Number(envelopeSize)));
  // Otherwise the message here is the gateway's headers alone.
  if (envelope.body !== undefined) throw new Error(`its body is in the body store, as ${envelope.body}`);
  return [envelope, rest.subarray(Number(envelopeSize))];
}

function synced(path, flags, octets) {
  const descriptor = openSync(path, flags);
  if (octets !== undefined) writeFileSync(descriptor, octets);
  fsyncSync(descriptor);
  closeSync(descriptor);
}

function fileInto(envelope, message) {
  const text = message.toString("latin1").replaceAll("\r\n", "\n");
  const name = `${Math.floor(envelope.received)}.${encodeURIComponent(envelope.id)}.fastsmtp`;
  for (const { address } of envelope.rcpt_to) {
    const box = `${directory}/x.${encodeURIComponent(address.toLowerCase()).replaceAll("%40", "@")}`;
    for (const part of ["tmp", "new", "cur"]) mkdirSync(`${box}/${part}`, { recursive: true });
    synced(`${box}/tmp/${name}`, "w", Buffer.from(text, "latin1"));
    renameSync(`${box}/tmp/${name}`, `${box}/new/${name}`);
    synced(`${box}/new`, "r");
  }
}

const client = await connect({ servers: servers.split(","), maxReconnectAttempts: -1 });
const consumer = await client.jetstream().consumers.get(stream, "maildir");
console.log("ready");
for await (const message of await consumer.consume()) {
  try {
    fileInto(...read(message.data));
    message.ack();
  } catch (error) {
    console.error(`kept in the stream: ${error.message}`);
    message.nak(60_000);
  }
}
