// Who is present on the channel of a pane, live.

import { count } from '../lib/format.js'
import { eachFrame } from './batch.js'
import { make } from './dom.js'

/** Entries in the page; of more, their number is said. */
const ITEMS_MAX = 200

export class PresenceView {
  #parts
  #identity
  #list = []
  #items = new Map()
  #paint = eachFrame(() => this.#flush())

  constructor(parts, identity) {
    this.#parts = parts
    this.#identity = identity
  }

  /** Shows this list, as `Presence` makes it. */
  show(list) {
    this.#list = list
    this.#paint()
  }

  #flush() {
    const list = this.#list.slice(0, ITEMS_MAX)
    // Entries that stay keep their elements: what is announced is what has changed.
    const items = new Map(list.map((one) => [one.ref, this.#items.get(one.ref) ?? this.#item(one)]))
    for (const [ref, item] of this.#items) if (!items.has(ref)) item.remove()
    this.#items = items
    const element = this.#parts['presence-list']
    ;[...items.values()].forEach((item, index) => {
      if (element.children[index] !== item) element.insertBefore(item, element.children[index] ?? null)
    })
    const more = this.#list.length - list.length
    const keys = new Set(this.#list.map(({ key }) => key)).size
    this.#parts['presence-count'].textContent =
      this.#list.length === 0 ? '' : `${count(keys, 'key')}, ${count(this.#list.length, 'presence')}${more > 0 ? `, ${more} not shown` : ''}`
  }

  #item({ key, ref, meta }) {
    return make(
      'li',
      { 'data-key': key, 'data-ref': ref },
      make('strong', { text: key }),
      key === this.#identity && make('span', { class: 'tag ok', text: 'this client' }),
      make('code', { text: JSON.stringify(meta) }),
    )
  }
}
