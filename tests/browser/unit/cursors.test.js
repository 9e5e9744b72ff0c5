// The demo's parts that know no page: how often it may send, how a cursor glides, who is here.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { isHome, toKeep, tokenFor } from '../../../src/control/pages/site/cursors/credentials.js'
import { Glide } from '../../../src/control/pages/site/cursors/glide.js'
import { Allowance, Pace } from '../../../src/control/pages/site/cursors/pace.js'
import { stateOf } from '../../../src/control/pages/site/cursors/room.js'
import { Presence } from '../../../src/control/pages/site/lib/presence.js'
import { IDLE_MS, NAME_CHARS_MAX, People, cleanName, inWords, message, readMessage, someName } from '../../../src/control/pages/site/cursors/people.js'

test('a full room stays below what its tenant allows', () => {
  for (const events of [50, 100, 1000]) {
    for (const people of [1, 2, 3, 5, 8]) {
      const pace = new Pace(events)
      pace.share(people, people)
      const spent = people * pace.perSecond * people
      assert.ok(pace.perSecond === 1 || spent < events, `${people} people spend ${spent} of ${events}`)
    }
  }
})

test('whoever is alone sends as often as eyes can see, and a room that is too full slowly', () => {
  const pace = new Pace(100)
  pace.share(1, 1)
  assert.equal(pace.perSecond, 30)
  pace.share(0, 0)
  assert.equal(pace.perSecond, 30)
  pace.share(50, 50)
  assert.equal(pace.perSecond, 1)
})

test('those who rest leave their share to those who move', () => {
  const pace = new Pace(100)
  pace.share(4, 4)
  assert.equal(pace.perSecond, 5)
  pace.share(4, 1)
  assert.equal(pace.perSecond, 20)
})

test('after the server said that it was too much, everybody is slower', () => {
  const pace = new Pace(100)
  pace.share(4, 1)
  pace.slower()
  assert.equal(pace.perSecond, 20, 'until the room is looked at again')
  pace.share(4, 1)
  assert.equal(pace.perSecond, 10)
})

test('the pace says how long to wait', () => {
  const pace = new Pace(100)
  assert.equal(pace.wait(5), 0)
  pace.share(4, 4)
  pace.sent(1000)
  assert.equal(pace.wait(1000), 200)
  assert.equal(pace.wait(1150), 50)
  assert.equal(pace.wait(1200), 0)
})

test('an allowance is spent and comes back', () => {
  const tracks = new Allowance(2, 1000)
  for (const now of [0, 100]) {
    assert.equal(tracks.wait(now), 0)
    tracks.take(now)
  }
  assert.equal(tracks.wait(400), 600)
  assert.equal(tracks.wait(1000), 0)
  tracks.take(1000)
  assert.equal(tracks.wait(1001), 99)
})

test('a cursor glides to where it is told, without overshooting, and rests there', () => {
  const glide = new Glide(0, 0)
  glide.to(1, 0.5, 0)
  let last = 0
  let steps = 0
  while (glide.step(16)) {
    assert.ok(glide.x > last && glide.x < 1, `${glide.x} after ${last}`)
    last = glide.x
    assert.ok((steps += 1) < 100, 'it arrives')
  }
  assert.deepEqual([glide.x, glide.y], [1, 0.5])
  assert.ok(steps > 3, 'it does not jump')
})

test('a cursor that is told rarely glides slower', () => {
  const after = (interval) => {
    const glide = new Glide(0, 0)
    for (let n = 0; n < 20; n += 1) glide.to(0, 0, n * interval)
    glide.to(1, 1, 20 * interval)
    glide.step(16)
    return glide.x
  }
  assert.ok(after(33) > 2 * after(200), `${after(33)} and ${after(200)}`)
})

test('a pause says nothing about how often positions come', () => {
  const glide = new Glide(0, 0)
  for (const now of [0, 33, 66, 60_000]) glide.to(0.5, 0.5, now)
  glide.step(33)
  assert.ok(glide.x > 0.2, String(glide.x))
})

test('names are shown as they are, cut and cleaned', () => {
  for (const [given, shown] of [
    ['Ann', 'Ann'],
    ['  Ann   Lee ', 'Ann Lee'],
    ['a\u0000b\u202ec', 'a b c'],
    ['😀'.repeat(40), '😀'.repeat(NAME_CHARS_MAX)],
    ['   ', null],
    ['', null],
    [5, null],
    [undefined, null],
    ['<b>x</b>', '<b>x</b>'],
  ]) {
    assert.equal(cleanName(given), shown, JSON.stringify(given))
  }
  assert.match(someName(), /^[A-Z][a-z]+ [A-Z][a-z]+$/)
  assert.equal(cleanName(someName(() => 0.999)), someName(() => 0.999))
})

test('a message is read as it was written', () => {
  const written = message('me', { x: 0.123456, y: 1, ms: 1.2345, ripples: [[0.5, 0.33333333]] })
  assert.deepEqual(written, { id: 'me', x: 0.1235, y: 1, ms: 1.2, ripples: [[0.5, 0.3333]] })
  assert.deepEqual(readMessage(JSON.parse(JSON.stringify(written))), written)
  const short = message('me', { x: 0, y: 0, ms: null, ripples: [] })
  assert.deepEqual(short, { id: 'me', x: 0, y: 0 })
  assert.deepEqual(readMessage(short), { id: 'me', x: 0, y: 0, ms: null, ripples: [] })
})

