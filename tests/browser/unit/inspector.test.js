// What the inspector computes without a page: settings and addresses, the log, explanations, latency, snippets.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { decode, encodeBroadcast } from '../../../src/control/pages/site/lib/frame.js'
import { describe, dump, kindOf } from '../../../src/control/pages/site/inspector/describe.js'
import { explainer } from '../../../src/control/pages/site/inspector/explain.js'
import { bytes, clock, milliseconds } from '../../../src/control/pages/site/lib/format.js'
import { FRAMES_BYTES_MAX, FRAMES_MAX, Frames, body, filter, ndjson } from '../../../src/control/pages/site/inspector/frames.js'
import { read } from '../../../src/control/pages/site/inspector/json.js'
import { Latencies, SAMPLES_MAX, percentile } from '../../../src/control/pages/site/inspector/latency.js'
import { forget, recall, remember } from '../../../src/control/pages/site/inspector/memory.js'
import { channelOptions, fromParams, initialSettings, toParams } from '../../../src/control/pages/site/inspector/settings.js'
import { snippet } from '../../../src/control/pages/site/inspector/snippet.js'

// -- settings ------------------------------------------------------------------------------------------------------------

const ALL = {
  host: 'https://a.b',
  token: 'T',
  bearer: 'B',
  log_level: 'info',
  channel: 'über & co',
  private_channel: true,
  self: false,
  ack: true,
  enable_presence: true,
  enable_db_changes: true,
  schema: 's',
  table: 't',
  event: 'UPDATE',
  filter: 'id=in.(1,2)',
  select: 'id,name',
}

test('every setting but the secrets comes back from an address', () => {
  const params = new URLSearchParams()
  toParams(params, ALL, initialSettings())
  const { token, bearer, ...rest } = ALL
  assert.deepEqual(fromParams(new URLSearchParams(params.toString())), rest)
  assert.ok(!params.toString().includes('bearer'))
  const withToken = new URLSearchParams()
  toParams(withToken, ALL, initialSettings(), { withToken: true })
  assert.equal(fromParams(withToken).token, token)
  assert.equal(withToken.get('bearer'), null, bearer)
})

test('what is as it is anyway is not in the address', () => {
  const params = new URLSearchParams()
  toParams(params, initialSettings(), initialSettings())
  assert.equal(params.toString(), '')
})

test('addresses of the original are understood', () => {
  const of = (query) => fromParams(new URLSearchParams(query))
  assert.deepEqual(of('project=abc&enable_broadcast=true'), { host: 'abc' })
  assert.deepEqual(of('project=abc&host=https://x.y'), { host: 'https://x.y' })
  assert.deepEqual(of('enable_presence=on&private_channel=1&ack=false'), { enable_presence: true, private_channel: true, ack: false })
  assert.deepEqual(of('log_level=WARNING&event=insert'), { log_level: 'warning', event: 'INSERT' })
  assert.deepEqual(of('log_level=loud&event=any'), { log_level: 'error', event: '*' })
  assert.deepEqual(of('bearer=x'), {})
})

test('a second pane has names of its own', () => {
  const params = new URLSearchParams()
  toParams(params, { ...ALL, channel: 'other' }, ALL, { prefix: 'b_' })
  assert.equal(params.toString(), 'b_channel=other')
  assert.deepEqual(fromParams(params, 'b_'), { channel: 'other' })
})

test('settings become what a join says', () => {
  const { postgresChanges, accessToken, presence } = channelOptions(ALL, 'me')
  assert.deepEqual(postgresChanges, [{ event: 'UPDATE', schema: 's', table: 't', filter: 'id=in.(1,2)', select: ['id', 'name'] }])
  assert.equal(accessToken, 'B')
  assert.deepEqual(presence, { enabled: true, key: 'me' })
  const plain = channelOptions({ ...initialSettings(), token: ' T ', enable_db_changes: true }, 'me')
  assert.deepEqual(plain.postgresChanges, [{ event: '*', schema: 'public', table: '*' }])
  assert.equal(plain.accessToken, 'T')
  assert.deepEqual(channelOptions(initialSettings(), 'me').postgresChanges, [])
})

