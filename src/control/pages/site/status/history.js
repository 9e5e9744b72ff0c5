// What the page remembers: the figures of the last minute, and what they say about the time between two of them.

/** Samples that are kept: a minute of them, and one to begin with. */
const SAMPLES_MAX = 61

/** Seconds over which loop times are summed up. */
const LOOP_SECONDS = 10

export class History {
  #samples = []

  /** Takes figures. False when they are the ones that were taken last. */
  add(figures) {
    const last = this.last
    if (last && figures.uptime_seconds === last.uptime_seconds) return false
    // The server has begun anew: what was counted before is no beginning for what is counted now.
    const isAnother =
      last && (figures.uptime_seconds < last.uptime_seconds || figures.shards.length !== last.shards.length)
    if (isAnother) this.#samples = []
    this.#samples.push(figures)
    if (this.#samples.length > SAMPLES_MAX) this.#samples.shift()
    return true
  }

  get last() {
    return this.#samples.at(-1)
  }

  /** What `read` makes of each sample. */
  values(read) {
    return this.#samples.map(read)
  }

  /** By how much a counter grew per second, from each sample to the next one. */
  rates(read) {
    const rates = []
    for (let at = 1; at < this.#samples.length; at += 1) {
      rates.push(rate(this.#samples[at - 1], this.#samples[at], read))
    }
    return rates
  }

  /** The last of the rates; null before there are two samples. */
  rate(read) {
    const [before, now] = this.#samples.slice(-2)
    return now ? rate(before, now, read) : null
  }

  /** How busy a shard was of late, as a part of one, and how long its turns took, in seconds; null before that is known. */
  loop(shard) {
    const now = this.last
    const before = this.#samples.find((it) => now.uptime_seconds - it.uptime_seconds <= LOOP_SECONDS)
    const time = now.uptime_seconds - before.uptime_seconds
    if (!(time > 0)) return { busy: null, mean: null, p99: null }
    const [one, other] = [before.shards[shard], now.shards[shard]]
    const spent = other.turn_seconds_total - one.turn_seconds_total
    const turns = other.turns - one.turns
    const counts = other.turn_counts.map((count, at) => count - one.turn_counts[at])
    return {
      busy: Math.min(1, Math.max(0, spent / time)),
      mean: turns > 0 ? spent / turns : null,
      p99: bound(counts, now.turn_seconds_bounds, 0.99, other.turn_seconds_max),
    }
  }
}

function rate(before, now, read) {
  const time = now.uptime_seconds - before.uptime_seconds
  return Math.max(0, read(now) - read(before)) / time
}

/**
 * What a part of the values did not pass. `counts` has one class more than there are `bounds`; nothing is above `longest`. Null where
 * nothing was counted.
 */
export function bound(counts, bounds, part, longest) {
  const all = counts.reduce((sum, count) => sum + count, 0)
  if (all <= 0) return null
  let below = 0
  for (const [at, count] of counts.entries()) {
    below += count
    if (below >= all * part) return Math.min(bounds[at] ?? longest, longest)
  }
  return longest
}
