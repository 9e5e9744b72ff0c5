// The log of a pane: the newest frames that the filter lets through, newest first, one collapsed line each.
//
// Lines are made in one batch per paint, of which there are at most `ROWS_MAX` in the page, whatever arrives. While it is paused the
// list stands still, and frames are kept and counted.

import { bytes, clock, count } from '../lib/format.js'
import { eachFrame } from './batch.js'
import { KINDS } from './describe.js'
import { copy, download, make } from './dom.js'
import { FRAMES_MAX, body, filter, ndjson } from './frames.js'

/** Lines in the page. More are kept: a narrower filter shows them, and the file has them. */
export const ROWS_MAX = 300

/** What a line says when it is opened too late. */
const DROPPED = 'This frame is no longer kept: newer ones have taken its place.'

const ARROWS = { in: ['↓', 'received'], out: ['↑', 'sent'], '': ['·', ''] }

export class LogView {
  #frames
  #parts
  #matches = filter()
  #pending = []
  #heldSince = null
  #paint = eachFrame(() => this.#flush())

  /** `parts` finds the elements of the pane by their role. */
  constructor(frames, parts) {
    this.#frames = frames
    this.#parts = parts
    parts['log-filter'].append(...KINDS.map((kind) => make('label', {}, make('input', { type: 'checkbox', value: kind, checked: true }), kind)))
    parts['log-filter'].addEventListener('change', () => this.#refilter())
    parts['log-search'].addEventListener('input', () => this.#refilter())
    parts.pause.addEventListener('click', () => this.#pause())
    parts.clear.addEventListener('click', () => this.#clear())
    parts.copy.addEventListener('click', () => this.#copy())
    parts.download.addEventListener('click', () => this.#download())
    // Opening a line fills it; closing empties it again.
    parts.log.addEventListener('toggle', ({ target }) => this.#toggle(target), true)
  }

  /** A new entry of the frames. */
  added(entry) {
    if (this.#heldSince === null && this.#matches(entry)) {
      this.#pending.push(entry)
      if (this.#pending.length > ROWS_MAX) this.#pending.shift()
    }
    this.#paint()
  }

  #flush() {
    const { log } = this.#parts
    const rows = this.#pending.reverse().map(row)
    this.#pending = []
    log.prepend(...rows)
    while (log.childElementCount > ROWS_MAX) log.lastElementChild.remove()
    this.#letGo()
    this.#count()
  }

  /** Lines of frames that are not kept any more, which a narrow filter leaves in the page, do not keep them either. */
  #letGo() {
    const { firstId } = this.#frames
    for (let line = this.#parts.log.lastElementChild; line && (line.entry === null || line.entry.id < firstId); line = line.previousElementSibling) {
      line.entry = null
    }
  }

  #count() {
    const { count: all, bytesIn, bytesOut, entries } = this.#frames
    const shown = this.#parts.log.childElementCount
    const parts = [`${count(all, 'entry', 'entries')}, ${bytes(bytesIn)} in, ${bytes(bytesOut)} out`]
    if (this.#heldSince !== null) parts.push(`paused: ${(all - this.#heldSince).toLocaleString('en')} more`)
    else if (shown < all) parts.push(`${shown.toLocaleString('en')} shown`)
    if (entries.length < all) parts.push(`the last ${FRAMES_MAX.toLocaleString('en')} are kept`)
    this.#parts['log-count'].textContent = all === 0 ? 'No frames yet.' : `${parts.join(' · ')}.`
  }

  #refilter() {
    const boxes = [...this.#parts['log-filter'].querySelectorAll('input:checked')]
    this.#matches = filter({ kinds: new Set(boxes.map(({ value }) => value)), text: this.#parts['log-search'].value })
    this.#rebuild()
    this.#say(`${count(this.#parts.log.childElementCount, 'frame')} shown`)
  }

  /** Shows what the filter lets through now; while paused, of what was there when it began. */
  #rebuild() {
    const held = this.#heldSince
    const found = []
    for (let index = this.#frames.entries.length - 1; index >= 0 && found.length < ROWS_MAX; index -= 1) {
      const entry = this.#frames.entries[index]
      if ((held === null || entry.id <= held) && this.#matches(entry)) found.push(entry)
    }
    this.#pending = []
    this.#parts.log.replaceChildren(...found.map(row))
    this.#count()
  }

  #pause() {
    const { pause } = this.#parts
    this.#flush()
    const isPaused = this.#heldSince === null
    this.#heldSince = isPaused ? this.#frames.count : null
    pause.setAttribute('aria-pressed', String(isPaused))
    pause.textContent = isPaused ? 'Resume' : 'Pause'
    if (isPaused) this.#count()
    else this.#rebuild()
  }

  #clear() {
    this.#frames.clear()
    if (this.#heldSince !== null) this.#heldSince = 0
    this.#rebuild()
    this.#say('The log is empty')
  }

  async #copy() {
    const entries = this.#chosen()
    const done = await copy(ndjson(entries))
    this.#say(done ? `${count(entries.length, 'frame')} copied` : 'The browser does not let this page copy', true)
  }

  #download() {
    const entries = this.#chosen()
    const stamp = new Date().toISOString().slice(0, 19).replace(/[:T]/g, '-')
    download(`realtime-${stamp}.ndjson`, ndjson(entries), 'application/x-ndjson')
    this.#say(`${count(entries.length, 'frame')} in the file`, true)
  }

  /** All that the filter lets through, also what the page has no line for. */
  #chosen() {
    return this.#frames.entries.filter(this.#matches)
  }

  /** Says what a button did; where that is not to be seen anyway, also on the screen. */
  #say(text, isShown = false) {
    const status = this.#parts['log-status']
    status.classList.toggle('visually-hidden', !isShown)
    status.classList.toggle('muted', isShown)
    status.textContent = text
  }

  #toggle(details) {
    details.querySelector('pre')?.remove()
    if (details.open) details.append(make('pre', { text: details.entry ? body(details.entry) : DROPPED }))
  }
}

function row(entry) {
  const [arrow, word] = ARROWS[entry.direction]
  const details = make(
    'details',
    { class: 'frame', 'data-direction': entry.direction || null, 'data-kind': entry.kind },
    make(
      'summary',
      {},
      make('span', { class: 'time', text: clock(entry.time) }),
      make('span', { class: 'arrow', 'aria-hidden': 'true', text: arrow }),
      make(
        'span',
        { class: 'line' },
        make('span', { class: 'visually-hidden', text: `${word} ` }),
        make('span', { class: 'title', text: entry.title }),
        ' ',
        make('span', { class: 'summary', text: entry.summary }),
      ),
      make(
        'span',
        { class: 'size' },
        entry.binary && make('span', { class: 'tag', title: `binary frame: ${entry.binary.kind}, payload encoded as ${entry.binary.encoding}`, text: 'bin' }),
        entry.binary && ' ',
        entry.size > 0 && bytes(entry.size),
      ),
    ),
  )
  details.entry = entry
  return details
}