test('what is remembered is given back, and nonsense is not', () => {
  const kept = new Map()
  const storage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value), removeItem: (name) => kept.delete(name) }
  assert.equal(recall(storage), null)
  remember(ALL, storage)
  assert.deepEqual(recall(storage), { host: ALL.host, token: 'T', bearer: 'B' })
  forget(storage)
  assert.equal(recall(storage), null)
  for (const nonsense of ['{', '5', '{"host":1}']) assert.equal(recall({ getItem: () => nonsense }), null)
  const forbidden = { getItem: () => { throw new Error('no') }, setItem: () => { throw new Error('no') } }
  assert.equal(recall(forbidden), null)
  remember(ALL, forbidden)
})

// -- JSON ----------------------------------------------------------------------------------------------------------------

test('what is no JSON is said with its place', () => {
  const check = (text, problem) => assert.equal(read(text).problem, problem, text)
  check('', 'There is nothing here; the smallest payload is {}.')
  check('{"a":1,}', 'Line 1, column 8: a name in double quotes was expected, there is `}`')
  check('{"a" 1}', 'Line 1, column 6: a colon was expected after the name, there is `1`')
  check('{"a":}', 'Line 1, column 6: a value was expected, there is `}`')
  check('{\n  "a": 1\n  "b": 2\n}', 'Line 3, column 3: a comma or `}` was expected, there is `"`')
  check('[1,2', 'Line 1, column 5: a comma or `]` was expected, the text ends')
  check('[1,]', 'Line 1, column 4: a value was expected, there is `]`')
  check('{a:1}', 'Line 1, column 2: a name in double quotes was expected, there is `a`')
  check("{\"a\":'b'}", 'Line 1, column 6: strings stand in double quotes, there is a single one')
  check('{"a":hello}', 'Line 1, column 6: a value was expected, there is the word hello, without quotes')
  check('{"a":"b}', 'Line 1, column 6: a string begins here and does not end in its line')
  check('"\\x"', 'Line 1, column 1: this string has a backslash or a character that JSON does not allow')
  check('{} {}', 'Line 1, column 4: there is `{` after the end of the value')
  check('01', 'Line 1, column 1: a value was expected, there is `0`')
  check('undefined', 'Line 1, column 1: a value was expected, there is the word undefined, without quotes')
})

test('what is JSON has a value, and every end of it has a problem', () => {
  const text = '{"a":[1,-2.5e3,true,false,null,{"b":"\\u00e4\\""}],"c":{}}'
  assert.deepEqual(read(text), { value: JSON.parse(text) })
  for (let end = 0; end < text.length; end += 1) assert.ok(read(text.slice(0, end)).problem, text.slice(0, end))
  assert.match(read('['.repeat(100_000)).problem, /column 100001/)
})

// -- the log -------------------------------------------------------------------------------------------------------------

const frame = (data, direction = 'in') => ({ direction, data, size: data.length, message: decode(data), problem: null, time: 0 })
const message = (event, payload, topic = 'realtime:r') => ({ joinRef: null, ref: '7', topic, event, payload, binary: null })

test('frames have kinds', () => {
  const check = (event, payload, kind, topic) => assert.equal(kindOf(message(event, payload, topic)), kind, event)
  check('broadcast', {}, 'broadcast')
  check('presence_diff', {}, 'presence')
  check('postgres_changes', {}, 'postgres')
  check('INSERT', {}, 'postgres')
  check('system', {}, 'system')
  check('phx_join', {}, 'join')
  check('phx_close', {}, 'join')
  check('phx_error', {}, 'error')
  check('phx_reply', { status: 'ok' }, 'reply')
  check('phx_reply', { status: 'error' }, 'error')
  check('heartbeat', {}, 'heartbeat', 'phoenix')
  check('phx_reply', { status: 'ok' }, 'heartbeat', 'phoenix')
  assert.equal(kindOf(null), 'error')
})

