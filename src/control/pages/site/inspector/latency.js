// How long one's own broadcasts take to come back, and acks to come.
//
// A broadcast carries no mark of ours: the first that arrives with the event and the payload of one that is under way is taken for
// it. Two clients that send the same at the same time may so be taken for each other, which a median survives.

/** Broadcasts that may be under way; of more, the oldest are given up. */
const UNDER_WAY_MAX = 200
/** After this long without an echo a broadcast is not waited for any more. */
const LOST_MS = 10_000
/** Latencies that are kept: what the plot shows, and what the percentiles are of. */
export const SAMPLES_MAX = 120

export class Latencies {
  /** The latest echoes and acks in milliseconds, oldest first: `{ kind: 'echo' or 'ack', ms }`. */
  samples = []

  #underWay = []

  /** A broadcast is sent at `now`, in milliseconds of any clock that does not jump. */
  sent(event, payload, now) {
    this.#underWay.push({ key: keyOf(event, payload), now })
    if (this.#underWay.length > UNDER_WAY_MAX) this.#underWay.shift()
  }

  /** A broadcast has arrived. Its milliseconds if it is one of ours, else null. */
  received(event, payload, now) {
    this.#underWay = this.#underWay.filter((one) => now - one.now <= LOST_MS)
    if (this.#underWay.length === 0) return null
    const key = keyOf(event, payload)
    const index = this.#underWay.findIndex((one) => one.key === key)
    if (index < 0) return null
    const [{ now: then }] = this.#underWay.splice(index, 1)
    this.#add('echo', now - then)
    return now - then
  }

  acked(ms) {
    this.#add('ack', ms)
  }

  clear() {
    this.samples = []
    this.#underWay = []
  }

  /** `{ count, last, p50, p95, max }` of the samples of one kind, or null when there are none. */
  figures(kind) {
    const values = this.samples.filter((sample) => sample.kind === kind).map(({ ms }) => ms)
    if (values.length === 0) return null
    const sorted = [...values].sort((a, b) => a - b)
    return { count: values.length, last: values.at(-1), p50: percentile(sorted, 50), p95: percentile(sorted, 95), max: sorted.at(-1) }
  }

  #add(kind, ms) {
    this.samples.push({ kind, ms })
    if (this.samples.length > SAMPLES_MAX) this.samples.shift()
  }
}

/** The smallest of `sorted` that at least `percent` of a hundred are not above. */
export function percentile(sorted, percent) {
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)]
}

function keyOf(event, payload) {
  return `${event} ${JSON.stringify(payload)}`
}
