// The page of the cursors demo: settings in the URL, who is here, what is sent and how often.

import { homeOf, originOf } from '../lib/address.js'
import { milliseconds } from '../lib/format.js'
import { write } from '../lib/write.js'
import { isHome, toKeep, tokenFor } from './credentials.js'
import { Allowance, Pace } from './pace.js'
import { HUES, People, cleanName, inWords, message, readMessage, someName } from './people.js'
import { Room } from './room.js'
import { Stage } from './stage.js'

/** The original's default of a tenant's `max_events_per_second`. */
const EVENTS_PER_SECOND = 100
/** What a server lets one channel say of presence, one less than its default of 5 in 30 s. */
const TRACKS = { count: 4, windowMs: 30_000 }
/**
 * How long to stay away after the server has closed the channel, longer each time: it looks every 5 s at averages of up to a minute.
 * Whoever has been in for so long as the longest of them begins anew.
 */
const AGAIN_AFTER_MS = [6_000, 12_000, 24_000, 60_000]
/** What it says when the events of the tenant are used up. */
const TOO_MUCH = /too many messages per second/i
/** The latency shown is the median of so many. */
const LATENCIES = 21
/** How often what people do is said again in words, and the idle fade. */
const LOOK_MS = 500
/** Where the token that somebody typed is kept with its host, so that the second window has it as well. */
const TOKEN_KEY = 'realtime-cursors-token'
/** Each window has a name of its own. */
const NAME_KEY = 'realtime-cursors-name'

const byId = (id) => document.getElementById(id)
const me = crypto.getRandomValues(new Uint32Array(2)).join('-')
const url = new URL(location.href)
const given = Object.fromEntries(['room', 'name', 'host', 'token', 'events'].map((name) => [name, url.searchParams.get(name)?.trim() ?? '']))

const people = new People(me)
const pace = new Pace(Number(given.events) || EVENTS_PER_SECOND)
const stage = new Stage(byId('stage'), byId('cursor-template'), { me, moved, rippled })
const latencies = []

/** What the server says of itself: see /inspector/defaults.json. */
let defaults = {}
let room = null
/** Whether this window is to be in the room. */
let isEntered = false
let isTracked = false
let tracks = null
let hue = null
let pending = null
let sendTimer = 0
let trackTimer = 0
let againTimer = 0
let closes = 0
let joinedAt = 0

// -- the room ------------------------------------------------------------------------------------------------------------

function enter() {
  leave()
  isEntered = true
  writeUrl()
  const { host, token } = fields()
  if (!token) {
    needToken()
    return
  }
  hideNotice()
  room = new Room({ host, token, name: byId('room').value.trim(), key: me }, {
    state: showState,
    joined() {
      isTracked = false
      joinedAt = performance.now()
      tracks = new Allowance(TRACKS.count, TRACKS.windowMs)
      hideNotice()
    },
    presence: sync,
    message: heard,
    latency,
    refused,
    closed,
  })
}

function leave() {
  for (const timer of [sendTimer, trackTimer, againTimer]) clearTimeout(timer)
  sendTimer = trackTimer = againTimer = 0
  pending = null
  room?.leave()
  room = null
  sync({})
  showState('Disconnected')
}

/** Tells the others who this is; later, when it was said too often. */
function track() {
  clearTimeout(trackTimer)
  const wait = tracks.wait(performance.now())
  if (wait > 0) {
    trackTimer = setTimeout(track, wait)
    return
  }
  tracks.take(performance.now())
  room?.track({ name: byId('name').value.trim(), hue })
}

function sync(state) {
  if (room?.isJoined && !isTracked) {
    isTracked = true
    hue = freeHue(state)
    track()
  }
  const { came, went } = people.sync(state)
  // While the channel is not joined, nobody has left: it is us who do not see them.
  if (room?.isJoined) {
    const words = [came.length && `${came.join(', ')} came in.`, went.length && `${went.join(', ')} left.`].filter(Boolean)
    if (words.length) byId('said').textContent = words.join(' ')
  }
  const own = people.get(me)
  if (own && !own.at) people.moved({ id: me, x: stage.own[0], y: stage.own[1] }, performance.now())
  stage.show(people.list())
  // Who has just come knows nobody's place.
  if (came.length && own) send([])
  look()
}

