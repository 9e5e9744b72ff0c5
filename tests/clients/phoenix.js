// The JavaScript client of Phoenix itself, in both versions of the serializer.

import { Socket } from 'phoenix'

import { LIBRARY_TIMEOUT_MS, token, trackedTransport, within } from './support.js'

/** Options of a version: 1.0.0 sends objects. */
export const VERSIONS = {
  '2.0.0': { vsn: '2.0.0' },
  '1.0.0': {
    vsn: '1.0.0',
    encode: (message, done) => done(JSON.stringify(message)),
    decode: (text, done) => done(JSON.parse(text)),
  },
}

/** A connected socket of the server, and its transport. */
export function connectTo(server, version) {
  const transport = trackedTransport()
  const socket = new Socket(server.socket, { transport, params: { apikey: token() }, timeout: LIBRARY_TIMEOUT_MS, ...VERSIONS[version] })
  socket.connect()
  return { socket, transport }
}

/** The answer of a push or join: `{status, response}`. */
export function answer(push) {
  const answered = new Promise((resolve) => {
    for (const status of ['ok', 'error', 'timeout']) push.receive(status, (response) => resolve({ status, response }))
  })
  return within(answered, 'an answer')
}
