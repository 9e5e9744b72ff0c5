// What every test of a client library needs: the built server as a child process, tokens, and events to wait for.
//
// Nothing here sleeps: a test waits for what a library reports, with a limit on how long.

import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import WebSocket from 'ws'

const SECRET = 'super-secret-jwt-token-with-at-least-32-characters-long'

/** How long a library waits for an answer; a test waits longer, so that it hears what the library says. */
export const LIBRARY_TIMEOUT_MS = 30_000
const TIMEOUT_MS = 45_000

/** The binary under test: REALTIME_BIN, or what cargo built last. */
function binary() {
  const root = join(dirname(fileURLToPath(import.meta.url)), '../..')
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target')
  const candidates = [process.env.REALTIME_BIN, join(target, 'debug/realtime'), join(target, 'release/realtime')]
  const found = candidates.find((path) => path && existsSync(path))
  if (!found) throw new Error('no server to test: run `cargo build`, or set REALTIME_BIN')
  return found
}

/** A token of this role, good for so many seconds. */
export function token(role = 'authenticated', seconds = 3600, more = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const claims = { role, exp: Math.floor(Date.now() / 1000) + seconds, ...more }
  const message = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  return `${message}.${createHmac('sha256', SECRET).update(message).digest('base64url')}`
}

/** A server on a port of its own. `stop` ends it, `restart` starts it again on the same port. */
export class Server {
  static async start(env = {}, tenants) {
    const server = new Server()
    server.env = env
    server.folder = mkdtempSync(join(tmpdir(), 'realtime-clients-'))
    server.log = ''
    if (tenants) {
      server.env = { ...env, EMBEDDED_TENANTS: join(server.folder, 'tenants.json') }
      writeFileSync(server.env.EMBEDDED_TENANTS, JSON.stringify(tenants))
    }
    // The port was free a moment ago; another process may take it before the server does.
    for (let left = 2; ; left -= 1) {
      server.port = await freePort()
      try {
        await server.run()
        return server
      } catch (error) {
        if (left === 0) throw error
        await server.kill()
      }
    }
  }

  /** A server with a tenant of each name, which has the database of that name in `postgres`. */
  static startOf(postgres, databases) {
    const tenants = Object.entries(databases).map(([name, database]) => postgres.tenant(name, SECRET, database))
    // Refusals come at once.
    return Server.start({ CHANNEL_ERROR_BACKOFF_MS: '50' }, tenants)
  }

  /** A server whose tenant has the database of `postgres`, with the objects of project.sql. */
  static async startWith(postgres) {
    const server = await Server.startOf(postgres, { 'realtime-dev': 'app' })
    // A private message makes the server ask the database, in which it makes its schema first.
    const message = { topic: 't', event: 'e', payload: {}, private: true }
    const answer = await fetch(`${server.http}/api/broadcast`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token('service_role')}`, 'content-type': 'application/json' },
      body: JSON.stringify({ messages: [message] }),
    })
    if (answer.status !== 202) throw new Error(`a private message was answered by ${answer.status}:\n${server.log}`)
    postgres.sql(readFileSync(new URL('project.sql', import.meta.url), 'utf8'))
    return server
  }

  get http() {
    return this.of('').http
  }

  get socket() {
    return this.of('').socket
  }

  /** The addresses of one of its tenants. */
  of(tenant) {
    const host = `${tenant && `${tenant}.`}localhost:${this.port}`
    return { http: `http://${host}`, socket: `ws://${host}/socket` }
  }

  async run() {
    this.child = spawn(binary(), [], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        PATH: process.env.PATH,
        PORT: String(this.port),
        SHARDS: '2',
        DATA_DIR: join(this.folder, 'data'),
        API_JWT_SECRET: SECRET,
        SELF_HOST_TENANT_NAME: 'realtime-dev',
        ...this.env,
      },
    })
    // A test that dies takes its server with it.
    this.reap ??= () => this.child.kill('SIGKILL')
    process.once('exit', this.reap)
    const child = this.child
    this.exited = new Promise((resolve) => child.once('exit', resolve))
    let listening
    const ready = new Promise((resolve) => (listening = resolve))
    for (const output of [child.stdout, child.stderr]) {
      output.on('data', (chunk) => {
        this.log += chunk
        if (this.log.includes('listening on')) listening(true)
      })
    }
    this.log = ''
    const started = await within(Promise.race([ready, this.exited.then(() => false)]), 'the server to listen')
    const health = started && (await fetch(`${this.http}/healthcheck`))
    if (!health?.ok) throw new Error(`the server does not start:\n${this.log}`)
  }

  async stop() {
    this.child.kill('SIGTERM')
    await within(this.exited, 'the server to end')
  }

  async restart() {
    await this.stop()
    await this.run()
  }

  async kill() {
    this.child?.kill('SIGKILL')
    await this.exited
    process.off('exit', this.reap)
  }

  /** For the end of a test file. */
  async dispose() {
    await this.kill()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** A free port below the range that the kernel gives to outgoing connections: one of those could take it during a restart. */
function freePort() {
  const port = 20_000 + Math.floor(Math.random() * 12_000)
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(freePort()))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(port)))
  })
}

/** The promise, or an error that says what was waited for. */
export function within(promise, what, ms = TIMEOUT_MS) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Collects values as they come, and hands out the first that fits. */
export class Inbox {
  constructor() {
    this.items = []
    this.waiting = []
    this.push = (item) => {
      const index = this.waiting.findIndex(({ fits }) => fits(item))
      if (index < 0) this.items.push(item)
      else this.waiting.splice(index, 1)[0].resolve(item)
    }
  }

  /** What came so far is not waited for. */
  clear() {
    this.items = []
  }

  /** The next item that fits; those before it stay. */
  next(what, fits = () => true, ms = TIMEOUT_MS) {
    const index = this.items.findIndex(fits)
    if (index >= 0) return Promise.resolve(this.items.splice(index, 1)[0])
    return within(new Promise((resolve) => this.waiting.push({ fits, resolve })), what, ms)
  }
}

/** A `ws` class that remembers its sockets, so that a test can cut one off. Tenants' hosts are this machine, whatever resolves names. */
export function trackedTransport() {
  const sockets = []
  class Tracked extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, new URL(url).hostname === 'localhost' ? {} : { lookup: thisMachine })
      sockets.push(this)
    }
  }
  Tracked.sockets = sockets
  /** Ends every connection without a close frame. */
  Tracked.cut = () => sockets.forEach((socket) => socket.terminate())
  return Tracked
}

/** A resolver in the form of `dns.lookup`. */
function thisMachine(_host, options, done) {
  const found = { address: '127.0.0.1', family: 4 }
  if (options.all) done(null, [found])
  else done(null, found.address, found.family)
}

/** Subscribes, and resolves with the inbox of later states once the channel is joined. */
export async function subscribe(channel) {
  const states = new Inbox()
  channel.subscribe((status, error) => states.push({ status, error }))
  const { status, error } = await states.next('the first state of the channel')
  if (status !== 'SUBSCRIBED') throw new Error(`the channel is ${status}: ${error?.message}`)
  return states
}

/** An inbox of the payloads of a channel's broadcasts. */
export function broadcasts(channel, event = '*') {
  const inbox = new Inbox()
  channel.on('broadcast', { event }, (message) => inbox.push(message))
  return inbox
}
