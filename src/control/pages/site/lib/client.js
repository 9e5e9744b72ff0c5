// One connection to a Realtime server, in a browser or in Node: Phoenix over a WebSocket, as supabase-js speaks it.
//
// In come the address, a token and what channels ask for; out go frames, and events for those who listen:
//
// | event | detail |
// | --- | --- |
// | `state` | `{ state, attempt, delayMs, cause }`: see `STATES`; while `reconnecting`, which attempt is next and when |
// | `frame` | `{ direction: 'in' or 'out', data, size, message, problem, time }`: each frame, before anybody acts on it; `message` is null when it does not decode, and `problem` then says why |
// | `latency` | `{ ms }`: how long a heartbeat took |
// | `close` | `{ code, reason, opened, asked }`: a socket has ended; `opened` says whether it ever was open, `asked` whether we ended it |
//
// What always holds: one counter gives all references of a client; a push is answered exactly once, by its reply, `timeout` or
// `closed`; after `disconnect` no timer is left. Deliberately absent: pages, storage, serializer 1.0.0 and long polling.

import { Channel } from './channel.js'
import { socketUrl } from './address.js'
import { Emitter } from './emitter.js'
import { FrameError, decode, encode, sizeOf } from './frame.js'

/** Every value of `client.state`. */
export const STATES = ['disconnected', 'connecting', 'connected', 'reconnecting']

/** How long to wait before each attempt to connect or join again; the last counts for all that follow. */
export const BACKOFF_MS = [1_000, 2_000, 5_000, 10_000]

const HEARTBEAT_MS = 25_000
const REPLY_TIMEOUT_MS = 10_000

/** The same as servers use for an ordinary end. */
const CLOSE_NORMAL = 1000
/** What browsers say when there was no close frame. */
const CLOSE_ABNORMAL = 1006

export class Client extends Emitter {
  state = 'disconnected'
  /** Milliseconds of the last heartbeat that was answered, or null. */
  latency = null

  #options
  #socket = null
  #channels = new Map()
  #replies = new Map()
  #refs = 0
  #attempt = 0
  #heartbeat = null
  #reconnect = null

