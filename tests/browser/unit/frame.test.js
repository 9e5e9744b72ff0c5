// The serializer of the pages against the bytes that the specification pins.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { FrameError, decode, encode, encodeBroadcast, sizeOf } from '../../../src/control/pages/site/lib/frame.js'

const bytes = (hex) => Uint8Array.from(hex.split(' '), (byte) => parseInt(byte, 16))
const buffer = (hex) => bytes(hex).buffer
const text = (data) => new TextDecoder().decode(data)

const TOPIC = '72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31'
const ROOM = 'realtime:room1'

test('a text frame is an array of five', () => {
  const frame = encode({ joinRef: '1', ref: '2', topic: ROOM, event: 'phx_join', payload: { config: {} } })
  assert.equal(frame, '["1","2","realtime:room1","phx_join",{"config":{}}]')
  assert.deepEqual(decode(frame), { joinRef: '1', ref: '2', topic: ROOM, event: 'phx_join', payload: { config: {} }, binary: null })
  assert.equal(decode('[null,null,"t","e",{},"more"]').event, 'e')
})

test('a broadcast is a user broadcast push', () => {
  const of = (payload, metadata) => encodeBroadcast({ joinRef: '1', ref: '7', topic: ROOM, event: 'msg', payload, metadata })
  const json = '7b 22 61 22 3a 22 62 22 7d'
  assert.deepEqual(of({ a: 'b' }), bytes(`03 01 01 0e 03 00 01 31 37 ${TOPIC} 6d 73 67 ${json}`))
  assert.deepEqual(of(bytes('ca fe')), bytes(`03 01 01 0e 03 00 00 31 37 ${TOPIC} 6d 73 67 ca fe`))
  const metadata = '7b 22 70 65 72 73 69 73 74 22 3a 74 72 75 65 7d'
  assert.deepEqual(of({ a: 'b' }, { persist: true }), bytes(`03 01 01 0e 03 10 01 31 37 ${TOPIC} 6d 73 67 ${metadata} ${json}`))
})

test('what is sent decodes to what was meant', () => {
  const message = decode(encodeBroadcast({ joinRef: '1', ref: '7', topic: 'realtime:ä', event: 'ü', payload: [1] }).buffer)
  assert.deepEqual(
    { ...message, binary: message.binary.kind },
    { joinRef: '1', ref: '7', topic: 'realtime:ä', event: 'broadcast', payload: { type: 'broadcast', event: 'ü', payload: [1] }, binary: 'user broadcast push' },
  )
})

test('a user broadcast comes out as a text broadcast would', () => {
  const json = decode(buffer('04 05 0a 00 01 74 6f 70 69 63 75 73 65 72 5f 65 76 65 6e 74 7b 22 61 22 3a 22 62 22 7d'))
  assert.deepEqual(json, {
    joinRef: null,
    ref: null,
    topic: 'topic',
    event: 'broadcast',
    payload: { type: 'broadcast', event: 'user_event', payload: { a: 'b' } },
    binary: { kind: 'user broadcast', encoding: 'json', metadata: null },
  })
  const metadata = '7b 22 72 65 70 6c 61 79 65 64 22 3a 74 72 75 65 7d'
  const opaque = decode(buffer(`04 05 0a 11 00 74 6f 70 69 63 75 73 65 72 5f 65 76 65 6e 74 ${metadata} 65 66 67`))
  assert.equal(text(opaque.payload.payload), 'efg')
  assert.deepEqual(opaque.payload.meta, { replayed: true })
  assert.deepEqual(opaque.binary, { kind: 'user broadcast', encoding: 'binary', metadata: { replayed: true } })
})

test('the other kinds are understood', () => {
  const reply = decode(buffer('01 02 03 05 02 31 32 31 32 33 74 6f 70 69 63 6f 6b 65 66 67'))
  assert.deepEqual([reply.joinRef, reply.ref, reply.topic, reply.event, reply.payload.status], ['12', '123', 'topic', 'phx_reply', 'ok'])
  const push = decode(buffer('00 02 05 05 31 32 74 6f 70 69 63 65 76 65 6e 74 65 66 67'))
  assert.deepEqual([push.joinRef, push.ref, push.topic, push.event, text(push.payload)], ['12', null, 'topic', 'event', 'efg'])
  const broadcast = decode(buffer('02 05 05 74 6f 70 69 63 65 76 65 6e 74 65 66 67'))
  assert.deepEqual([broadcast.topic, broadcast.event, text(broadcast.payload)], ['topic', 'event', 'efg'])
})

test('nonsense is refused in words', () => {
  const check = (data, words) => assert.throws(() => decode(data), (error) => error instanceof FrameError && words.test(error.message))
  check('', /not JSON/)
  check('{}', /array of five/)
  check('[1,2,3,4]', /array of five/)
  check(new ArrayBuffer(0), /empty/)
  check(buffer('09 01'), /kind 9/)
  check(buffer('04 05'), /header/)
  check(buffer('04 05 0a 00 01 74 6f'), /header/)
  check(buffer('04 01 01 00 01 74 65 7b'), /payload .* not JSON/)
  const long = 'x'.repeat(256)
  assert.throws(() => encodeBroadcast({ topic: long, event: 'e', payload: {} }), /topic has 256 bytes/)
  assert.equal(encodeBroadcast({ topic: long.slice(1), event: 'e', payload: {} })[3], 255)
})

test('a size is counted in bytes', () => {
  assert.equal(sizeOf('ä'), 2)
  assert.equal(sizeOf(new ArrayBuffer(3)), 3)
  assert.equal(sizeOf(bytes('01 02')), 2)
})
