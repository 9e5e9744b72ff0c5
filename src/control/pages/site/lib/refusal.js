// Why a server did not take the WebSocket. Browsers hide the answer to an upgrade from the page, so the same address is asked
// once more over HTTP, where the answer can be read if page and server have the same origin.
//
// Out comes `{ status, error, why, isFinal }`: the HTTP status or null, the server's own words or null, a sentence for people, and
// whether trying again is of no use before something has changed.

import { isLoopback } from './address.js'

/** A refusal is held back for 2 s; this leaves room for a slow network. */
const ANSWER_TIMEOUT_MS = 8_000

/** Answers after which the same attempt may succeed. */
const PASSING = new Set([429, 500, 502, 503, 504])

export async function findRefusal(socketUrl, { fetch = globalThis.fetch, pageOrigin = globalThis.location?.origin } = {}) {
  const url = new URL(socketUrl.replace(/^ws/, 'http'))
  if (pageOrigin?.startsWith('https:') && url.protocol === 'http:' && !isLoopback(url.host)) {
    return told(null, null, `This page came by https, so the browser does not let it speak to ${url.origin} without TLS.`, true)
  }
  const ask = (mode) => fetch(url, { mode, cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) })
  try {
    return await read(await ask('cors'))
  } catch {
    // Either nobody is there, or the answer is not for this origin to read. Whether there was one can be seen without reading.
    return ask('no-cors').then(
      () => told(null, null, `${url.origin} answers, but the browser does not show this page what it says. Most often that is a token it does not take, or a host name whose first label is no tenant; its log has the reason.`, false),
      () => told(null, null, `Nothing answers at ${url.origin}. The server is not running, the name does not resolve, a firewall is between, or its certificate is not trusted.`, false),
    )
  }
}

async function read(answer) {
  const text = await answer.text()
  if (answer.status === 400) {
    // Without the upgrade, good credentials end here.
    return told(400, null, 'The server takes this token, but the WebSocket did not get through. A proxy between may not pass upgrades on.', false)
  }
  if (answer.status === 404 && !text.startsWith('{')) {
    return told(404, null, 'There is no Realtime server below this address: it answers 404 for /realtime/v1/websocket.', true)
  }
  let error = null
  try {
    error = JSON.parse(text).error ?? null
  } catch {
    // Not the server's own form: a proxy's page.
  }
  return told(answer.status, error, error ?? `The server answers ${answer.status}.`, !PASSING.has(answer.status))
}

function told(status, error, why, isFinal) {
  return { status, error, why, isFinal }
}
