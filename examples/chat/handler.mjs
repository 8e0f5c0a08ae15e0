// The function: gets each message of chat:from-clients, masks what is banned, and publishes the rest to
// chat:to-clients. The event is that of an AWS Lambda Function URL, so it runs there as it is.
import { createHmac, timingSafeEqual } from 'node:crypto';
import Ably from 'ably';

const BANNED = ['darn', 'heck'];
const FROM = 'chat:from-clients';
const TO = 'chat:to-clients';

const key = process.env.FUNCTION_KEY ?? 'chat.function:for-trying-out-2';
let rest;

/** REST with a Basic key. */
function client() {
  const [endpoint, port] = (process.env.RINGCAST_ADDRESS ?? '127.0.0.1:8080').split(':');
  rest ??= new Ably.Rest({ key, endpoint, port: Number(port), tls: process.env.RINGCAST_TLS === '1', logLevel: 1 });
  return rest;
}

export function mask(text) {
  const words = new RegExp(`\\b(${BANNED.join('|')})\\b`, 'gi');
  return text.replace(words, (word) => '*'.repeat(word.length));
}

/** Whether the request is from the daemon: it signs with the function's key, as the rule says. */
function isGenuine(body, signature) {
  const [, secret] = key.split(/:(.*)/s);
  const expected = createHmac('sha256', secret).update(body).digest();
  const given = Buffer.from(signature ?? '', 'base64');
  return given.length === expected.length && timingSafeEqual(given, expected);
}

export async function handler(event) {
  const body = Buffer.from(event.body ?? '', event.isBase64Encoded ? 'base64' : 'utf8');
  if (!isGenuine(body, event.headers['x-ably-signature'])) return { statusCode: 403, body: 'not signed' };
  const envelope = JSON.parse(body);
  if (!envelope.channel?.startsWith(FROM)) return { statusCode: 400, body: 'another channel' };
  const channel = TO + envelope.channel.slice(FROM.length);
  const messages = await Ably.Rest.Message.fromEncodedArray(envelope.messages);
  const masked = messages.map(({ id, name, clientId, data }) => ({
    // The id it had: should this event be delivered twice, the second publish is recognised.
    id,
    name,
    clientId,
    data: typeof data === 'string' ? mask(data) : { ...data, text: mask(String(data?.text ?? '')) },
  }));
  // An error is a failed invocation, and those are repeated by the daemon.
  await client().channels.get(channel).publish(masked);
  return { statusCode: 200 };
}
