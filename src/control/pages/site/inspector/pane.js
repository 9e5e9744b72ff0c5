// A pane: one client with its form, its log, and all that arrives; two of them know nothing of each other.

import { isSameHost, originOf } from '../lib/address.js'
import { milliseconds } from '../lib/format.js'
import { ChangesView } from './changes_view.js'
import { copy } from './dom.js'
import { ErrorsView } from './errors_view.js'
import { Form } from './form.js'
import { Frames } from './frames.js'
import { Latencies } from './latency.js'
import { LogView } from './log_view.js'
import { PlotView } from './plot_view.js'
import { PresenceView } from './presence_view.js'
import { Sender } from './sender.js'
import { Session } from './session.js'
import { snippet } from './snippet.js'
import { Tracker } from './tracker.js'

const STATES = {
  disconnected: ['Disconnected', ''],
  connecting: ['Connecting', 'info'],
  connected: ['Connected', 'ok'],
  reconnecting: ['Reconnecting', 'warn'],
}
const CHANNEL_STATES = {
  closed: ['Closed', ''],
  joining: ['Joining', 'info'],
  joined: ['Joined', 'ok'],
  leaving: ['Leaving', 'info'],
  error: ['Error', 'bad'],
}

/** Settings that count when the connection is made; the others when the channel is joined. */
const OF_CONNECTION = ['host', 'token', 'log_level']
/** How often what depends on the time is written anew. */
const TICK_MS = 1_000

export class Pane {
  #parts
  #form
  #session
  #identity
  #errors
  #explain
  #sender
  #tracker
  #onChange
  #frames = new Frames()
  #latencies = new Latencies()
  #log
  #retryAt = null
  #timer

  /**
   * Fills a pane's element. `name` is `a` or `b`, `identity` the key of its presence, `explain` what `explainer` makes;
   * `onChange` hears the name of a setting that somebody has changed.
   */
  constructor({ element, name, identity, explain, onChange }) {
    this.element = element
    this.#identity = identity
    this.#explain = explain
    this.#onChange = onChange
    giveIds(element, name)
    this.#parts = partsOf(element)
    this.#parts.name.textContent = `Client ${name.toUpperCase()}`
    this.#parts.identity.textContent = identity
    this.#form = new Form(this.#parts, (setting) => this.#onSetting(setting))
    this.#errors = new ErrorsView(this.#parts.errors, (field) => this.#field(field))
    this.#session = new Session(identity)
    const onProblem = (text) => this.#problem({ text, where: 'message' })
    this.#sender = new Sender({ parts: this.#parts, session: this.#session, latencies: this.#latencies, onProblem })
    this.#tracker = new Tracker({ parts: this.#parts, session: this.#session, identity, onProblem })
    this.#log = new LogView(this.#frames, this.#parts)
    this.#wireSession()
    this.#wireButtons()
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
    this.#update()
  }

  get settings() {
    return this.#form.settings
  }

  fill(settings) {
    this.#form.fill(settings)
    this.#update()
  }

