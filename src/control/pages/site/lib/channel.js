// One topic on a connection: joining, pushing, presence, and what comes back.
//
// Made by `client.channel(subTopic, options)`; `options` are `isPrivate`, `self`, `ack`, `presence: { enabled, key }`,
// `postgresChanges` (a list of `{ event, schema, table, filter, select }`), `accessToken`, and `retryRefused` (true: a refused
// join is tried again, as supabase-js does; false: it waits for the next `join`). Events:
//
// | event | detail |
// | --- | --- |
// | `state` | `{ state }`: see `CHANNEL_STATES` |
// | `joined` | the response to the join |
// | `refused` | `{ reason }`: the join was answered by an error, or by nothing (`timeout`) |
// | `broadcast` | `{ event, payload, meta, message }`; `payload` is a `Uint8Array` when it was sent as bytes |
// | `presence` | nothing: `channel.presence` has changed |
// | `change` | `{ ids, data }` of a row |
// | `system` | `{ extension, status, message }` |
// | `closed` | `{ event }`: the server ended the channel, by `phx_close` or `phx_error` |
//
// What always holds: messages of an earlier join are not heard; a channel that was joined, or is to be, joins again when the
// connection is back, until `leave`. Deliberately absent: which socket carries it.

import { Emitter } from './emitter.js'
import { encode, encodeBroadcast } from './frame.js'
import { Presence } from './presence.js'

/** Every value of `channel.state`. */
export const CHANNEL_STATES = ['closed', 'joining', 'joined', 'leaving', 'error']

/** Events of row changes on the topics of the old API, where the payload is the change itself. */
const LEGACY_CHANGES = new Set(['INSERT', 'UPDATE', 'DELETE'])

export class Channel extends Emitter {
  state = 'closed'
  presence = new Presence()

  #client
  #options
  #joinRef = null
  #isWanted = false
  #attempt = 0
  #retry = null

  constructor(client, subTopic, options) {
    super()
    this.#client = client
    this.#options = { isPrivate: false, self: false, ack: false, postgresChanges: [], retryRefused: true, ...options }
    this.subTopic = subTopic
    this.topic = `realtime:${subTopic}`
  }

  /** What a join says, without the token. */
  get config() {
    const { isPrivate, self, ack, presence, postgresChanges } = this.#options
    return {
      broadcast: { ack, self },
      presence: { key: presence?.key ?? '', enabled: presence?.enabled ?? false },
      postgres_changes: postgresChanges,
      private: isPrivate,
    }
  }

