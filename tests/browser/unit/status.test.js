// What the status page makes of figures: numbers for people, rates, loop times.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { age, bytes, number, percent, seconds } from '../../../src/control/pages/site/lib/format.js'
import { History, bound } from '../../../src/control/pages/site/status/history.js'

test('numbers have three digits that mean something', () => {
  const check = (format, value, expected) => assert.equal(format(value), expected, `${format.name} ${value}`)
  check(number, 0, '0')
  check(number, 1234567, '1,234,567')
  check(number, 0.123, '0.12')
  check(number, 12.34, '12.3')
  check(number, 123.4, '123')
  check(number, null, '–')
  check(number, NaN, '–')
  check(bytes, 0, '0 B')
  check(bytes, 999, '999 B')
  check(bytes, 999.6, '1 kB')
  check(bytes, 1500, '1.5 kB')
  check(bytes, 999_499, '999 kB')
  check(bytes, 999_500, '1 MB')
  check(bytes, 2_340_000_000, '2.34 GB')
  check(bytes, undefined, '–')
  check(seconds, 0, '0 µs')
  check(seconds, 0.000_1, '100 µs')
  check(seconds, 0.001, '1 ms')
  check(seconds, 0.0123, '12.3 ms')
  check(seconds, 1, '1 s')
  check(seconds, null, '–')
  check(age, 0.4, '0 s')
  check(age, 7.9, '7 s')
  check(age, 306, '5 min 6 s')
  check(age, 3600, '1 h')
  check(age, 3 * 86_400 + 4 * 3600 + 59, '3 d 4 h')
  check(percent, 0.1234, '12.3 %')
  check(percent, 1, '100 %')
  check(percent, null, '–')
})

/** Figures of one shard at a moment. */
function figures(uptime, { messages = 0, turns = 0, spent = 0, counts = [0, 0, 0], longest = 0, shards = 1 } = {}) {
  const shard = { turns, turn_seconds_total: spent, turn_counts: counts, turn_seconds_max: longest }
  return {
    uptime_seconds: uptime,
    messages_total: messages,
    turn_seconds_bounds: [0.001, 0.01],
    shards: Array.from({ length: shards }, () => shard),
  }
}

const messages = (it) => it.messages_total

test("rates are of the server's own time", () => {
  const history = new History()
  assert.equal(history.add(figures(10, { messages: 100 })), true)
  assert.equal(history.rate(messages), null)
  assert.deepEqual(history.rates(messages), [])
  history.add(figures(12, { messages: 130 }))
  assert.equal(history.rate(messages), 15)
  assert.equal(history.add(figures(12, { messages: 130 })), false, 'the same moment is no sample')
  history.add(figures(13, { messages: 130 }))
  assert.deepEqual(history.rates(messages), [15, 0])
  assert.deepEqual(history.values(messages), [100, 130, 130])
})

test('a server that has begun anew has no past', () => {
  const history = new History()
  history.add(figures(100, { messages: 1000 }))
  history.add(figures(101, { messages: 1010 }))
  history.add(figures(1, { messages: 5 }))
  assert.equal(history.rate(messages), null)
  history.add(figures(2, { messages: 6, shards: 2 }))
  assert.equal(history.rate(messages), null, 'nor has one with other shards')
})

test('a minute is remembered', () => {
  const history = new History()
  for (let at = 0; at < 100; at += 1) history.add(figures(at, { messages: at * 3 }))
  const rates = history.rates(messages)
  assert.equal(rates.length, 60)
  assert.ok(rates.every((rate) => rate === 3))
})

test('loop times are of the last ten seconds', () => {
  const history = new History()
  history.add(figures(0, { turns: 1000, spent: 1000, counts: [0, 0, 1000], longest: 2 }))
  assert.deepEqual(history.loop(0), { busy: null, mean: null, p99: null })
  history.add(figures(5, { turns: 1000, spent: 1000, counts: [0, 0, 1000], longest: 2 }))
  assert.deepEqual(history.loop(0), { busy: 0, mean: null, p99: null })
  history.add(figures(15, { turns: 1100, spent: 1000.5, counts: [100, 0, 1000], longest: 2 }))
  assert.deepEqual(history.loop(0), { busy: 0.05, mean: 0.005, p99: 0.001 })
})

test('a part of the values does not pass the bound of its class', () => {
  const check = (counts, part, expected) => assert.equal(bound(counts, [1, 10], part, 25), expected)
  check([0, 0, 0], 0.99, null)
  check([99, 1, 0], 0.99, 1)
  check([98, 2, 0], 0.99, 10)
  check([0, 0, 5], 0.99, 25)
  assert.equal(bound([5, 0, 0], [1, 10], 0.99, 0.25), 0.25, 'nothing is longer than the longest')
})
