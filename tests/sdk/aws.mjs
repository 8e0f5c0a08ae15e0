// A stand-in for what of AWS a rule talks to: functions by URL and by name, roles, and the services that tell a
// container or a machine its keys. Signatures are computed again by AWS's own library for JavaScript.
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { Sha256 } from '@aws-crypto/sha256-js';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';

export const REGION = 'eu-west-1';

/** Longest difference between two clocks. */
const SKEW_MS = 5 * 60_000;

/** `20260131T120000Z` as milliseconds. */
function readTime(text = '') {
  return Date.parse(text.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'));
}

class Refusal extends Error {
  constructor(status, type, headers = {}) {
    super(type);
    Object.assign(this, { status, type, headers });
  }
}

export class Aws {
  /** By access key id: `{ secret, token, expires }`. */
  keys = new Map();
  /** What functions were given: `{ path, query, headers, body, event }`. */
  invocations = [];
  /** What roles were asked for. */
  roles = [];
  /** What was refused, by type. */
  refusals = [];
  /** What an invocation is answered, by its index: `[status, headers, body]`. */
  answer = () => [202];
  /** How long keys of roles are good for. */
  leaseMs = 3_600_000;
  /** How far this clock is ahead. */
  skewMs = 0;
  /** What the network makes of a body. */
  tamper = (body) => body;
  #wake = () => {};

  async start(t) {
    const server = createServer((request, response) => this.#serve(request, response)).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    t.after(() => {
      server.close();
      server.closeAllConnections();
    });
    this.url = `http://127.0.0.1:${server.address().port}`;
    return this;
  }

  /** A new key; with `leaseMs` it has a session token, and an end. */
  issue(leaseMs) {
    const id = `AKID${randomUUID().replaceAll('-', '').toUpperCase()}`;
    const key = { id, secret: `secret/${randomUUID()}+=` };
    if (leaseMs !== undefined) {
      Object.assign(key, { token: `token/${randomUUID()}==`, expires: Date.now() + leaseMs });
    }
    this.keys.set(id, key);
    return key;
  }

  /** Waits until `enough()`. */
  async until(enough) {
    while (!enough()) await new Promise((resolve) => (this.#wake = resolve));
  }

  async #serve(request, response) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = this.tamper(Buffer.concat(chunks));
    let answered;
    try {
      answered = await this.#answer(request, body);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.refusals.push(error.type);
      const headers = { 'x-amzn-errortype': `${error.type}:http://internal/`, ...error.headers };
      answered = [error.status, headers, `<ErrorResponse><Error><Code>${error.type}</Code></Error></ErrorResponse>`];
    }
    const [status, headers, text] = answered;
    response.writeHead(status, headers).end(text);
    this.#wake();
  }

  async #answer(request, body) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    if (request.headers['x-amz-date'] === undefined) {
      const local = this.#tellKeys(request, pathname);
      if (local) return local;
    }
    const form = new URLSearchParams(`${body}`);
    if (form.get('Action')) return this.#assume(request, body, form);
    await this.#verify(request, body, 'lambda');
    const index = this.invocations.length;
    const event = JSON.parse(body);
    this.invocations.push({ path: pathname, query: searchParams, headers: request.headers, body, event });
    return this.answer(index);
  }

  /** Of a container (anything below /container) or a machine (IMDSv2). */
  #tellKeys(request, path) {
    const { token: containerToken, machineToken = 'machine' } = this;
    const tell = () => {
      const { id, secret, token, expires } = this.issue(this.leaseMs);
      const Expiration = new Date(expires).toISOString();
      return [200, {}, JSON.stringify({ AccessKeyId: id, SecretAccessKey: secret, Token: token, Expiration })];
    };
    if (path.startsWith('/container')) {
      return request.headers.authorization === containerToken ? tell() : [401];
    }
    if (path === '/latest/api/token') {
      const ttl = request.headers['x-aws-ec2-metadata-token-ttl-seconds'];
      return request.method === 'PUT' && ttl ? [200, {}, machineToken] : [400];
    }
    const list = '/latest/meta-data/iam/security-credentials/';
    if (!path.startsWith(list)) return undefined;
    if (request.headers['x-aws-ec2-metadata-token'] !== machineToken) return [401];
    return path === list ? [200, {}, 'machine-role'] : tell();
  }

  async #assume(request, body, form) {
    const asked = Object.fromEntries(form);
    if (asked.Action === 'AssumeRole') {
      asked.by = await this.#verify(request, body, 'sts');
      if (this.externalId && asked.ExternalId !== this.externalId) throw new Refusal(403, 'AccessDenied');
    } else if (asked.WebIdentityToken !== this.webIdentityToken) {
      throw new Refusal(400, 'InvalidIdentityToken');
    }
    const { id, secret, token, expires } = this.issue(this.leaseMs);
    this.roles.push({ ...asked, id });
    const text = `<${asked.Action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><${asked.Action}Result>
      <AssumedRoleUser><Arn>${asked.RoleArn}</Arn></AssumedRoleUser><Credentials><AccessKeyId>${id}</AccessKeyId>
      <SecretAccessKey>${secret}</SecretAccessKey><SessionToken>${token}</SessionToken>
      <Expiration>${new Date(expires).toISOString()}</Expiration></Credentials></${asked.Action}Result></${asked.Action}Response>`;
    return [200, { 'content-type': 'text/xml' }, text];
  }

  /** Refuses as AWS does what is not signed, or not as it should be; else the id of the key. */
  async #verify(request, body, service) {
    const { headers } = request;
    const parts = /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/([^/]+)\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/;
    const found = parts.exec(headers.authorization ?? '');
    if (!found) throw new Refusal(403, 'MissingAuthenticationTokenException');
    const [, id, day, region, scope, names, signature] = found;
    const key = this.keys.get(id);
    const isKnown = key && (key.token === undefined || key.token === headers['x-amz-security-token']);
    if (!isKnown) throw new Refusal(403, 'UnrecognizedClientException');
    if (key.expires < Date.now()) throw new Refusal(403, 'ExpiredTokenException');
    const at = readTime(headers['x-amz-date']);
    const isNear = Math.abs(at - (Date.now() + this.skewMs)) <= SKEW_MS;
    const isInScope = region === REGION && scope === service && headers['x-amz-date'].startsWith(day);
    const signed = names.split(';');
    const isSigned = (name) => signed.includes(name) || headers[name] === undefined;
    const must = ['host', 'content-type', ...Object.keys(headers).filter((name) => name.startsWith('x-amz-'))];
    if (!isNear || !isInScope || !must.every(isSigned)) throw new Refusal(403, 'InvalidSignatureException');
    const url = new URL(request.url, this.url);
    const canonical = new HttpRequest({
      method: request.method,
      protocol: url.protocol,
      hostname: url.hostname,
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      headers: Object.fromEntries(signed.map((name) => [name, headers[name]])),
      body,
    });
    // Of the body that has come, not of the one that its sender says it was.
    delete canonical.headers['x-amz-content-sha256'];
    const credentials = { accessKeyId: id, secretAccessKey: key.secret, sessionToken: key.token };
    const signer = new SignatureV4({ service, region, credentials, sha256: Sha256, applyChecksum: true });
    const again = await signer.sign(canonical, { signingDate: new Date(at) });
    if (!again.headers.authorization.endsWith(`Signature=${signature}`)) {
      throw new Refusal(403, 'InvalidSignatureException');
    }
    return id;
  }
}