  /** Joins now, or as soon as the connection is there. */
  join() {
    this.#isWanted = true
    this.#attempt = 0
    clearTimeout(this.#retry)
    this.#client.add(this)
    if (this.#client.state === 'connected') this.#join()
    else this.#setState('joining')
  }

  /** Leaves; resolves when the server has said so, or the connection is gone. */
  async leave() {
    const joinRef = this.#joinRef
    this.#isWanted = false
    clearTimeout(this.#retry)
    if (joinRef !== null) {
      this.#setState('leaving')
      await this.#client.push({ joinRef, topic: this.topic, event: 'phx_leave', payload: {} })
    }
    // Somebody may have joined again meanwhile.
    if (!this.#isWanted) this.forget()
  }

  /** Sends an event; resolves with `{ status, response, ms }` as `client.push` does. */
  push(event, payload) {
    return this.#client.push({ joinRef: this.#joinRef, topic: this.topic, event, payload })
  }

  /**
   * Broadcasts `payload`, which is bytes or anything that JSON can say. With `ack` it resolves with the reply, else with status
   * `sent`. Throws a `FrameError` when topic or event are too long.
   */
  async broadcast(event, payload) {
    const ref = this.#client.ref()
    const data = encodeBroadcast({ joinRef: this.#joinRef, ref, topic: this.topic, event, payload })
    if (this.#options.ack) return this.#client.pushRaw(data, ref)
    return { status: this.#client.send(data) ? 'sent' : 'closed', response: null, ms: 0 }
  }

  /** Tells the others that this channel is present, with `meta`. */
  track(meta) {
    return this.push('presence', { type: 'presence', event: 'track', payload: meta })
  }

  untrack() {
    return this.push('presence', { type: 'presence', event: 'untrack' })
  }

  /** Uses another token from now on; a joined channel tells the server, which answers only when it does not like it. */
  setToken(token) {
    this.#options.accessToken = token
    if (this.state !== 'joined') return
    const payload = { access_token: token }
    this.#client.send(encode({ joinRef: this.#joinRef, ref: this.#client.ref(), topic: this.topic, event: 'access_token', payload }))
  }

  // -- called by the client ----------------------------------------------------------------------------------------------

  onConnected() {
    if (this.#isWanted) this.#join()
  }

  onDisconnected() {
    clearTimeout(this.#retry)
    this.#joinRef = null
    this.presence.reset(true)
    this.emit('presence')
    if (this.#isWanted) this.#setState('joining')
  }

  onMessage(message) {
    const { joinRef, event, payload } = message
    if (joinRef !== null && joinRef !== this.#joinRef) return
    switch (event) {
      case 'broadcast':
        // What was sent as kind 0 has no event of its own.
        this.emit('broadcast', payload instanceof Uint8Array ? { event: null, payload, meta: null, message } : { ...payload, message })
        break
      case 'presence_state':
        this.presence.state(payload)
        this.emit('presence')
        break
      case 'presence_diff':
        this.presence.diff(payload)
        this.emit('presence')
        break
      case 'postgres_changes':
        this.emit('change', payload)
        break
      case 'system':
        this.emit('system', payload)
        break
      case 'phx_close':
        if (this.state !== 'leaving') this.emit('closed', { event })
        this.forget()
        break
      case 'phx_error':
        this.#joinRef = null
        this.emit('closed', { event })
        this.#failed()
        break
      default:
        if (LEGACY_CHANGES.has(event)) this.emit('change', { ids: [], data: payload })
    }
  }

  /** Ends the channel without telling the server. */
  forget() {
    this.#isWanted = false
    clearTimeout(this.#retry)
    this.#joinRef = null
    this.#client.remove(this)
    this.presence.reset(true)
    this.emit('presence')
    this.#setState('closed')
  }

  // -- joining -----------------------------------------------------------------------------------------------------------

  async #join() {
    const joinRef = this.#client.ref()
    this.#joinRef = joinRef
    // Who did not ask for presence gets no state on a public channel, but diffs.
    this.presence.reset(this.config.presence.enabled)
    this.#setState('joining')
    const payload = { config: this.config }
    if (this.#options.accessToken) payload.access_token = this.#options.accessToken
    const { status, response } = await this.#client.push({ joinRef, ref: joinRef, topic: this.topic, event: 'phx_join', payload })
    if (this.#joinRef !== joinRef || this.state !== 'joining') return
    if (status === 'ok') {
      this.#attempt = 0
      this.#setState('joined')
      this.emit('joined', response)
    } else if (status !== 'closed') {
      // A join that was not answered may still be; leaving makes sure that it is not half there.
      if (status === 'timeout') this.#client.push({ joinRef, topic: this.topic, event: 'phx_leave', payload: {} })
      this.#joinRef = null
      this.emit('refused', { reason: status === 'timeout' ? 'timeout' : (response?.reason ?? JSON.stringify(response)) })
      if (!this.#options.retryRefused) this.#isWanted = false
      this.#failed()
    }
  }

  /** The channel is not joined, against its will: it joins again after a while. */
  #failed() {
    this.#setState('error')
    if (!this.#isWanted) return
    this.#attempt += 1
    this.#retry = setTimeout(() => this.onConnected(), this.#client.backoff(this.#attempt))
  }

  #setState(state) {
    if (this.state === state) return
    this.state = state
    this.emit('state', { state })
  }
}
