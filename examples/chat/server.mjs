// The web server: the page, and /auth, which signs token requests for whoever has a name.
import { fileURLToPath } from 'node:url';
import Ably from 'ably';
import express from 'express';

const key = process.env.SERVER_KEY ?? 'chat.server:for-trying-out-1';
const [endpoint, port] = (process.env.RINGCAST_ADDRESS ?? '127.0.0.1:8080').split(':');
const daemon = { endpoint, port: Number(port), tls: process.env.RINGCAST_TLS === '1' };

/** What a visitor may do: say something to the function, read what it lets through, be present. */
const rights = { 'chat:from-clients': ['publish'], 'chat:to-clients': ['subscribe', 'history', 'presence'] };
const capability = Object.fromEntries(
  Object.entries(rights).flatMap(([channel, may]) => [[channel, may], [`${channel}:*`, may]]), // and its rooms
);

export function webServer() {
  const rest = new Ably.Rest({ key, ...daemon });
  const app = express();
  const file = (path) => fileURLToPath(new URL(path, import.meta.url));
  app.get('/auth', async (request, response) => {
    const clientId = String(request.query.name ?? '').trim();
    // A real application knows who is logged in; this one believes what it is told.
    if (!/^[\p{L}\p{N}_ -]{1,32}$/u.test(clientId)) return response.status(400).json({ error: 'a name, please' });
    response.json(await rest.auth.createTokenRequest({ clientId, capability }));
  });
  app.get('/daemon.json', (_, response) => response.json(daemon));
  app.get('/ably.js', (_, response) => response.sendFile(file('node_modules/ably/build/ably.min.js')));
  app.use(express.static(file('public')));
  return app;
}
