// One client and one channel of it, as a pane uses them: made from settings, and made anew when those have changed.
//
// Out go the events of client and channel, gathered here so that nobody else has to know which of them is the current one:
//
// | event | detail |
// | --- | --- |
// | `state` | as the client's |
// | `channel` | `{ state }` as the channel's |
// | `frame`, `latency`, `broadcast`, `change` | as theirs |
// | `presence` | the list of those present |
// | `note` | a sentence on what happened to the connection, for the log |
// | `problem` | `{ text, where }`; `where` is what makes it pass: `attempt` (until connected), `connection`, `channel` (until joined), `changes` (until subscribed), `message` |
// | `passed` | `{ where }`: problems of that kind are over |
// | `joined` | nothing |

import { originOf } from '../lib/address.js'
import { Client } from '../lib/client.js'
import { Emitter } from '../lib/emitter.js'
import { findRefusal } from '../lib/refusal.js'
import { channelOptions } from './settings.js'

/** A connection that was there and is not comes back by itself most often; so many attempts may fail before it is asked why. */
const ATTEMPTS_OF_RESTART = 3

export class Session extends Emitter {
  /** The settings of the connection and of the join, as they were when each began; null before. */
  connectedWith = null
  joinedWith = null

  #client = null
  #channel = null
  #identity
  /** The client whose refusal is being asked for. */
  #asking = null
  /** Whether somebody has ended the connection; it also ends when no attempt can be made. */
  #isOver = false
  /** Attempts that may fail yet before it is asked why. */
  #patience = 0

  /** `identity` is the key under which this client is present. */
  constructor(identity) {
    super()
    this.#identity = identity
  }

  get state() {
    return this.#client?.state ?? 'disconnected'
  }

  get channelState() {
    return this.#channel?.state ?? 'closed'
  }

  /** Connects and joins, in place of the connection that was there before. */
  connect(settings) {
    const host = originOf(settings.host)
    if (host === null) {
      this.#problem('No server is meant by this host.', 'attempt')
      return
    }
    this.disconnect()
    const client = new Client({ host, token: settings.token.trim(), logLevel: settings.log_level })
    this.#client = client
    this.#patience = 0
    this.#isOver = false
    this.connectedWith = { ...settings, host }
    const current = (listener) => (detail) => this.#client === client && listener(detail)
    for (const event of ['frame', 'latency']) client.on(event, current((detail) => this.emit(event, detail)))
    client.on('state', current((detail) => this.#onState(detail)))
    client.on('close', current((detail) => this.#onClose(client, detail)))
    this.join(settings)
    this.emit('note', `Connecting to ${host}`)
    client.connect()
  }

  disconnect() {
    this.#isOver = true
    this.#client?.disconnect()
    this.joinedWith = null
  }

  /** Joins the channel of these settings; another one is left. */
  join(settings) {
    const before = this.#channel
    const channel = this.#client.channel(settings.channel, channelOptions(settings, this.#identity))
    this.#channel = channel
    this.joinedWith = { ...settings }
    if (before && before.topic !== channel.topic) before.leave()
    const current = (listener) => (detail) => this.#channel === channel && listener(detail)
    for (const event of ['state', 'broadcast', 'change']) {
      channel.on(event, current((detail) => this.emit(event === 'state' ? 'channel' : event, detail)))
    }
    channel.on('presence', current(() => this.emit('presence', channel.presence.list())))
    channel.on('joined', current(() => {
      this.emit('passed', { where: 'channel' })
      this.emit('joined')
    }))
    channel.on('refused', current(({ reason }) => this.#problem(reason, 'channel')))
    channel.on('closed', current(({ event }) => event === 'phx_error' && this.#problem('channel_crash', 'channel')))
    channel.on('system', current((message) => this.#onSystem(message)))
    channel.join()
  }

  leave() {
    this.joinedWith = null
    return this.#channel?.leave()
  }

  /** Tells the joined channel to use the token of these settings from now on. */
  pushToken(settings) {
    this.joined?.setToken(channelOptions(settings, this.#identity).accessToken)
    this.joinedWith = { ...this.joinedWith, bearer: settings.bearer }
  }

  ping() {
    return this.#client?.ping()
  }

  /** The joined channel, or null. */
  get joined() {
    return this.channelState === 'joined' ? this.#channel : null
  }

  #onState(detail) {
    if (detail.state === 'connected') {
      this.#patience = ATTEMPTS_OF_RESTART
      this.emit('passed', { where: 'attempt' })
      this.emit('note', 'Connected')
    }
    this.emit('state', detail)
  }

  #onClose(client, { code, reason, opened, asked }) {
    const text = `Connection closed with code ${code}.${reason ? ` It says: ${reason}.` : ''}`
    this.emit('note', asked ? 'Disconnected' : opened ? text : `The connection did not come about (${code})`)
    if (asked) return
    if (opened) this.#problem(text, 'connection')
    else if (this.#patience > 0 && client.state === 'reconnecting') this.#patience -= 1
    else this.#ask(client)
  }

  /** Finds out why the server did not take the connection, and ends the attempts when none of them can succeed. */
  async #ask(client) {
    if (this.#asking === client) return
    this.#asking = client
    const { why, isFinal } = await findRefusal(client.url)
    if (this.#asking === client) this.#asking = null
    if (this.#client !== client || this.#isOver || client.state === 'connected') return
    this.emit('note', `Refused: ${why}`)
    this.#problem(why, 'attempt')
    if (isFinal) this.disconnect()
  }

  #onSystem({ extension, status, message }) {
    const isOfChanges = extension === 'postgres_changes'
    if (status === 'error') this.#problem(String(message), isOfChanges ? 'changes' : 'channel')
    else if (isOfChanges) this.emit('passed', { where: 'changes' })
    else if (message === 'Server requested disconnect') this.#problem(message, 'connection')
  }

  #problem(text, where) {
    this.emit('problem', { text, where })
  }
}
