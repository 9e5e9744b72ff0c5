// A cursor that glides: positions come some times a second, and between them it moves on smoothly.
//
// It approaches where it should be exponentially, slower where positions come more rarely, so that it is always in motion and
// never more than about one interval late. Knows no page; times are milliseconds.

/** The slowest and fastest approach, as a time constant. */
const APPROACH_MS_MIN = 25
const APPROACH_MS_MAX = 250
/** How much a new interval counts in the mean of the intervals. */
const WEIGHT = 0.3
/** Nearer than this it has arrived: a fifth of a pixel on a wide screen. */
const NEAR = 0.0001

export class Glide {
  #interval = APPROACH_MS_MIN
  #toldAt = -Infinity

  constructor(x, y) {
    this.x = this.toX = x
    this.y = this.toY = y
  }

  /** A new position has come. */
  to(x, y, now) {
    // What comes after a pause says nothing about how often positions come.
    const interval = now - this.#toldAt
    if (interval < 4 * APPROACH_MS_MAX) this.#interval += WEIGHT * (interval - this.#interval)
    this.#toldAt = now
    this.toX = x
    this.toY = y
  }

  /** It is there at once: for people who want no motion. */
  jump() {
    this.x = this.toX
    this.y = this.toY
  }

  /** Moves on by so much time; whether it has further to go. */
  step(ms) {
    const approach = Math.min(APPROACH_MS_MAX, Math.max(APPROACH_MS_MIN, this.#interval))
    const part = 1 - Math.exp(-ms / approach)
    this.x += part * (this.toX - this.x)
    this.y += part * (this.toY - this.y)
    if (Math.abs(this.toX - this.x) > NEAR || Math.abs(this.toY - this.y) > NEAR) return true
    this.jump()
    return false
  }
}