/** A colour that nobody here has, while there is one: the one of before, if it is still free. */
function freeHue(state) {
  const taken = new Set(Object.values(state).map((metas) => metas?.at?.(-1)?.hue))
  if (hue !== null && !taken.has(hue)) return hue
  const all = Array.from({ length: HUES }, (_, n) => n)
  const free = all.filter((n) => !taken.has(n))
  const from = free.length ? free : all
  return from[Math.floor(Math.random() * from.length)]
}

// -- what is sent --------------------------------------------------------------------------------------------------------

function moved(x, y) {
  const person = people.moved({ id: me, x, y }, performance.now())
  if (person) stage.move(person, performance.now())
  send([])
}

function rippled(x, y) {
  const person = people.get(me)
  if (person) stage.ripple(person, x, y)
  send([[x, y]])
}

/** Sends where the cursor is, now or as soon as the pace allows; until then a newer place replaces an older one, and no ripple is lost. */
function send(ripples) {
  if (!room?.isJoined) return
  pending = [...(pending ?? []), ...ripples]
  if (sendTimer) return
  const now = performance.now()
  pace.share(people.count, people.moving(now))
  const wait = pace.wait(now)
  if (wait > 0) {
    sendTimer = setTimeout(flush, wait)
  } else {
    flush()
  }
}

function flush() {
  sendTimer = 0
  if (!room?.isJoined || !pending) return
  const [x, y] = stage.own
  const told = message(me, { x, y, ms: median(), ripples: pending })
  pending = null
  room.send(told)
  pace.sent(performance.now())
}

// -- what comes ----------------------------------------------------------------------------------------------------------

function heard(payload) {
  const told = readMessage(payload)
  if (!told || told.id === me) return
  const now = performance.now()
  const person = people.moved(told, now)
  if (!person) return
  stage.move(person, now)
  for (const at of told.ripples) stage.ripple(person, ...at)
}

function latency(ms) {
  latencies.push(ms)
  if (latencies.length > LATENCIES) latencies.shift()
  byId('latency').textContent = milliseconds(median())
  const own = people.get(me)
  if (own) own.ms = median()
}

function median() {
  return latencies.length ? [...latencies].sort((a, b) => a - b)[latencies.length >> 1] : null
}

/** The server has said no. */
function refused({ text, isFinal }) {
  notice([text, isFinal ? 'Correct it below and connect again.' : 'It is tried again; what is below can be corrected meanwhile.'])
}

/** The server has ended the channel: why, in its words and in ours. */
function closed(text) {
  const isTooMuch = TOO_MUCH.test(text ?? '')
  if (performance.now() - joinedAt > AGAIN_AFTER_MS.at(-1)) closes = 0
  const wait = AGAIN_AFTER_MS[Math.min(closes, AGAIN_AFTER_MS.length - 1)]
  closes += 1
  const isExpired = /expired/.test(text ?? '')
  if (isTooMuch) pace.slower()
  notice([
    text ? `The server closed the channel: ${text}.` : 'The server closed the channel.',
    isTooMuch && 'The events per second of the tenant are used up. From now on positions are sent less often.',
    isExpired ? 'Put a newer token below and connect again.' : `The room is entered again in ${wait / 1000} seconds.`,
  ])
  if (!isExpired) againTimer = setTimeout(() => room?.join(), wait)
}

// -- what is shown -------------------------------------------------------------------------------------------------------

const TAGS = { Joined: 'ok', Disconnected: '', Refused: 'bad' }

function showState(state) {
  const tag = byId('state')
  tag.textContent = state
  tag.className = `tag ${TAGS[state] ?? 'warn'}`
}

function notice(paragraphs) {
  const box = byId('notice')
  box.replaceChildren(...paragraphs.filter(Boolean).map((text) => Object.assign(document.createElement('p'), { textContent: text })))
  box.classList.remove('hidden')
}

function hideNotice() {
  byId('notice').classList.add('hidden')
}

function needToken() {
  notice([
    (isHome(fields().host, defaults) && defaults.why) || 'A token is needed to connect.',
    'It can be put into the field below, or into the address of this page as ?token=…',
  ])
}

/** A link may lead to any server: what is said to one that is not the page's own, somebody has to want. */
function askFirst() {
  notice([
    `This link leads to another server: ${originOf(fields().host) ?? fields().host}.`,
    'Nothing is sent there before you press Enter or Connect.',
  ])
}

