// How often a cursor may be sent, so that a room stays below what its tenant allows.
//
// The server counts, for each tenant and on average, one event for a broadcast it accepts and one for each delivery; at the
// tenant's `max_events_per_second` it closes the channels that receive. A position that N people see costs N events when its
// sender does not get it back. So everybody takes an equal share of the budget, counted over those who move right now.
//
// Times are milliseconds of one clock, given by the caller.

/** No cursor is sent more often than this: eyes do not see the difference. */
export const SENDS_PER_SECOND_MAX = 30
/** Never slower than this, however full the room is: a cursor shall at least be seen to live. */
export const SENDS_PER_SECOND_MIN = 1
/** The part of the tenant's events that a room uses. The rest is for joins of others and for other pages. */
const SHARE = 0.8
/** Each time the server says that it was too much, the pace is divided by this. */
const SLOWER = 2

export class Pace {
  #last = -Infinity
  #slowed = 1
  #perSecond = SENDS_PER_SECOND_MAX

  /** @param {number} eventsPerSecond what the tenant allows */
  constructor(eventsPerSecond) {
    this.eventsPerSecond = eventsPerSecond
  }

  /** Sends per second at the moment. */
  get perSecond() {
    return this.#perSecond
  }

  /** So many people see a cursor, so many of them move theirs. */
  share(people, moving) {
    const fair = (SHARE * this.eventsPerSecond) / (Math.max(1, people) * Math.max(1, moving)) / this.#slowed
    this.#perSecond = Math.min(SENDS_PER_SECOND_MAX, Math.max(SENDS_PER_SECOND_MIN, fair))
  }

  /** The server has closed the channel because of too many events. */
  slower() {
    this.#slowed *= SLOWER
  }

  /** How long to wait before the next send; 0 when it may go now. */
  wait(now) {
    return Math.max(0, this.#last + 1000 / this.#perSecond - now)
  }

  /** Something was sent. */
  sent(now) {
    this.#last = now
  }
}

/** A bound on how often presence is tracked: the server ends a channel that does it more often (5 in 30 s by default). */
export class Allowance {
  #times = []

  constructor(count, windowMs) {
    this.count = count
    this.windowMs = windowMs
  }

  /** How long to wait before the next one; 0 when it may happen now. */
  wait(now) {
    this.#times = this.#times.filter((time) => time > now - this.windowMs)
    return this.#times.length < this.count ? 0 : this.#times[0] + this.windowMs - now
  }

  /** It has happened. */
  take(now) {
    this.#times.push(now)
  }
}
