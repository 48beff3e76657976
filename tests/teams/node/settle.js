// Opens and settles a dispute and follows the events. Written from docs/messages.md and contracts/schemas/asyncapi.json.
//
//   KAFKA=localhost:9092 PREFIX=resolution. ASYNCAPI=asyncapi.json node settle.js <order id>
//
// Prints one JSON object per line: each outcome and each event of the order, in the order of their arrival.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { Kafka, logLevel } from "kafkajs";

const order = process.argv[2];
const contract = JSON.parse(readFileSync(process.env.ASYNCAPI, "utf8"));
const topic = (channel) => contract.channels[channel].address.replace("resolution.", process.env.PREFIX);

const kafka = new Kafka({ brokers: [process.env.KAFKA], logLevel: logLevel.ERROR });
const producer = kafka.producer({ idempotent: true });
const consumer = kafka.consumer({ groupId: `node-${randomUUID()}`, readUncommitted: false });

const seen = [];
let look = [];

function said(envelope) {
  seen.push(envelope);
  console.log(JSON.stringify(envelope));
  look = look.filter((found) => !found());
}

// The nth envelope that fits.
const until = (fits, nth = 1) =>
  new Promise((resolve) => {
    const found = () => {
      const envelope = seen.filter(fits)[nth - 1];
      if (envelope) resolve(envelope);
      return Boolean(envelope);
    };
    if (!found()) look.push(found);
  });

const event = (name) => until((envelope) => envelope.type === `resolution.event.${name}`);

async function send(name, data, id = randomUUID(), nth = 1) {
  const command = { specversion: "1.0", id, source: "/node", type: `resolution.command.${name}`, subject: order, data };
  const message = {
    key: order,
    value: JSON.stringify(command),
    headers: { "content-type": contract.defaultContentType },
  };
  await producer.send({ topic: topic("commands"), messages: [message] });
  return await until(({ type, causationid }) => type.startsWith("resolution.outcome.") && causationid === id, nth);
}

await producer.connect();
await consumer.connect();
await consumer.subscribe({ topics: [topic("events"), topic("outcomes")], fromBeginning: true });
await consumer.run({
  eachMessage: async ({ message }) => {
    if (message.key.toString() === order) said(JSON.parse(message.value.toString()));
  },
});

const price = { amount: 10000, currency: "USD" };
const due = new Date(Date.now() + 5 * 24 * 3600 * 1000).toISOString();
await send("RegisterOrder.v1", { client_id: "ann", freelancer_id: "ben", price, expected_delivery_at: due });

const offer = { actor: "ben", percent: 25, explanation: "One draft is late.", reason: "minor_dissatisfaction" };
const id = randomUUID();
await send("OfferPartialRefund.v2", offer, id);
await send("OfferPartialRefund.v2", offer, id, 2); // again: the same outcome, and nothing is done twice

const { dispute_id } = (await event("DisputeOpened.v1")).data;
await send("Accept.v1", { actor: "ben", dispute_id }); // rejected: it is his own offer
await send("Accept.v1", { actor: "ann", dispute_id, message: "Thank you." });
await event("PartialRefundGranted.v1");

await consumer.disconnect();
await producer.disconnect();
