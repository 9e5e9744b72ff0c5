// Addresses, tokens, and why a connection was refused.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { homeOf, isLoopback, isSameHost, originOf, socketUrl } from '../../../src/control/pages/site/lib/address.js'
import { findRefusal } from '../../../src/control/pages/site/lib/refusal.js'
import { duration, inspect } from '../../../src/control/pages/site/lib/token.js'

test('a host is what people mean by it', () => {
  const check = (typed, origin) => assert.equal(originOf(typed), origin, typed)
  check('abcdefgh', 'https://abcdefgh.supabase.co')
  check('  abcdefgh ', 'https://abcdefgh.supabase.co')
  check('abc.supabase.co', 'https://abc.supabase.co')
  check('https://abc.supabase.co/project/x?y#z', 'https://abc.supabase.co')
  check('http://realtime-dev.localhost:4000/inspector/new?channel=a', 'http://realtime-dev.localhost:4000')
  check('realtime-dev.localhost:4000', 'http://realtime-dev.localhost:4000')
  check('localhost', 'http://localhost')
  check('localhost:4000/socket', 'http://localhost:4000')
  check('127.0.0.1:4000', 'http://127.0.0.1:4000')
  check('[::1]:4000', 'http://[::1]:4000')
  check('example.com:8080', 'http://example.com:8080')
  check('ws://a.b/socket/websocket', 'http://a.b')
  check('wss://a.b', 'https://a.b')
  check('', null)
  check('   ', null)
  check('ftp://a.b', null)
  check('not a host', null)
  check('http://', null)
})

test('two hosts are the same server or not', () => {
  for (const [one, other, expected] of [
    ['http://a.test', 'ws://a.test/realtime/v1', true],
    ['a.test', 'https://a.test', true],
    ['http://a.test', 'https://a.test', false],
    ['http://a.test:1', 'http://a.test:2', false],
    ['', '', true],
    ['', 'http://a.test', false],
    ['http://', 'https://', false],
  ]) {
    assert.equal(isSameHost(one, other), expected, `${one} and ${other}`)
  }
})

test('behind a proxy the page knows better how it came', () => {
  const here = { origin: 'https://a.test', host: 'a.test' }
  assert.equal(homeOf({ host: 'http://a.test' }, here), 'https://a.test')
  assert.equal(homeOf({}, here), 'https://a.test')
  assert.equal(homeOf({ host: 'http://' }, here), 'https://a.test')
  assert.equal(homeOf({ host: 'https://b.test' }, here), 'https://b.test')
})

test('this machine is known by its names', () => {
  for (const host of ['localhost', 'a.localhost:1', '127.0.0.1', '[::1]:4000']) assert.ok(isLoopback(host), host)
  for (const host of ['localhost.example.com', 'example.com', '128.0.0.1']) assert.ok(!isLoopback(host), host)
})

test('the socket is below the path that supabase-js uses', () => {
  assert.equal(socketUrl('https://a.b', 'x y', 'error'), 'wss://a.b/realtime/v1/websocket?apikey=x+y&log_level=error&vsn=2.0.0')
})

const NOW = 1_700_000_000
const jwt = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.c2ln`

test('what is wrong with a token is said in words', () => {
  const check = (token, words) => {
    const { problem } = inspect(token, NOW)
    if (words) assert.match(problem ?? 'nothing', words, token)
    else assert.equal(problem, null, token)
  }
  check(jwt({ role: 'anon', exp: NOW + 1 }))
  check(` ${jwt({ role: 'anon', exp: NOW + 1 })}\n`)
  check('', /no token/)
  check('abc', /not a JWT/)
  check('a.b', /not a JWT/)
  check('a.!.c', /not a JWT/)
  check('e30.bnVsbA.c2ln', /not a JWT/)
  check('sb_publishable_x', /new kind/)
  check(jwt({ role: 'anon', exp: NOW - 3_600 }), /expired 1 hour ago/)
  check(jwt({ role: 'anon', exp: NOW }), /expired/)
  check(jwt({ role: 'anon' }), /no `exp`/)
  check(jwt({}), /no `role` and no `exp`/)
  check(jwt({ role: 'anon', exp: 'soon' }), /not a number/)
  assert.equal(inspect(jwt({ role: 'ä', exp: NOW + 1 }), NOW).claims.role, 'ä')
})

test('a length of time is said in its largest unit', () => {
  const check = (seconds, words) => assert.equal(duration(seconds), words)
  check(0.5, '0 seconds')
  check(1, '1 second')
  check(119, '1 minute')
  check(7_200, '2 hours')
  check(86_400 * 3, '3 days')
})

const URL_OF_SOCKET = 'ws://localhost:4000/realtime/v1/websocket?apikey=x&vsn=2.0.0'
const answering = (status, body) => async () => new Response(body, { status })

test('a refusal is read where it can be read', async () => {
  const check = async (fetch, expected) => {
    const { status, error, isFinal, why } = await findRefusal(URL_OF_SOCKET, { fetch, pageOrigin: 'http://localhost:4000' })
    assert.deepEqual([status, error, isFinal], expected)
    return why
  }
  assert.equal(await check(answering(401, '{"error":"Token has expired"}'), [401, 'Token has expired', true]), 'Token has expired')
  await check(answering(404, '{"error":"Tenant not found"}'), [404, 'Tenant not found', true])
  assert.match(await check(answering(404, 'Not Found'), [404, null, true]), /no Realtime server/)
  await check(answering(429, '{"error":"Too many connected users"}'), [429, 'Too many connected users', false])
  assert.match(await check(answering(400, "'connection' header must"), [400, null, false]), /takes this token/)
  assert.match(await check(answering(503, '<html>'), [503, null, false]), /503/)
})

test('an answer that may not be read is told from none', async () => {
  const onlyBlind = async (_, { mode }) => {
    if (mode === 'no-cors') return new Response()
    throw new TypeError('Failed to fetch')
  }
  const never = async () => {
    throw new TypeError('Failed to fetch')
  }
  assert.match((await findRefusal(URL_OF_SOCKET, { fetch: onlyBlind })).why, /answers, but the browser/)
  assert.match((await findRefusal(URL_OF_SOCKET, { fetch: never })).why, /^Nothing answers at http:\/\/localhost:4000/)
})

test('a page with TLS cannot ask without, except this machine', async () => {
  const fetch = answering(401, '{"error":"x"}')
  const secure = { fetch, pageOrigin: 'https://a.b' }
  assert.match((await findRefusal('ws://c.d/realtime/v1/websocket', secure)).why, /https/)
  assert.equal((await findRefusal(URL_OF_SOCKET, secure)).error, 'x')
})