test('an event may be called as something that every object has', () => {
  for (const event of ['constructor', '__proto__', 'toString']) assert.equal(kindOf({ topic: 't', event, payload: {} }), 'system')
})

test('a frame is told in one line', () => {
  const check = (event, payload, title, summary) => assert.deepEqual(describe(message(event, payload)), { title, summary })
  check('broadcast', { event: 'e', payload: { a: 1 } }, 'broadcast e', '{"a":1}')
  check('broadcast', { event: 'e', payload: new Uint8Array(3) }, 'broadcast e', '3 bytes')
  check('phx_reply', { status: 'ok', response: {} }, 'phx_reply', 'to 7: ok {}')
  check('presence', { event: 'untrack' }, 'presence untrack', '')
  check('postgres_changes', { data: { type: 'DELETE', schema: 's', table: 't', old_record: { id: 1 } } }, 'DELETE s.t', '{"id":1}')
  check('system', { extension: 'system', status: 'error', message: 'm' }, 'system system', 'error: m')
  assert.equal(describe(message('x', { a: 'y'.repeat(999) })).summary.length, 161)
})

test('no token stands in the log', () => {
  const token = 'eyJhbGciOiJIUzI1NiJ9.secret.secret'
  const frames = new Frames()
  frames.add(frame(JSON.stringify(['1', '1', 'realtime:r', 'phx_join', { access_token: token }]), 'out'))
  const everything = [frames.entries[0].summary, body(frames.entries[0]), ndjson(frames.entries)].join()
  assert.ok(!everything.includes('secret'))
  assert.match(everything, /eyJhbGciOiJI… \(34 characters\)/)
  assert.ok(filter({ text: 'phx_join' })(frames.entries[0]))
  assert.ok(!filter({ text: 'secret' })(frames.entries[0]))
})

