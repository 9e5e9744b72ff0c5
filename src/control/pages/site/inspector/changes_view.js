// The row changes of a pane as a table, newest first.

import { clock, count } from '../lib/format.js'
import { eachFrame } from './batch.js'
import { make } from './dom.js'

/** Rows in the page; older ones are in the log. */
const ROWS_MAX = 200
/** Characters of a record in its cell; the log has all of it. */
const CELL_CHARS_MAX = 2_000

const TAG_OF_TYPE = { INSERT: 'ok', UPDATE: 'info', DELETE: 'bad' }

export class ChangesView {
  #parts
  #pending = []
  #count = 0
  #paint = eachFrame(() => this.#flush())

  constructor(parts) {
    this.#parts = parts
  }

  added(data) {
    this.#count += 1
    this.#pending.push(data)
    if (this.#pending.length > ROWS_MAX) this.#pending.shift()
    this.#paint()
  }

  #flush() {
    const body = this.#parts.changes.tBodies[0]
    // Errors are rare: their column is there when one is.
    if (this.#pending.some(({ errors }) => errors?.length > 0)) this.#parts.changes.classList.add('has-errors')
    body.prepend(...this.#pending.reverse().map(row))
    this.#pending = []
    while (body.rows.length > ROWS_MAX) body.lastElementChild.remove()
    this.#parts['changes-scroll'].hidden = false
    this.#parts['changes-hint'].hidden = true
    this.#parts['changes-count'].textContent = count(this.#count, 'change')
  }
}

function row({ type, schema, table, commit_timestamp: committed, record, old_record: old, errors }) {
  const time = Date.parse(committed)
  return make(
    'tr',
    { 'data-type': type },
    make('td', {}, make('span', { class: `tag ${TAG_OF_TYPE[type] ?? ''}`, text: type })),
    make('td', { text: `${schema}.${table}` }),
    make('td', { class: 'mono', title: committed, text: Number.isNaN(time) ? committed : clock(time) }),
    make('td', { class: 'json', text: cell(record) }),
    make('td', { class: 'json', text: cell(old) }),
    make('td', { class: 'errors-cell', text: errors?.join(', ') ?? '' }),
  )
}

function cell(value) {
  const text = value === undefined ? '' : JSON.stringify(value)
  return text.length > CELL_CHARS_MAX ? `${text.slice(0, CELL_CHARS_MAX)}… (${text.length} characters)` : text
}
