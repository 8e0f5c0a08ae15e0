// Shared by the two scripts: where the daemon is and which key to use, from the environment.
const [endpoint, port] = (process.env.RINGCAST_ADDRESS ?? '127.0.0.1:8080').split(':');
const key = process.env.RINGCAST_KEY;
if (!key) {
  console.error("set RINGCAST_KEY to the key that `ringcast serve` has printed:\n\n  export RINGCAST_KEY='app.key:secret'\n");
  process.exit(1);
}

/** Options of an Ably client: nothing but the host, the port and the key differ from the cloud. */
export const options = { key, endpoint, port: Number(port), tls: false };
