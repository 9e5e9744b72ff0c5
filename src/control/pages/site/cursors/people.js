// Who is in the room, made of what presence says and of the positions that came. Knows no page.
//
// A person is one window: its presence key is made new when the page is loaded, its meta is {name, hue}. What comes from others
// is read with suspicion: names are cut, numbers are checked, and what fits nothing is dropped.

/** How many colours there are; each has a class in cursors.css. */
export const HUES = 8
/** Longer names are cut. */
export const NAME_CHARS_MAX = 24
/** Who has not moved for so long is idle, and fades. */
export const IDLE_MS = 4000
/** Who has moved within this time shares the events of the tenant. */
const MOVING_MS = 1500
/** More ripples in one message are not shown. */
const RIPPLES_MAX = 8

const ADJECTIVES = ['Amber', 'Brisk', 'Calm', 'Dapper', 'Eager', 'Fluent', 'Gentle', 'Hasty', 'Jolly', 'Keen', 'Lucid', 'Merry', 'Nimble', 'Quiet', 'Swift', 'Witty']
const ANIMALS = ['Badger', 'Crane', 'Dingo', 'Egret', 'Falcon', 'Gecko', 'Heron', 'Ibex', 'Jackal', 'Koala', 'Lynx', 'Marten', 'Newt', 'Otter', 'Puffin', 'Raven']

/** A name for somebody who has not said one. */
export function someName(random = Math.random) {
  const pick = (list) => list[Math.floor(random() * list.length)]
  return `${pick(ADJECTIVES)} ${pick(ANIMALS)}`
}

/** A name that may be shown: without control characters and spaces around it, not too long; null when nothing is left. */
export function cleanName(name) {
  if (typeof name !== 'string') return null
  const clean = [...name.replace(/[\p{C}\s]+/gu, ' ').trim()].slice(0, NAME_CHARS_MAX).join('')
  return clean || null
}

/** What a window sends: where its cursor is, the latency it measures, where it was clicked since the last message. */
export function message(id, { x, y, ms, ripples }) {
  const round = (value) => Math.round(value * 10_000) / 10_000
  const told = { id, x: round(x), y: round(y) }
  if (ms !== null && ms !== undefined) told.ms = Math.round(ms * 10) / 10
  if (ripples?.length) told.ripples = ripples.map((at) => at.map(round))
  return told
}

/** Such a message from somebody else, or null when it is none. */
export function readMessage(told) {
  const isPart = (value) => typeof value === 'number' && value >= 0 && value <= 1
  if (typeof told?.id !== 'string' || !isPart(told.x) || !isPart(told.y)) return null
  const ms = typeof told.ms === 'number' && told.ms >= 0 ? told.ms : null
  const ripples = Array.isArray(told.ripples) ? told.ripples.slice(0, RIPPLES_MAX) : []
  return { id: told.id, x: told.x, y: told.y, ms, ripples: ripples.filter((at) => Array.isArray(at) && at.length === 2 && at.every(isPart)) }
}

export class People {
  #people = new Map()

  /** @param {string} me the presence key of this window */
  constructor(me) {
    this.me = me
  }

  /** Everybody, this window first, then by name. */
  list() {
    const order = (a, b) => (b.id === this.me) - (a.id === this.me) || a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1)
    return [...this.#people.values()].sort(order)
  }

  get(id) {
    return this.#people.get(id)
  }

  get count() {
    return this.#people.size
  }

  /** Takes over what presence says now: `{key: [meta, …]}`. Who came and who went, by name, without this window. */
  sync(state) {
    const came = []
    const went = []
    for (const [id, metas] of Object.entries(state)) {
      const meta = metas?.at?.(-1) ?? {}
      const name = cleanName(meta.name) ?? 'Somebody'
      const hue = Number.isInteger(meta.hue) && meta.hue >= 0 ? meta.hue % HUES : 0
      const known = this.#people.get(id)
      if (known) Object.assign(known, { name, hue })
      else {
        this.#people.set(id, { id, name, hue, movedAt: -Infinity, ms: null, at: null })
        if (id !== this.me) came.push(name)
      }
    }
    for (const [id, { name }] of this.#people) {
      if (Object.hasOwn(state, id)) continue
      this.#people.delete(id)
      if (id !== this.me) went.push(name)
    }
    return { came, went }
  }

  /** Somebody has moved. The person, or null when presence does not know them (yet). */
  moved({ id, x, y, ms }, now) {
    const person = this.#people.get(id)
    if (!person) return null
    Object.assign(person, { at: [x, y], movedAt: now, ms: ms ?? person.ms })
    return person
  }

  /** How many move at the moment, this window counted as one of them. */
  moving(now) {
    let count = 1
    for (const { id, movedAt } of this.#people.values()) if (id !== this.me && now - movedAt < MOVING_MS) count += 1
    return count
  }

  /** Whether this one has not moved for a while. */
  isIdle(person, now) {
    return now - person.movedAt >= IDLE_MS
  }
}

/** What a person does, in words. */
export function inWords(person, now) {
  if (!person.at) return 'has not moved yet'
  const [x, y] = person.at
  const rows = ['top', 'middle', 'bottom']
  const columns = ['left', 'centre', 'right']
  const third = (value) => Math.min(2, Math.floor(value * 3))
  const place = `${rows[third(y)]} ${columns[third(x)]}`
  return now - person.movedAt < IDLE_MS ? `moving, ${place}` : `idle, ${place}`
}
