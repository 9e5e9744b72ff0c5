// The Phoenix serializer 2.0.0: frames to messages and back.
//
// In comes what a WebSocket delivers (a string or an ArrayBuffer), out goes a message:
// `{ joinRef, ref, topic, event, payload, binary }`, where `binary` is null for text frames, and else says which of the binary
// kinds it was, how its payload was encoded, and its metadata. User broadcasts come out as the object that a text broadcast
// has as its payload, so that nobody above needs to know how one travelled. Frames that say nothing throw a `FrameError`,
// whose text is meant for people.
//
// Deliberately absent: serializer 1.0.0, and sockets.

const PUSH = 0
const REPLY = 1
const BROADCAST = 2
const USER_BROADCAST_PUSH = 3
const USER_BROADCAST = 4

const OPAQUE = 0
const JSON_ENCODED = 1

/** The header of a binary frame gives one byte to each length. */
const FIELD_BYTES_MAX = 255

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export class FrameError extends Error {}

/** A text frame. */
export function encode({ joinRef = null, ref = null, topic, event, payload }) {
  return JSON.stringify([joinRef, ref, topic, event, payload])
}

/**
 * A broadcast as supabase-js sends it: binary, with the user's event in the header. `payload` is bytes, or anything else that
 * JSON can say.
 */
export function encodeBroadcast({ joinRef = null, ref = null, topic, event, payload, metadata = null }) {
  const isBytes = payload instanceof Uint8Array
  const fields = {
    'join reference': encoder.encode(joinRef ?? ''),
    reference: encoder.encode(ref ?? ''),
    topic: encoder.encode(topic),
    event: encoder.encode(event),
    metadata: encoder.encode(metadata === null ? '' : JSON.stringify(metadata)),
  }
  for (const [name, bytes] of Object.entries(fields)) {
    if (bytes.length > FIELD_BYTES_MAX) {
      throw new FrameError(`The ${name} has ${bytes.length} bytes; a binary frame takes ${FIELD_BYTES_MAX}.`)
    }
  }
  const parts = Object.values(fields)
  const data = isBytes ? payload : encoder.encode(JSON.stringify(payload))
  const header = Uint8Array.from([USER_BROADCAST_PUSH, ...parts.map((part) => part.length), isBytes ? OPAQUE : JSON_ENCODED])
  return concat([header, ...parts, data])
}

/** The message in what a socket delivered or is about to send. */
export function decode(data) {
  return typeof data === 'string' ? decodeText(data) : decodeBinary(new Uint8Array(data))
}

/** Bytes of a frame on the wire, without the WebSocket's own header. */
export function sizeOf(data) {
  return typeof data === 'string' ? encoder.encode(data).length : data.byteLength
}

function decodeText(text) {
  let parts
  try {
    parts = JSON.parse(text)
  } catch {
    throw new FrameError('The frame is not JSON.')
  }
  if (!Array.isArray(parts) || parts.length < 5) throw new FrameError('The frame is not an array of five parts.')
  const [joinRef, ref, topic, event, payload] = parts
  return { joinRef, ref, topic, event, payload, binary: null }
}

function decodeBinary(bytes) {
  const [kind] = bytes
  switch (kind) {
    case PUSH: {
      const [joinRef, topic, event, data] = split(bytes, 1, 3)
      return opaque('push', { joinRef, topic, event }, data)
    }
    case REPLY: {
      const [joinRef, ref, topic, status, data] = split(bytes, 1, 4)
      const message = opaque('reply', { joinRef, ref, topic, event: 'phx_reply' }, data)
      return { ...message, payload: { status: text(status), response: data } }
    }
    case BROADCAST: {
      const [topic, event, data] = split(bytes, 1, 2)
      return opaque('broadcast', { topic, event }, data)
    }
    case USER_BROADCAST_PUSH: {
      const [joinRef, ref, topic, event, metadata, data] = split(bytes, 1, 5, 1)
      return userBroadcast('user broadcast push', { joinRef, ref, topic }, event, metadata, bytes[6], data)
    }
    case USER_BROADCAST: {
      const [topic, event, metadata, data] = split(bytes, 1, 3, 1)
      return userBroadcast('user broadcast', { topic }, event, metadata, bytes[4], data)
    }
    case undefined:
      throw new FrameError('The frame is empty.')
    default:
      throw new FrameError(`Binary frames of kind ${kind} are not known.`)
  }
}

function opaque(kind, fields, data) {
  return { ...named(fields), payload: data, binary: { kind, encoding: 'binary', metadata: null } }
}

function userBroadcast(kind, fields, event, metadataBytes, encoding, data) {
  const metadata = metadataBytes.length > 0 ? parse(metadataBytes, 'metadata') : null
  const isJson = encoding !== OPAQUE
  const payload = { type: 'broadcast', event: text(event), payload: isJson ? parse(data, 'payload') : data }
  if (metadata !== null) payload.meta = metadata
  return { ...named({ ...fields, event: 'broadcast' }), payload, binary: { kind, encoding: isJson ? 'json' : 'binary', metadata } }
}

/** Fields of a header as a message has them: references that are empty were null. */
function named({ joinRef, ref, topic, event }) {
  const string = (bytes) => (bytes instanceof Uint8Array ? text(bytes) : bytes)
  return { joinRef: string(joinRef) || null, ref: string(ref) || null, topic: string(topic), event: string(event) }
}

/** The fields after `count` lengths at `from` and `gap` bytes, and what follows them. */
function split(bytes, from, count, gap = 0) {
  let at = from + count + gap
  if (bytes.length < at) throw new FrameError('The frame ends within its header.')
  const fields = []
  for (let index = 0; index < count; index += 1) {
    const end = at + bytes[from + index]
    if (end > bytes.length) throw new FrameError('The frame ends within its header.')
    fields.push(bytes.subarray(at, end))
    at = end
  }
  return [...fields, bytes.subarray(at)]
}

function parse(bytes, what) {
  try {
    return JSON.parse(text(bytes))
  } catch {
    throw new FrameError(`The ${what} of the frame is not JSON.`)
  }
}

function text(bytes) {
  return decoder.decode(bytes)
}

function concat(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