/** Says again who is here and what they do. */
function look() {
  const now = performance.now()
  const list = people.list()
  byId('count').textContent = String(list.length)
  byId('count-noun').textContent = list.length === 1 ? 'person' : 'people'
  byId('alone').classList.toggle('hidden', !room?.isJoined || list.length !== 1)
  pace.share(people.count, people.moving(now))
  byId('pace').textContent = String(Math.round(pace.perSecond))
  const rows = byId('people')
  const known = new Map([...rows.children].map((row) => [row.dataset.person, row]))
  list.forEach((person, n) => {
    const row = known.get(person.id) ?? byId('person-template').content.firstElementChild.cloneNode(true)
    known.delete(person.id)
    row.dataset.person = person.id
    row.className = `hue-${person.hue}`
    write(row.querySelector('.who'), person.id === me ? `${person.name} (you)` : person.name)
    write(row.querySelector('.does'), inWords(person, now) + (person.ms === null ? '' : `, ${milliseconds(person.ms)}`))
    if (rows.children[n] !== row) rows.insertBefore(row, rows.children[n] ?? null)
    stage.fade(person, people.isIdle(person, now))
  })
  for (const row of known.values()) row.remove()
}

// -- settings ------------------------------------------------------------------------------------------------------------

function fields() {
  return { host: byId('host').value.trim(), token: byId('token').value.trim() }
}

/** The address leads here again, and a second window to the same room under another name. */
function writeUrl() {
  const link = new URL(location.pathname, location.origin)
  const put = (name, value) => value && link.searchParams.set(name, value)
  put('room', byId('room').value.trim())
  put('host', given.host && fields().host)
  // Another one than the address gave is a secret of whoever typed it.
  put('token', fields().token === given.token ? given.token : '')
  put('events', pace.eventsPerSecond === EVENTS_PER_SECOND ? '' : String(pace.eventsPerSecond))
  byId('open-window').href = link.href
  byId('frames').href = framesUrl()
  history.replaceState(null, '', link)
}

/** The inspector, on the channel that this room is. */
function framesUrl() {
  const link = new URL('/inspector/new', location.origin)
  link.search = new URLSearchParams({ host: fields().host, channel: byId('room').value.trim(), enable_presence: 'true' })
  return link.href
}

/** What was remembered, or null; browsers may forbid it, and then nothing is. */
function recall(storage, key) {
  try {
    return globalThis[storage].getItem(key)
  } catch {
    return null
  }
}

/** Remembers a text; an empty one is forgotten. */
function remember(storage, key, text) {
  try {
    if (text) globalThis[storage].setItem(key, text)
    else globalThis[storage].removeItem(key)
  } catch {
    // Then the page works all the same.
  }
}

function start(told) {
  defaults = told
  byId('room').value = given.room || 'cursors'
  byId('name').value = cleanName(given.name) ?? recall('sessionStorage', NAME_KEY) ?? someName()
  byId('host').value = given.host || homeOf(defaults)
  byId('token').value = tokenFor(fields().host, { given: given.token, kept: recall('localStorage', TOKEN_KEY), defaults })
  byId('events').value = String(pace.eventsPerSecond)
  remember('sessionStorage', NAME_KEY, byId('name').value)
  if (isHome(fields().host, defaults)) {
    enter()
  } else {
    writeUrl()
    askFirst()
  }
}

byId('room-form').addEventListener('submit', (event) => {
  event.preventDefault()
  enter()
})

byId('name').addEventListener('change', () => {
  const name = cleanName(byId('name').value) ?? someName()
  byId('name').value = name
  remember('sessionStorage', NAME_KEY, name)
  if (room?.isJoined) track()
})

byId('connection-form').addEventListener('submit', (event) => {
  event.preventDefault()
  const { host, token } = fields()
  if (!isHome(host, defaults)) given.host = host
  remember('localStorage', TOKEN_KEY, toKeep(host, token, defaults))
  pace.eventsPerSecond = Number(byId('events').value) || EVENTS_PER_SECOND
  enter()
})

// Whoever goes is gone at once for the others.
addEventListener('pagehide', () => room?.leave())
addEventListener('pageshow', (event) => event.persisted && isEntered && enter())

setInterval(look, LOOK_MS)

fetch('/inspector/defaults.json')
  .then((answer) => (answer.ok ? answer.json() : {}))
  .catch(() => ({}))
  .then(start)
