// Who is present, from states and diffs in every order that a server may send.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Presence } from '../../../src/control/pages/site/lib/presence.js'

const meta = (ref, name, before) => ({ phx_ref: ref, ...(before ? { phx_ref_prev: before } : {}), name })
const of = (entries) => Object.fromEntries(Object.entries(entries).map(([key, metas]) => [key, { metas }]))
const names = (presence) => presence.list().map(({ key, meta }) => `${key}=${meta.name}`)

test('a state replaces what was known', () => {
  const presence = new Presence()
  presence.state(of({ a: [meta('1', 'x')] }))
  presence.state(of({ b: [meta('2', 'y'), meta('3', 'z')] }))
  assert.deepEqual(names(presence), ['b=y', 'b=z'])
  assert.deepEqual(presence.list()[0], { key: 'b', ref: '2', meta: { name: 'y' } })
})

test('joins and leaves are known by their references', () => {
  const presence = new Presence()
  presence.state({})
  presence.diff({ joins: of({ a: [meta('1', 'x')] }), leaves: {} })
  presence.diff({ joins: of({ a: [meta('2', 'y')] }), leaves: {} })
  assert.deepEqual(names(presence), ['a=x', 'a=y'])
  presence.diff({ joins: {}, leaves: of({ a: [meta('1', 'x')] }) })
  assert.deepEqual(names(presence), ['a=y'])
  presence.diff({ joins: {}, leaves: of({ a: [meta('1', 'x')], never: [meta('9', 'q')] }) })
  assert.deepEqual(names(presence), ['a=y'])
  presence.diff({ joins: {}, leaves: of({ a: [meta('2', 'y')] }) })
  assert.deepEqual(presence.list(), [])
})

test('a new payload takes the place of the old one', () => {
  const presence = new Presence()
  presence.state(of({ a: [meta('1', 'x')], b: [meta('5', 'other')] }))
  presence.diff({ joins: of({ a: [meta('2', 'y', '1')] }), leaves: of({ a: [meta('1', 'x')] }) })
  assert.deepEqual(names(presence), ['a=y', 'b=other'])
  assert.deepEqual(presence.list()[0].meta, { name: 'y' })
})

test('diffs before the state are applied after it', () => {
  const presence = new Presence()
  presence.reset(true)
  presence.diff({ joins: of({ b: [meta('2', 'y')] }), leaves: of({ a: [meta('1', 'x')] }) })
  assert.deepEqual(presence.list(), [])
  presence.state(of({ a: [meta('1', 'x')] }))
  assert.deepEqual(names(presence), ['b=y'])
})

test('a channel that gets no state takes diffs at once', () => {
  const presence = new Presence()
  presence.reset(false)
  presence.diff({ joins: of({ b: [meta('2', 'y')] }), leaves: {} })
  assert.deepEqual(names(presence), ['b=y'])
  presence.reset(false)
  assert.deepEqual(presence.list(), [])
})

test('the same meta in a diff and in the state is there once', () => {
  const presence = new Presence()
  presence.diff({ joins: of({ a: [meta('1', 'x')] }), leaves: {} })
  presence.state(of({ a: [meta('1', 'x')] }))
  assert.deepEqual(names(presence), ['a=x'])
})

test('a key may be called as something that every object has', () => {
  const presence = new Presence()
  presence.state(JSON.parse('{"__proto__": {"metas": [{"phx_ref": "1"}]}}'))
  presence.diff(JSON.parse('{"joins": {"constructor": {"metas": [{"phx_ref": "2", "__proto__": 5}]}}, "leaves": {}}'))
  assert.deepEqual(presence.list().map(({ key, ref }) => [key, ref]), [['__proto__', '1'], ['constructor', '2']])
  presence.diff(JSON.parse('{"joins": {}, "leaves": {"__proto__": {"metas": [{"phx_ref": "1"}]}}}'))
  assert.deepEqual(presence.list().map(({ key }) => key), ['constructor'])
})
