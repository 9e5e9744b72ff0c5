// Who is present on a topic, from `presence_state` and `presence_diff`.
//
// A key has metas, one per channel that tracks under it; a meta is known by its `phx_ref` alone. As in realtime-js, diffs that
// come before the state of the current join are kept and applied after it: until then nobody knows what they change.

/** Diffs that may wait for a state; more come only from a server that never sends one, and the oldest are dropped. */
const WAITING_DIFFS_MAX = 100

export class Presence {
  #metas = new Map()
  #waiting = []
  #hasState = false

  /** Forgets everything: a new join begins. With `expectsState` diffs wait for it, without they count at once. */
  reset(expectsState) {
    this.#metas = new Map()
    this.#waiting = []
    this.#hasState = !expectsState
  }

  /** Takes a `presence_state`. */
  state(state) {
    this.#metas = new Map(Object.entries(state ?? {}).map(([key, { metas }]) => [key, [...metas]]))
    this.#hasState = true
    const waiting = this.#waiting
    this.#waiting = []
    for (const diff of waiting) this.#apply(diff)
  }

  /** Takes a `presence_diff`. */
  diff(diff) {
    if (this.#hasState) {
      this.#apply(diff)
    } else {
      this.#waiting.push(diff)
      if (this.#waiting.length > WAITING_DIFFS_MAX) this.#waiting.shift()
    }
  }

  /** One entry per meta, in the order in which they came: `{ key, ref, meta }`. */
  list() {
    return [...this.#metas].flatMap(([key, metas]) =>
      metas.map(({ phx_ref: ref, phx_ref_prev: _, ...meta }) => ({ key, ref, meta })),
    )
  }

  #apply({ joins = {}, leaves = {} }) {
    // Joins first: a meta that is replaced stands in both, and its key must not lose its place in between.
    for (const [key, { metas }] of Object.entries(joins)) {
      const known = this.#metas.get(key) ?? []
      const fresh = new Set(metas.map((meta) => meta.phx_ref))
      this.#metas.set(key, [...known.filter((meta) => !fresh.has(meta.phx_ref)), ...metas])
    }
    for (const [key, { metas }] of Object.entries(leaves)) {
      const gone = new Set(metas.map((meta) => meta.phx_ref))
      const left = (this.#metas.get(key) ?? []).filter((meta) => !gone.has(meta.phx_ref))
      if (left.length > 0) this.#metas.set(key, left)
      else this.#metas.delete(key)
    }
  }
}
