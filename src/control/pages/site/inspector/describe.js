// What a frame is, for the log: its kind, one line about it, and the whole of it when somebody opens it.

/** The kinds of what the log shows, in the order of the filter. */
export const KINDS = ['broadcast', 'presence', 'postgres', 'system', 'join', 'reply', 'error', 'heartbeat', 'transport']

/** A map: events have any name, `constructor` as well. */
const KIND_OF_EVENT = new Map(Object.entries({
  broadcast: 'broadcast',
  presence: 'presence',
  presence_state: 'presence',
  presence_diff: 'presence',
  postgres_changes: 'postgres',
  INSERT: 'postgres',
  UPDATE: 'postgres',
  DELETE: 'postgres',
  system: 'system',
  phx_join: 'join',
  phx_leave: 'join',
  phx_close: 'join',
  access_token: 'join',
  phx_error: 'error',
}))

/** Characters of a payload in the one line about a frame. */
const SUMMARY_CHARS = 160
/** Bytes of an opaque payload that are shown when its frame is opened. */
const DUMP_BYTES = 512

/** A token in a frame's text: who shows a log to others should not give theirs away. */
const TOKEN = /("(?:access_token|user_token)"\s*:\s*")((?:[^"\\]|\\.)*)"/g
/** What a JSON string is made of: cut between these, it stays one. */
const UNITS = /\\u[0-9a-f]{4}|\\.|[^\\]/giu
/** Characters of a token that are shown. */
const TOKEN_CHARS = 12

/** The kind of a message; null, which does not decode, is an error. */
export function kindOf(message) {
  if (!message) return 'error'
  const { topic, event, payload } = message
  if (topic === 'phoenix') return 'heartbeat'
  if (event === 'phx_reply') return payload?.status === 'ok' ? 'reply' : 'error'
  return KIND_OF_EVENT.get(event) ?? 'system'
}

/** `{ title, summary }` of a message: what it is called, and the beginning of what it says. */
export function describe(message) {
  const { event, payload } = message
  if (event === 'phx_reply') {
    return { title: event, summary: `to ${message.ref}: ${payload?.status} ${short(payload?.response)}` }
  }
  if (event === 'broadcast' && typeof payload?.event === 'string') {
    return { title: `broadcast ${payload.event}`, summary: short(payload.payload) }
  }
  if (event === 'presence' && typeof payload?.event === 'string') {
    return { title: `presence ${payload.event}`, summary: payload.payload === undefined ? '' : short(payload.payload) }
  }
  if (event === 'postgres_changes' && payload?.data) {
    const { type, schema, table, record, old_record: old } = payload.data
    return { title: `${type} ${schema}.${table}`, summary: short(record ?? old) }
  }
  if (event === 'system') return { title: `system ${payload?.extension ?? ''}`.trim(), summary: `${payload?.status}: ${payload?.message}` }
  return { title: String(event), summary: short(payload) }
}

/** The text of a frame without the secrets in it. */
export function redact(text) {
  return text.replace(TOKEN, (whole, before, token) => {
    const units = token.match(UNITS) ?? []
    return units.length <= TOKEN_CHARS ? whole : `${before}${units.slice(0, TOKEN_CHARS).join('')}… (${units.length} characters)"`
  })
}

/** All of a message, for people: JSON with line breaks, bytes as a dump. */
export function pretty(message) {
  const { joinRef, ref, topic, event, payload } = message
  const bytes = bytesIn(payload)
  const body = JSON.stringify({ join_ref: joinRef, ref, topic, event, payload }, replaceBytes, 2)
  return redact(bytes ? `${body}\n\n${dump(bytes)}` : body)
}

/** A message as a value that JSON can say; bytes become base64. */
export function plain(message) {
  const { joinRef, ref, topic, event, payload } = message
  const toBase64 = (_, value) => (value instanceof Uint8Array ? { base64: base64(value) } : value)
  return JSON.parse(redact(JSON.stringify([joinRef, ref, topic, event, payload], toBase64)))
}

/** Bytes, 16 in a line, with their offset and the characters that they are. */
export function dump(bytes) {
  const lines = []
  for (let at = 0; at < Math.min(bytes.length, DUMP_BYTES); at += 16) {
    const line = [...bytes.subarray(at, at + 16)]
    const hex = line.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')
    const chars = line.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '.')).join('')
    lines.push(`${at.toString(16).padStart(4, '0')}  ${hex.padEnd(47)}  ${chars}`)
  }
  if (bytes.length > DUMP_BYTES) lines.push(`… ${bytes.length - DUMP_BYTES} more bytes`)
  return lines.join('\n')
}

export function base64(bytes) {
  let binary = ''
  for (const byte of bytes) binary += String.fromCharCode(byte)
  return btoa(binary)
}

function short(payload) {
  if (payload instanceof Uint8Array) return `${payload.length} bytes`
  const text = redact(JSON.stringify(payload, replaceBytes) ?? '')
  return text.length > SUMMARY_CHARS ? `${text.slice(0, SUMMARY_CHARS)}…` : text
}

function replaceBytes(_, value) {
  return value instanceof Uint8Array ? `(${value.length} bytes)` : value
}

function bytesIn(payload) {
  if (payload instanceof Uint8Array) return payload
  return Object.values(payload ?? {}).find((value) => value instanceof Uint8Array) ?? null
}
