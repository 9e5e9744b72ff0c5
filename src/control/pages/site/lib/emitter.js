// Listeners by name: what the client and its channels tell others with.
//
// A listener that throws does not keep the others from hearing; its error is reported as if nobody had called it.

export class Emitter {
  #listeners = new Map()

  /** Calls `listener` for each `type` from now on; the returned function ends that. */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set()
    this.#listeners.set(type, listeners.add(listener))
    return () => listeners.delete(listener)
  }

  emit(type, detail) {
    for (const listener of this.#listeners.get(type) ?? []) {
      try {
        listener(detail)
      } catch (error) {
        queueMicrotask(() => {
          throw error
        })
      }
    }
  }
}