test('what is no message is dropped, and what is odd in one', () => {
  for (const told of [null, 5, 'x', [], {}, { id: 1, x: 0, y: 0 }, { id: 'a', x: -0.1, y: 0 }, { id: 'a', x: 0, y: 1.1 }, { id: 'a', x: '0', y: 0 }, { id: 'a', x: NaN, y: 0 }]) {
    assert.equal(readMessage(told), null, JSON.stringify(told))
  }
  const odd = { id: 'a', x: 0, y: 0, ms: 'soon', ripples: [[0, 0], [2, 0], 'x', [0], null, [0, 0, 0]] }
  assert.deepEqual(readMessage(odd), { id: 'a', x: 0, y: 0, ms: null, ripples: [[0, 0]] })
  assert.equal(readMessage({ id: 'a', x: 0, y: 0, ripples: Array(100).fill([0, 0]) }).ripples.length, 8)
  assert.deepEqual(readMessage({ id: 'a', x: 0, y: 0, ripples: { length: 3 } }).ripples, [])
})

test('people come, change their names and go', () => {
  const people = new People('me')
  assert.deepEqual(people.sync({ me: [{ name: 'I', hue: 1 }] }), { came: [], went: [] })
  assert.deepEqual(people.sync({ b: [{ name: 'Bob', hue: 2 }], me: [{ name: 'I', hue: 1 }], a: [{ name: 'Ann' }] }), { came: ['Bob', 'Ann'], went: [] })
  assert.deepEqual(people.list().map(({ name, hue }) => [name, hue]), [['I', 1], ['Ann', 0], ['Bob', 2]])
  assert.deepEqual(people.sync({ b: [{ name: 'Bobby', hue: 2 }], me: [{ name: 'I', hue: 1 }] }), { came: [], went: ['Ann'] })
  assert.deepEqual(people.list().map(({ name }) => name), ['I', 'Bobby'])
  assert.deepEqual(people.sync({}), { came: [], went: ['Bobby'] })
  assert.equal(people.count, 0)
})

test('what others say of themselves is taken with care', () => {
  const people = new People('me')
  people.sync({ a: [{ name: { x: 1 }, hue: 'red' }], b: [{ hue: 1e9 }], c: [], d: null })
  assert.deepEqual(people.list().map(({ name }) => name), Array(4).fill('Somebody'))
  for (const { hue } of people.list()) assert.ok(hue >= 0 && hue < 8)
  assert.equal(people.moved(readMessage({ id: 'stranger', x: 0, y: 0 }), 0), null)
})

test('who moves is counted, and who rests becomes idle', () => {
  const people = new People('me')
  people.sync({ me: [{ name: 'I' }], a: [{ name: 'Ann' }], b: [{ name: 'Bob' }] })
  assert.equal(people.moving(0), 1, 'this window may move at any time')
  const ann = people.moved(readMessage({ id: 'a', x: 0.9, y: 0.1, ms: 3 }), 1000)
  assert.equal(people.moving(1001), 2)
  assert.equal(people.moving(10_000), 1)
  assert.equal(people.isIdle(ann, 1000 + IDLE_MS - 1), false)
  assert.equal(people.isIdle(ann, 1000 + IDLE_MS), true)
  assert.equal(inWords(ann, 1001), 'moving, top right')
  assert.equal(inWords(ann, 1000 + IDLE_MS), 'idle, top right')
  assert.equal(inWords(people.get('b'), 0), 'has not moved yet')
  people.moved(readMessage({ id: 'a', x: 0.5, y: 1 }), 2000)
  assert.equal(ann.ms, 3, 'a latency counts until another one comes')
  assert.equal(inWords(ann, 2000), 'moving, bottom centre')
})

test('a token goes to the server that it was typed for, and the own one to the own server', () => {
  const here = { origin: 'https://a.test', host: 'a.test' }
  const defaults = { host: 'http://a.test', token: 'own' }
  const at = (host, more = {}) => tokenFor(host, { given: '', kept: null, defaults, ...more }, here)
  assert.equal(at('https://a.test'), 'own')
  assert.equal(at('https://evil.test'), '')
  assert.equal(at('https://evil.test', { given: 'theirs' }), 'theirs')
  const kept = toKeep('b.test', 'typed', defaults, here)
  assert.equal(at('https://b.test', { kept }), 'typed')
  assert.equal(at('https://evil.test', { kept }), '')
  assert.equal(at('https://a.test', { kept }), 'own')
  // As it once was kept, and whatever else may stand there.
  for (const kept of ['typed', '{}', 'null', '"x"', '']) assert.equal(at('https://evil.test', { kept }), '')
  assert.equal(toKeep('https://a.test', 'own', defaults, here), '')
  assert.equal(toKeep('https://b.test', '', defaults, here), '')
  assert.equal(toKeep('http://', 'typed', defaults, here), '')
  assert.equal(isHome('a.test', defaults, here), true)
  assert.equal(isHome('http://', defaults, here), false)
})

test('keys that objects have anyway are people like others', () => {
  const presence = new Presence()
  const state = JSON.parse('{"__proto__": {"metas": [{"phx_ref": "1", "name": "P"}]}, "constructor": {"metas": [{"phx_ref": "2", "name": "C"}]}}')
  presence.state(state)
  const people = new People('me')
  assert.deepEqual(people.sync(stateOf(presence)), { came: ['P', 'C'], went: [] })
  assert.deepEqual(people.list().map(({ id }) => id).sort(), ['__proto__', 'constructor'])
  presence.diff({ joins: {}, leaves: state })
  assert.deepEqual(people.sync(stateOf(presence)).went.sort(), ['C', 'P'])
})
