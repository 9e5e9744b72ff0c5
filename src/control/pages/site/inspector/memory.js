// What this browser remembers: one host with its token and bearer, under one name in the local storage.
//
// Browsers may forbid storage, or somebody may have written something else there; then nothing is remembered, and nobody is told.

const NAME = 'realtime-inspector'

/** `{ host, token, bearer }`, or null. */
export function recall(storage = safely(() => globalThis.localStorage)) {
  const kept = safely(() => JSON.parse(storage.getItem(NAME)))
  const isOurs = kept && ['host', 'token', 'bearer'].every((name) => typeof kept[name] === 'string')
  return isOurs ? kept : null
}

export function remember({ host, token, bearer }, storage = safely(() => globalThis.localStorage)) {
  safely(() => storage.setItem(NAME, JSON.stringify({ host, token, bearer })))
}

export function forget(storage = safely(() => globalThis.localStorage)) {
  safely(() => storage.removeItem(NAME))
}

function safely(action) {
  try {
    return action()
  } catch {
    return null
  }
}
