// node subscribe.mjs: prints every message of the channel `hello`.
import Ably from 'ably';
import { options } from './server.mjs';

const client = new Ably.Realtime(options);
client.connection.on('failed', ({ reason }) => {
  console.error(reason.message);
  process.exit(1);
});
await client.channels.get('hello').subscribe(({ name, data }) => console.log(name, data));
console.log('subscribed to hello; publish with ./publish.sh');
