// A room: one channel whose presence says who is here, and whose broadcasts say where their cursors are.
//
// Public, presence on, every broadcast acknowledged: the time until then is the latency of a position. Told through `told`:
//
// | call | when |
// | --- | --- |
// | `state(text)` | what the connection does: Connecting, Joining, Joined, Reconnecting, Refused, Disconnected |
// | `joined()` | the channel is joined, also again; presence follows |
// | `presence(state)` | `{key: [meta, …]}`; nobody while it is not joined |
// | `message(payload)` | somebody's cursor |
// | `latency(ms)` | of a message or a heartbeat |
// | `refused({ text, isFinal })` | connection or channel were refused; final when trying again cannot help |
// | `closed(text)` | the server has ended the channel, and said why; it is not joined again by itself |

import { originOf } from '../lib/address.js'
import { Client } from '../lib/client.js'
import { findRefusal } from '../lib/refusal.js'
import { inspect } from '../lib/token.js'

/** The event of all messages. */
const EVENT = 'cursor'
/** How often the latency is measured while nothing moves. */
const PING_MS = 5000

export class Room {
  #client = null
  #channel = null
  #ping = 0
  #isExplaining = false
  #told

  /** Connects and joins; a newer room of the same page leaves this one first. */
  constructor({ host, token, name, key }, told) {
    this.#told = told
    this.name = name
    this.key = key
    const origin = originOf(host)
    const problem = origin ? problemOf(token) : `“${host}” is no host.`
    if (problem) {
      told.state('Disconnected')
      told.refused({ text: problem, isFinal: true })
      return
    }
    this.#client = new Client({ host: origin, token })
    this.#client.on('state', ({ state }) => this.#tellState(state))
    this.#client.on('latency', ({ ms }) => this.#told.latency(ms))
    this.#client.on('close', ({ opened, asked }) => opened || asked || this.#explain())
    this.#ping = setInterval(() => document.hidden || this.#client.ping(), PING_MS)
    this.join()
    this.#client.connect()
  }

  /** Whether messages reach the others. */
  get isJoined() {
    return this.#channel?.state === 'joined' && this.#client.state === 'connected'
  }

  /** Joins; for after the server has closed the channel. */
  join() {
    if (!this.#client) return
    const channel = this.#client.channel(this.name, { ack: true, presence: { enabled: true, key: this.key } })
    this.#channel = channel
    let why = null
    channel.on('state', ({ state }) => {
      if (channel !== this.#channel) return
      this.#tellState(this.#client.state)
      if (state !== 'joined') this.#told.presence({})
    })
    channel.on('joined', () => this.#told.joined())
    channel.on('presence', () => this.isJoined && this.#told.presence(stateOf(channel.presence)))
    channel.on('broadcast', ({ event, payload }) => event === EVENT && this.#told.message(payload))
    channel.on('system', ({ status, message }) => {
      if (status === 'error') why = message
    })
    channel.on('refused', ({ reason }) => this.#told.refused({ text: reason, isFinal: false }))
    channel.on('closed', () => {
      // It would join again by itself, after an error on the server even at once.
      this.#channel = null
      channel.forget()
      this.#told.presence({})
      this.#tellState(this.#client.state)
      this.#told.closed(why)
    })
    channel.join()
  }

  /** Says who this is, or says it anew. */
  track(meta) {
    if (this.isJoined) this.#channel.track(meta)
  }

  /** Sends a cursor to the others. */
  async send(payload) {
    if (!this.isJoined) return
    const { status, ms } = await this.#channel.broadcast(EVENT, payload)
    if (status === 'ok') this.#told.latency(ms)
  }

  /** Leaves at once; nothing is told any more. */
  leave() {
    clearInterval(this.#ping)
    this.#channel = null
    this.#told = { state() {}, joined() {}, presence() {}, message() {}, latency() {}, refused() {}, closed() {} }
    this.#client?.disconnect()
  }

  /** Finds out why there is no connection; when that will stay so, it is not tried again. */
  async #explain() {
    const client = this.#client
    if (this.#isExplaining) return
    this.#isExplaining = true
    const { why, isFinal } = await findRefusal(client.url)
    this.#isExplaining = false
    if (client.state === 'connected') return
    if (isFinal) client.disconnect()
    this.#told.refused({ text: why, isFinal })
  }

  #tellState(state) {
    const words = { disconnected: 'Disconnected', connecting: 'Connecting', reconnecting: 'Reconnecting' }
    const joins = { joining: 'Joining', joined: 'Joined', error: 'Refused', closed: 'Closed', leaving: 'Closed' }
    this.#told.state(words[state] ?? joins[this.#channel?.state] ?? 'Closed')
  }
}

/** What is wrong with a token, if it is that wrong that no server takes it. A new kind of key may be translated by a gateway. */
function problemOf(token) {
  return token.startsWith('sb_') ? null : inspect(token).problem
}

/** Who is there, as a state says it: `{key: [meta, …]}`. Keys are what clients choose, `__proto__` as well. */
export function stateOf(presence) {
  const state = Object.create(null)
  for (const { key, meta } of presence.list()) (state[key] ??= []).push(meta)
  return state
}