  /**
   * `host` is an origin (`http://localhost:4000`), `token` the JWT of the connection. Optional: `logLevel`; `heartbeatMs`,
   * `timeoutMs` and `backoffMs`; `WebSocket`, where there is no global one.
   */
  constructor(options) {
    super()
    this.#options = {
      heartbeatMs: HEARTBEAT_MS,
      timeoutMs: REPLY_TIMEOUT_MS,
      backoffMs: BACKOFF_MS,
      WebSocket: globalThis.WebSocket,
      ...options,
    }
  }

  /** The address of the socket, token included. */
  get url() {
    const { host, token, logLevel } = this.#options
    return socketUrl(host, token, logLevel)
  }

  get timeoutMs() {
    return this.#options.timeoutMs
  }

  /** How long to wait before attempt `attempt`, counted from 1. */
  backoff(attempt) {
    const delays = this.#options.backoffMs
    return delays[Math.min(attempt, delays.length) - 1]
  }

  /** Opens the connection, and again whenever it breaks, until `disconnect`. */
  connect() {
    if (this.state === 'connecting' || this.state === 'connected') return
    this.#open()
  }

  /** Ends the connection and every channel of it. */
  disconnect() {
    clearTimeout(this.#reconnect)
    this.#attempt = 0
    const socket = this.#socket
    this.#dropSocket()
    for (const channel of [...this.#channels.values()]) channel.forget()
    this.#setState('disconnected')
    if (socket) {
      socket.close(CLOSE_NORMAL)
      this.emit('close', { code: CLOSE_NORMAL, reason: '', opened: true, asked: true })
    }
  }

  /** A channel for `subTopic`, not joined yet. It takes the place of the one that had this topic; see `Channel`. */
  channel(subTopic, options = {}) {
    const channel = new Channel(this, subTopic, options)
    this.add(channel)
    return channel
  }

  /** Sends a heartbeat now. Resolves with its milliseconds, or null when it was not answered. */
  async ping() {
    if (this.state !== 'connected') return null
    const { status, ms } = await this.push({ topic: 'phoenix', event: 'heartbeat', payload: {} })
    if (status !== 'ok') return null
    this.latency = ms
    this.emit('latency', { ms })
    return ms
  }

  /** The next reference. */
  ref() {
    this.#refs += 1
    return String(this.#refs)
  }

  /** Sends a message and resolves with `{ status, response, ms }`: its reply, or status `timeout` or `closed`. It never rejects. */
  push({ joinRef = null, ref = this.ref(), topic, event, payload, timeoutMs = this.timeoutMs }) {
    return this.pushRaw(encode({ joinRef, ref, topic, event, payload }), ref, timeoutMs)
  }

  /** The same for a frame that is encoded already, whose reference is `ref`. */
  pushRaw(data, ref, timeoutMs = this.timeoutMs) {
    return new Promise((resolve) => {
      const started = performance.now()
      const settle = (status, response) => {
        clearTimeout(timer)
        this.#replies.delete(ref)
        resolve({ status, response, ms: performance.now() - started })
      }
      const timer = setTimeout(() => settle('timeout', null), timeoutMs)
      this.#replies.set(ref, settle)
      if (!this.send(data)) settle('closed', null)
    })
  }

  /** Sends a frame. False when there is no open socket. */
  send(data) {
    if (this.state !== 'connected') return false
    this.#socket.send(data)
    this.#tell('out', data)
    return true
  }

  /** For a channel that begins: what arrives on its topic is its own. */
  add(channel) {
    const before = this.#channels.get(channel.topic)
    if (before !== channel) before?.forget()
    this.#channels.set(channel.topic, channel)
  }

  /** For a channel that is over. */
  remove(channel) {
    if (this.#channels.get(channel.topic) === channel) this.#channels.delete(channel.topic)
  }

  // -- the socket ------------------------------------------------------------------------------------------------------

  #open() {
    clearTimeout(this.#reconnect)
    this.#setState('connecting', { attempt: this.#attempt })
    let socket
    try {
      socket = new this.#options.WebSocket(this.url)
    } catch (error) {
      // The address itself is refused, as `ws:` is from a page that came by `https:`.
      // Nobody tries again, so no channel may wait for it.
      for (const channel of [...this.#channels.values()]) channel.forget()
      this.#setState('disconnected', { cause: error.message })
      this.emit('close', { code: CLOSE_ABNORMAL, reason: error.message, opened: false, asked: false })
      return
    }
    socket.binaryType = 'arraybuffer'
    this.#socket = socket
    let opened = false
    // An old socket may still speak after `disconnect`; nobody listens to it then.
    const current = (listener) => (event) => this.#socket === socket && listener(event)
    socket.addEventListener('open', current(() => {
      opened = true
      this.#onOpen()
    }))
    socket.addEventListener('message', current(({ data }) => this.#onMessage(data)))
    socket.addEventListener('close', current(({ code, reason }) => this.#onClose(code, reason, opened)))
    // A `close` follows every `error`, and browsers say in neither what it was.
    socket.addEventListener('error', () => {})
  }

  #onOpen() {
    this.#attempt = 0
    this.#setState('connected')
    this.#heartbeat = setInterval(() => this.#beat(), this.#options.heartbeatMs)
    this.#beat()
    for (const channel of this.#channels.values()) channel.onConnected()
  }

  #onMessage(data) {
    const message = this.#tell('in', data)
    if (!message) return
    const { topic, event, ref, payload } = message
    if (event === 'phx_reply') this.#replies.get(ref)?.(payload.status, payload.response)
    this.#channels.get(topic)?.onMessage(message)
  }

  #onClose(code, reason, opened) {
    this.#dropSocket()
    this.#attempt += 1
    const delayMs = this.backoff(this.#attempt)
    this.#reconnect = setTimeout(() => this.#open(), delayMs)
    this.#setState('reconnecting', { attempt: this.#attempt, delayMs })
    for (const channel of this.#channels.values()) channel.onDisconnected()
    this.emit('close', { code, reason, opened, asked: false })
  }

  /** Forgets the socket, what it was to answer, and its heartbeat. */
  #dropSocket() {
    this.#socket = null
    clearInterval(this.#heartbeat)
    this.latency = null
    for (const settle of [...this.#replies.values()]) settle('closed', null)
  }

  async #beat() {
    const socket = this.#socket
    if ((await this.ping()) !== null || this.#socket !== socket) return
    // No answer in time: the connection is dead, however open it looks.
    socket.close(CLOSE_NORMAL)
    this.#onClose(CLOSE_ABNORMAL, 'no heartbeat was answered', true)
  }

  /** Tells who listens about a frame. Its message, or null. */
  #tell(direction, data) {
    let message = null
    let problem = null
    try {
      message = decode(data instanceof Uint8Array ? data.slice().buffer : data)
    } catch (error) {
      if (!(error instanceof FrameError)) throw error
      problem = error.message
    }
    this.emit('frame', { direction, data, size: sizeOf(data), message, problem, time: Date.now() })
    return message
  }

  #setState(state, { attempt = 0, delayMs = 0, cause = null } = {}) {
    this.state = state
    this.emit('state', { state, attempt, delayMs, cause })
  }
}
