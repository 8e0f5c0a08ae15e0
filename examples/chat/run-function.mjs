// Runs a function as a Function URL does: one HTTP request, one event, payload format 2.0.
import { createServer } from 'node:http';

/** Serves `handler` on 127.0.0.1; resolves to the server once it listens. */
export function runFunction(handler, port) {
  const server = createServer(async (request, response) => {
    try {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const isText = /^(text\/|application\/json)/.test(request.headers['content-type'] ?? '');
      const body = Buffer.concat(chunks);
      const result = await handler({
        version: '2.0',
        rawPath: request.url,
        headers: request.headers,
        requestContext: { http: { method: request.method, path: request.url } },
        body: body.toString(isText ? 'utf8' : 'base64'),
        isBase64Encoded: !isText,
      });
      response.writeHead(result.statusCode, result.headers).end(result.body ?? '');
    } catch (error) {
      console.error('the function has failed:', error.message);
      response.writeHead(502).end();
    }
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}
