// node serve.mjs: serves index.html and Ably's SDK to a browser, and prints the page's address.
// The key travels behind the `#`, which browsers keep to themselves.
import { createReadStream } from 'node:fs';
import { createServer } from 'node:http';
import { options } from './server.mjs';

const files = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/node_modules/ably/build/ably.min.js': ['node_modules/ably/build/ably.min.js', 'text/javascript'],
};

const server = createServer((request, response) => {
  const file = files[request.url];
  if (!file) {
    response.writeHead(404).end();
    return;
  }
  const [path, type] = file;
  response.writeHead(200, { 'Content-Type': type });
  createReadStream(new URL(path, import.meta.url)).pipe(response);
});

server.listen(Number(process.env.PORT ?? 8000), '127.0.0.1', () => {
  const { key, endpoint, port } = options;
  const fragment = new URLSearchParams({ key, endpoint, port });
  console.log(`open http://127.0.0.1:${server.address().port}/#${fragment}`);
});
