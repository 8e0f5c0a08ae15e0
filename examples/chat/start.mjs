// Everything of the example but the daemon: the web server and the function.
import { handler } from './handler.mjs';
import { runFunction } from './run-function.mjs';
import { webServer } from './server.mjs';

const port = Number(process.env.PORT ?? 3000);
const functionPort = Number(process.env.FUNCTION_PORT ?? 3001);
await runFunction(handler, functionPort);
const server = webServer().listen(port, '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`open http://127.0.0.1:${server.address().port}/ (the function is on port ${functionPort})`);
});
