// The frames that the log keeps: the newest, within a bound of number and one of bytes, and which of them a filter lets through.
//
// Pausing is the view's business: frames are kept and counted all the same. An entry has no message but the text or the bytes of
// its frame; it is decoded again when somebody opens it, so that thousands of entries cost what they weigh.

import { decode } from '../lib/frame.js'
import { KINDS, describe, kindOf, plain, pretty, redact } from './describe.js'

/** Frames that are kept. */
export const FRAMES_MAX = 5_000
/** Bytes of frames that are kept; the oldest go first, the newest stays whatever its size. */
export const FRAMES_BYTES_MAX = 20_000_000

export class Frames {
  /** Oldest first. */
  entries = []
  /** How many frames there were, and how many bytes of each direction. */
  count = 0
  bytesIn = 0
  bytesOut = 0

  #kept = 0

  /** The number of the oldest frame that is kept; those before it are dropped. */
  get firstId() {
    return this.entries[0]?.id ?? this.count + 1
  }

  /** Takes a frame as the client tells it. The entry. */
  add({ direction, data, size, message, problem, time }) {
    const { title, summary } = message ? describe(message) : { title: 'not understood', summary: problem }
    if (direction === 'in') this.bytesIn += size
    else this.bytesOut += size
    const kept = typeof data === 'string' ? redact(data) : data
    const binary = message?.binary ?? null
    return this.#push({ direction, kind: kindOf(message), time, size, title, summary, topic: message?.topic ?? '', data: kept, binary, problem })
  }

  /** Takes what happened to the connection itself, in a sentence. */
  note(summary, time = Date.now()) {
    return this.#push({ direction: '', kind: 'transport', time, size: 0, title: 'transport', summary, topic: '', data: null, binary: null, problem: null })
  }

  clear() {
    this.entries = []
    this.count = 0
    this.bytesIn = 0
    this.bytesOut = 0
    this.#kept = 0
  }

  #push(entry) {
    this.count += 1
    this.entries.push({ id: this.count, ...entry })
    this.#kept += entry.size
    // Going over the bound by a share before cutting keeps the cost of cutting away from every single frame.
    if (this.entries.length > FRAMES_MAX * 1.1 || this.#kept > FRAMES_BYTES_MAX) this.#cut()
    return this.entries.at(-1)
  }

  #cut() {
    let first = Math.max(0, this.entries.length - FRAMES_MAX)
    let kept = this.entries.slice(first).reduce((sum, { size }) => sum + size, 0)
    while (kept > FRAMES_BYTES_MAX && first < this.entries.length - 1) {
      kept -= this.entries[first].size
      first += 1
    }
    this.entries = this.entries.slice(first)
    this.#kept = kept
  }
}

/** Which entries are shown: `kinds` is a set, `text` may stand anywhere in topic, title, or the whole frame. */
export function filter({ kinds = new Set(KINDS), text = '' } = {}) {
  const wanted = text.trim().toLowerCase()
  return (entry) => kinds.has(entry.kind) && (wanted === '' || haystack(entry).includes(wanted))
}

function haystack({ topic, title, summary, data }) {
  return `${topic} ${title} ${typeof data === 'string' ? data : summary}`.toLowerCase()
}

/** The whole of an entry, for people. */
export function body({ data, summary, problem, binary }) {
  if (data === null) return summary
  const failed = (why) => (typeof data === 'string' ? `${why}\n\n${data}` : why)
  if (problem) return failed(problem)
  let text
  try {
    text = pretty(decode(bufferOf(data)))
  } catch (error) {
    return failed(error.message)
  }
  return binary ? `// binary frame: ${binary.kind}, payload encoded as ${binary.encoding}\n${text}` : text
}

/** Entries as NDJSON: one object per line, oldest first. */
export function ndjson(entries) {
  return entries.map((entry) => `${JSON.stringify(record(entry))}\n`).join('')
}

function record({ time, direction, kind, size, data, summary, problem, binary }) {
  const head = { time: new Date(time).toISOString(), kind }
  if (data === null) return { ...head, text: summary }
  return { ...head, direction, bytes: size, ...(binary ? { binary } : {}), ...(problem ? { problem } : frameOf(data)) }
}

/** One frame that cannot be said must not keep all others from being said. */
function frameOf(data) {
  try {
    return { frame: plain(decode(bufferOf(data))) }
  } catch (error) {
    return { problem: error.message }
  }
}

/** What `decode` takes: a frame that was sent is a view of its buffer. */
function bufferOf(data) {
  return data instanceof Uint8Array ? data.slice().buffer : data
}