test('a token is cut between the escapes of JSON, in text and in binary frames', () => {
  const tokens = ['short', '"', 'eleven char\n and more secret', 'a "b" \\ c"d"secret', `${'\u00e9'.repeat(13)}secret`, `${'😀'.repeat(13)}secret`, '\\'.repeat(40), '\n'.repeat(40)]
  const escaped = (text) => text.replace(/[^ -~]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
  for (const token of tokens) {
    const frames = new Frames()
    const payload = { access_token: token, user_token: token, after: 'kept' }
    const text = JSON.stringify(['1', '1', 'realtime:r', 'phx_join', payload])
    frames.add(frame(text, 'out'))
    frames.add(frame(escaped(text), 'out'))
    const data = encodeBroadcast({ topic: 't', event: 'e', payload })
    frames.add({ ...frame(data.buffer), data, size: data.length })
    const lines = ndjson(frames.entries).trimEnd().split('\n').map((line) => JSON.parse(line))
    for (const said of [lines[0].frame[4], lines[1].frame[4], lines[2].frame[4].payload]) {
      assert.equal(said.after, 'kept', token)
      assert.equal(said.access_token, said.user_token)
      assert.ok(!said.access_token.includes('secret'), said.access_token)
      assert.ok(said.access_token.startsWith([...token].slice(0, 6).join('')), said.access_token)
    }
    for (const entry of frames.entries) {
      assert.match(body(entry), /"after": "kept"/)
      assert.ok(!(body(entry) + entry.summary).includes('secret'))
    }
  }
})

test('one frame that cannot be said leaves the others alone', () => {
  const frames = new Frames()
  const entry = frames.add(frame('[null,"2","t","e",{}]'))
  frames.add(frame('[null,"3","t","e",{}]'))
  entry.data = '[null,"2","t"'
  assert.equal(body(entry), 'The frame is not JSON.\n\n[null,"2","t"')
  const lines = ndjson(frames.entries).trimEnd().split('\n').map((line) => JSON.parse(line))
  assert.equal(lines[0].problem, 'The frame is not JSON.')
  assert.equal(lines[1].frame[1], '3')
  entry.data = Uint8Array.of(99)
  assert.equal(body(entry), 'Binary frames of kind 99 are not known.')
})

test('the log keeps the newest frames within both bounds', () => {
  const frames = new Frames()
  for (let index = 0; index < FRAMES_MAX * 3; index += 1) frames.add(frame(`[null,null,"t","e",${index}]`))
  assert.equal(frames.count, FRAMES_MAX * 3)
  assert.equal(frames.firstId, frames.count - frames.entries.length + 1)
  assert.ok(frames.entries.length >= FRAMES_MAX && frames.entries.length <= FRAMES_MAX * 1.1)
  assert.match(frames.entries.at(-1).data, new RegExp(`${FRAMES_MAX * 3 - 1}\\]$`))
  const large = { ...frame('[null,null,"t","e",0]'), size: FRAMES_BYTES_MAX / 2 }
  for (let index = 0; index < 5; index += 1) frames.add(large)
  assert.equal(frames.entries.length, 2)
  frames.add({ ...large, size: FRAMES_BYTES_MAX * 2 })
  assert.equal(frames.entries.length, 1)
  frames.clear()
  assert.deepEqual([frames.count, frames.entries.length, frames.bytesIn, frames.firstId], [0, 0, 0, 1])
})

test('a filter looks at kind and text', () => {
  const frames = new Frames()
  frames.add(frame('[null,null,"realtime:Room","broadcast",{"event":"e","payload":{"Word":1}}]'))
  frames.note('Connected')
  const shown = (wish) => frames.entries.filter(filter(wish)).map(({ kind }) => kind)
  assert.deepEqual(shown({}), ['broadcast', 'transport'])
  assert.deepEqual(shown({ text: 'word' }), ['broadcast'])
  assert.deepEqual(shown({ text: 'ROOM' }), ['broadcast'])
  assert.deepEqual(shown({ text: 'connected' }), ['transport'])
  assert.deepEqual(shown({ kinds: new Set(['transport']) }), ['transport'])
  assert.deepEqual(shown({ kinds: new Set(['transport']), text: 'word' }), [])
})

test('frames are copied as NDJSON, bytes included', () => {
  const frames = new Frames()
  frames.add(frame('[null,"2","phoenix","heartbeat",{}]', 'out'))
  const data = encodeBroadcast({ topic: 't', event: 'e', payload: Uint8Array.of(1, 2) })
  frames.add({ ...frame(data.buffer), data, size: data.length })
  frames.note('Connected', 0)
  const lines = ndjson(frames.entries).trimEnd().split('\n').map((line) => JSON.parse(line))
  assert.deepEqual(lines[0], { time: '1970-01-01T00:00:00.000Z', kind: 'heartbeat', direction: 'out', bytes: 35, frame: [null, '2', 'phoenix', 'heartbeat', {}] })
  assert.deepEqual(lines[1].frame[4].payload, { base64: 'AQI=' })
  assert.deepEqual(lines[1].binary, { kind: 'user broadcast push', encoding: 'binary', metadata: null })
  assert.deepEqual(lines[2], { time: '1970-01-01T00:00:00.000Z', kind: 'transport', text: 'Connected' })
})

test('an opened frame shows all of it', () => {
  const frames = new Frames()
  assert.match(body(frames.add(frame('[null,"2","t","e",{"a":[1]}]'))), /"topic": "t",\n {2}"event": "e",\n {2}"payload": \{\n {4}"a": \[/)
  const data = encodeBroadcast({ topic: 't', event: 'e', payload: new TextEncoder().encode('hello') })
  assert.match(body(frames.add({ ...frame(data.buffer), data })), /^\/\/ binary frame: user broadcast push, payload encoded as binary[\s\S]*68 65 6c 6c 6f +hello$/)
  assert.match(body(frames.add({ direction: 'in', data: '{}', size: 2, message: null, problem: 'It is no array.', time: 0 })), /It is no array\.\n\n\{\}/)
  assert.match(dump(new Uint8Array(600)), /01f0 [\s\S]*… 88 more bytes$/)
})

test('sizes and times are short', () => {
  assert.deepEqual([0, 999, 1_000, 9_999, 12_345, 3_400_000].map(bytes), ['0 B', '999 B', '1 kB', '10 kB', '12.3 kB', '3.4 MB'])
  assert.deepEqual([0.04, 9.94, 12.6, null].map(milliseconds), ['0.0 ms', '9.9 ms', '13 ms', '–'])
  assert.match(clock(Date.UTC(2026, 0, 1, 0, 0, 5, 7)), /^\d\d:\d\d:05\.007$/)
})

// -- errors --------------------------------------------------------------------------------------------------------------

const CODES = ['Unauthorized', 'MalformedJWT', 'InvalidJWTToken', 'TenantNotFound', 'MessagePerSecondRateLimitReached', 'RealtimeDisabledForConfiguration', 'PrivateOnly', 'UnableToConnectToProject']
const explain = explainer(CODES.map((code) => ({ code, meaning: `meaning of ${code}`, remedy: `remedy of ${code}` })))

test('errors find their code, meaning, remedy and field', () => {
  const check = (text, code, field, settings, where) => {
    const found = explain(text, settings, where)
    assert.deepEqual([found.code, found.field], [code, field], text)
    assert.ok(found.meaning && found.remedy, text)
  }
  check('Unauthorized: You do not have permissions to read from this Channel topic: x', 'Unauthorized', 'token')
  check('Unauthorized: You do not …', 'Unauthorized', 'bearer', { bearer: 'x' })
  check('PrivateOnly: This project only allows private channels', 'PrivateOnly', 'private_channel')
  check('UnableToConnectToProject: Realtime was unable', 'UnableToConnectToProject', 'private_channel', { private_channel: true })
  check('Realtime was unable to connect to the project database', 'UnableToConnectToProject', null)
  check('The token provided is not a valid JWT', 'MalformedJWT', 'bearer', { bearer: 'x' })
  check('The token provided is not a valid JWT', 'MalformedJWT', 'token', { bearer: 'x' }, 'upgrade')
  check('Token has expired 3 seconds ago', 'InvalidJWTToken', 'token')
  check('Tenant not found', 'TenantNotFound', 'host')
  check('Too many messages per second', 'MessagePerSecondRateLimitReached', null)
  const changes = 'RealtimeDisabledForConfiguration'
  check('Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: [event: *, schema: public, table: x, filters: [], select: nil]', changes, 'table')
  check('Error parsing `filter` params: ["wrong"]', changes, 'filter')
  check('Unable to subscribe to changes … filters: [{"notacolumn", "eq", "123", false}], select: nil]. Exception: ERROR P0001 (raise_exception) invalid column for filter notacolumn', changes, 'filter')
  check('Error parsing `select` params: expected a list', changes, 'select')
  check('payload_size_exceeded', 'payload_size_exceeded', 'send-payload')
  check('timeout', 'timeout', null)
  check('Connection closed with code 1012.', 'close_1012', null)
  check('Connection closed with code 1006.', 'close_1006', 'host')
  check('Nothing answers at http://x', 'unreachable', 'host')
})

test('the text of an error is kept, without the code in front', () => {
  assert.equal(explain('PrivateOnly: This project').text, 'This project')
  assert.deepEqual(explain('Something: else entirely'), { code: 'unknown', text: 'Something: else entirely', meaning: null, remedy: null, field: null })
  assert.equal(explainer([])('PrivateOnly: no').code, 'PrivateOnly')
})

// -- latency -------------------------------------------------------------------------------------------------------------

test('an echo is timed once, and by its own broadcast', () => {
  const latencies = new Latencies()
  latencies.sent('e', { a: 1 }, 100)
  latencies.sent('e', { a: 1 }, 110)
  latencies.sent('e', { a: 2 }, 120)
  assert.equal(latencies.received('e', { a: 2 }, 125), 5)
  assert.equal(latencies.received('e', { a: 1 }, 130), 30)
  assert.equal(latencies.received('e', { a: 1 }, 130), 20)
  assert.equal(latencies.received('e', { a: 1 }, 130), null)
  assert.equal(latencies.received('other', {}, 130), null)
  latencies.acked(7)
  assert.deepEqual(latencies.figures('echo'), { count: 3, last: 20, p50: 20, p95: 30, max: 30 })
  assert.equal(latencies.figures('ack').last, 7)
  latencies.clear()
  assert.equal(latencies.figures('echo'), null)
})

test('a broadcast that never comes back is forgotten, bytes are told apart, and samples are bounded', () => {
  const latencies = new Latencies()
  latencies.sent('e', Uint8Array.of(1), 0)
  latencies.sent('e', Uint8Array.of(2), 9_000)
  assert.equal(latencies.received('e', Uint8Array.of(1), 10_001), null)
  assert.equal(latencies.received('e', Uint8Array.of(2), 10_001), 1_001)
  for (let index = 0; index < SAMPLES_MAX * 2; index += 1) latencies.acked(index)
  assert.equal(latencies.samples.length, SAMPLES_MAX)
})

test('a percentile is one of the values', () => {
  assert.equal(percentile([5], 50), 5)
  assert.equal(percentile([1, 2, 3, 4], 50), 2)
  assert.equal(percentile([1, 2, 3, 4], 95), 4)
  assert.equal(percentile([1, 2, 3, 4], 0), 1)
})

// -- the snippet ---------------------------------------------------------------------------------------------------------

const made = (settings) =>
  snippet({ origin: 'http://h', settings: { ...initialSettings(), token: 'T', ...settings }, identity: 'me', message: { event: 'test', payload: { some: 'data' } }, meta: { name: 'x' } })

/** What a snippet calls, by running it against a library that only listens. */
async function run(source) {
  const calls = []
  const channel = {
    on: (...call) => calls.push(['on', ...call.slice(0, 2)]) && channel,
    subscribe: (listener) => (channel.listener = listener),
    track: async (meta) => calls.push(['track', meta]),
    send: async (sent) => calls.push(['send', sent]),
  }
  const createClient = (...call) => {
    calls.push(['createClient', ...call])
    return { realtime: { setAuth: async (token) => calls.push(['setAuth', token]) }, channel: (...call) => calls.push(['channel', ...call]) && channel }
  }
  const AsyncFunction = (async () => {}).constructor
  await new AsyncFunction('createClient', 'console', source.replace(/^import .*$/m, ''))(createClient, { log: () => {} })
  await channel.listener('SUBSCRIBED')
  return calls
}

test('the snippet does what is set', async () => {
  assert.deepEqual(await run(made({})), [
    ['createClient', 'http://h', 'T'],
    ['channel', 'room_a', { config: { broadcast: { self: true, ack: false } } }],
    ['on', 'broadcast', { event: '*' }],
    ['on', 'system', {}],
    ['send', { type: 'broadcast', event: 'test', payload: { some: 'data' } }],
  ])
  assert.deepEqual(await run(made({ ...ALL, host: '' })), [
    ['createClient', 'http://h', 'T', { realtime: { params: { log_level: 'info' } } }],
    ['setAuth', 'B'],
    ['channel', 'über & co', { config: { broadcast: { self: false, ack: true }, private: true, presence: { key: 'me', enabled: true } } }],
    ['on', 'broadcast', { event: '*' }],
    ['on', 'presence', { event: 'sync' }],
    ['on', 'postgres_changes', { event: 'UPDATE', schema: 's', table: 't', filter: 'id=in.(1,2)', select: ['id', 'name'] }],
    ['on', 'system', {}],
    ['track', { name: 'x' }],
    ['send', { type: 'broadcast', event: 'test', payload: { some: 'data' } }],
  ])
})

test('nothing that is typed breaks out of the snippet', async () => {
  const nasty = `a'b"c\\d\n\${e}\`\u2028`
  const [, channel] = await run(made({ channel: nasty }))
  assert.equal(channel[1], nasty)
})