  /** Takes over a setting of another pane's `settings`, where nobody has changed it here and it is not in use. */
  follow(name, settings) {
    if (this.#session.state !== 'disconnected') return
    if (isOfHost(name) && !isSameHost(settings.host, this.settings.host)) return
    this.#form.follow(name, settings[name])
    this.#update()
  }

  /** Ends what this pane does. */
  dispose() {
    clearInterval(this.#timer)
    this.#sender.stop()
    this.#session.disconnect()
  }

  focus() {
    ;[this.#parts.connect, this.#parts.disconnect].find((button) => !button.hidden).focus()
  }

  // -- what happens ------------------------------------------------------------------------------------------------------

  #wireSession() {
    const session = this.#session
    const changes = new ChangesView(this.#parts)
    const presence = new PresenceView(this.#parts, this.#identity)
    const plot = new PlotView(this.#latencies, this.#parts)
    session.on('frame', (frame) => {
      this.#log.added(this.#frames.add(frame))
      // An ack changes the figures as well, and has no event of its own.
      if (frame.message?.event === 'phx_reply') plot.changed()
    })
    session.on('note', (text) => this.#log.added(this.#frames.note(text)))
    session.on('broadcast', ({ event, payload }) => {
      if (this.#latencies.received(event, payload, performance.now()) !== null) plot.changed()
    })
    session.on('change', ({ data }) => changes.added(data))
    session.on('presence', (list) => presence.show(list))
    session.on('latency', ({ ms }) => (this.#parts.heartbeat.textContent = milliseconds(ms)))
    session.on('problem', (problem) => this.#problem(problem))
    session.on('passed', ({ where }) => this.#errors.clear(where))
    session.on('channel', () => this.#update())
    session.on('joined', () => session.joinedWith?.enable_presence && this.#tracker.track())
    session.on('state', ({ state, attempt, delayMs }) => {
      this.#retryAt = state === 'reconnecting' ? { attempt, at: Date.now() + delayMs } : null
      if (state !== 'connected') this.#parts.heartbeat.textContent = '–'
      this.#update()
    })
  }

  #wireButtons() {
    const parts = this.#parts
    const on = (role, action) => parts[role].addEventListener('click', action)
    parts.connect.setAttribute('form', parts['connect-form'].id)
    parts['connect-form'].addEventListener('submit', (event) => {
      event.preventDefault()
      this.#use()
    })
    on('apply', () => this.#use())
    on('disconnect', () => {
      this.#errors.clear()
      this.#session.disconnect()
    })
    on('join', () => this.#join())
    on('leave', () => this.#session.leave())
    on('ping', () => this.#session.ping())
    on('send-token', () => {
      this.#session.pushToken(this.settings)
      this.#update()
    })
    on('copy-snippet', async () => {
      const done = await copy(parts.snippet.textContent)
      parts['copy-snippet'].textContent = done ? 'Copied' : 'Not allowed'
    })
    for (const role of ['send-event', 'send-payload', 'track-payload']) parts[role].addEventListener('input', () => this.#writeSnippet())
  }

  /** Makes what is set true: connects and joins, as far as that is needed. */
  #use() {
    const { connectedWith, state } = this.#session
    const isOther = OF_CONNECTION.some((name) => connectedWith?.[name] !== this.#inUse[name])
    if (state === 'disconnected' || isOther) this.#connect()
    else this.#join()
  }

  #connect() {
    const settings = this.settings
    this.#errors.clear()
    this.#latencies.clear()
    this.#session.connect(settings)
    this.#update()
  }

  #join() {
    this.#errors.clear('channel')
    this.#errors.clear('changes')
    this.#session.join(this.settings)
    this.#update()
  }

  /** The settings as a session keeps them: the host is an origin. */
  get #inUse() {
    return { ...this.settings, host: originOf(this.settings.host) }
  }

  #onSetting(name) {
    this.#errors.touched(name)
    this.#onChange(name)
    this.#update()
  }

  #problem({ text, where }) {
    const place = where === 'attempt' ? 'upgrade' : ''
    this.#errors.show(this.#explain(text, this.#session.joinedWith ?? this.settings, place), where)
  }

  // -- what is shown -----------------------------------------------------------------------------------------------------

  /** Shows the states, and the buttons that make sense in them. */
  #update() {
    const parts = this.#parts
    const { state, channelState } = this.#session
    const focused = document.activeElement
    show(parts.state, STATES[state])
    show(parts['channel-state'], CHANNEL_STATES[channelState])
    const isDisconnected = state === 'disconnected'
    const isInChannel = ['joining', 'joined', 'leaving'].includes(channelState)
    parts.connect.hidden = !isDisconnected
    parts.disconnect.hidden = isDisconnected
    parts.join.hidden = isInChannel
    parts.join.disabled = isDisconnected
    parts.leave.hidden = !isInChannel
    parts.ping.disabled = state !== 'connected'
    parts['send-token'].disabled = channelState !== 'joined'
    this.#showStale()
    this.#keepFocus(focused)
    this.#tick()
    this.#writeSnippet()
  }

  /** Says so when what is set is not what is in use. */
  #showStale() {
    const { state, connectedWith, joinedWith, channelState } = this.#session
    const now = this.#inUse
    const isConnection = state !== 'disconnected' && OF_CONNECTION.some((name) => connectedWith[name] !== now[name])
    const ofChannel = Object.keys(now).filter((name) => !OF_CONNECTION.includes(name))
    const isChannel = channelState === 'joined' && joinedWith && ofChannel.some((name) => joinedWith[name] !== now[name])
    this.#parts.stale.hidden = !isConnection && !isChannel
    if (isConnection) this.#parts['stale-text'].textContent = 'Settings have changed: they count from the next connection.'
    else if (isChannel) this.#parts['stale-text'].textContent = 'Settings have changed: they count from the next join.'
  }

  /** What depends on the time. */
  #tick() {
    this.#form.hint()
    const detail = this.#retryAt
      ? `in ${Math.max(0, Math.ceil((this.#retryAt.at - Date.now()) / 1000))} s, attempt ${this.#retryAt.attempt}`
      : ''
    if (this.#parts['state-detail'].textContent !== detail) this.#parts['state-detail'].textContent = detail
  }

  #writeSnippet() {
    const settings = this.settings
    const { event, payload } = this.#sender.message
    const message = { event, payload: payload instanceof Uint8Array ? {} : payload }
    const text = snippet({ origin: originOf(settings.host), settings, identity: this.#identity, message, meta: this.#tracker.meta.value })
    if (this.#parts.snippet.textContent === text) return
    this.#parts.snippet.textContent = text
    this.#parts['copy-snippet'].textContent = 'Copy'
  }

  /** The control and the note of a field that an error is about; null when there is no such field. */
  #field(name) {
    const control = this.#parts[name]
    const note = this.element.querySelector(`[data-note="${name}"]`)
    return control ? { control, note } : null
  }

  /** Gives the focus of a button that has just gone, by whatever happened, to the one that takes its place. */
  #keepFocus(before) {
    const { connect, disconnect, join, leave } = this.#parts
    if (!this.element.contains(before)) return
    if (before.closest('[hidden]') === null && !(before === join && join.disabled)) return
    const candidates = [connect, disconnect].includes(before) ? [connect, disconnect] : [leave, join, connect, disconnect]
    candidates.find((button) => !button.hidden && !button.disabled)?.focus()
  }
}

/** Whether a setting is a secret between somebody and one server. */
const isOfHost = (name) => name === 'token' || name === 'bearer'

function show(tag, [text, kind]) {
  if (tag.textContent !== text) tag.textContent = text
  tag.className = `tag ${kind}`
}

/** The elements of a pane by their role. */
function partsOf(element) {
  return Object.fromEntries([...element.querySelectorAll('[data-role]')].map((part) => [part.dataset.role, part]))
}

/** Turns the names of the template into ids of the page, which a second pane must not have once more. */
function giveIds(element, name) {
  const idOf = (local) => (local === 'form' ? (name === 'a' ? 'connect-form' : `connect-form-${name}`) : `${name}-${local}`)
  const attributes = { id: 'id', for: 'for', labelledby: 'aria-labelledby', describedby: 'aria-describedby' }
  for (const [from, to] of Object.entries(attributes)) {
    for (const part of [element, ...element.querySelectorAll(`[data-${from}]`)]) {
      const locals = part.dataset[from]
      if (locals === undefined) continue
      part.setAttribute(to, locals.split(' ').map(idOf).join(' '))
      delete part.dataset[from]
    }
  }
}
