// The status page: asks for the figures each second while somebody looks, and shows them.

import { age, bytes, number, percent, seconds } from '../lib/format.js'
import { write } from '../lib/write.js'
import { History } from './history.js'

const PERIOD_MS = 1000
const PATIENCE_MS = 5000
const STALE_MS = 3000

const isDashboard = location.pathname.replace(/\/+$/, '') === '/admin/dashboard'

const main = document.querySelector('main')
const state = document.querySelector('#state')
const stale = document.querySelector('#stale')
const history = new History()
const tenantEvents = new Map()

/** As `write`, of a sentence in which what stands between backquotes is code. */
function writeProse(target, text) {
  if (target.dataset.text === text) return
  target.dataset.text = text
  const parts = text.split('`').map((part, at) => (at % 2 === 1 ? element('code', {}, part) : part))
  target.replaceChildren(...parts)
}

function figure(name, text) {
  write(main.querySelector(`:scope [data-figure="${name}"]`), text)
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}

function drawing(name, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  return made
}

// -- the last minute --

const WIDTH = 120
const HEIGHT = 32
const POINTS = 60

class Spark {
  #line = drawing('polyline', { class: 'line', points: '' })
  #area = drawing('polygon', { class: 'area', points: '' })

  constructor(tile) {
    const box = { class: 'spark', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }
    const svg = drawing('svg', box)
    const floor = { class: 'floor', x1: 0, y1: HEIGHT - 0.5, x2: WIDTH, y2: HEIGHT - 0.5 }
    svg.append(drawing('line', floor), this.#area, this.#line)
    tile.append(svg)
  }

  /** The newest value is at the right edge; the largest one at the top. */
  draw(values) {
    const shown = values.slice(-POINTS)
    const top = Math.max(...shown, 1e-9)
    const step = WIDTH / (POINTS - 1)
    const left = WIDTH - (shown.length - 1) * step
    const points = shown.map((value, at) => {
      const y = HEIGHT - 1 - (value / top) * (HEIGHT - 3)
      return `${(left + at * step).toFixed(1)},${y.toFixed(1)}`
    })
    const drawn = shown.length > 1 ? points.join(' ') : ''
    this.#line.setAttribute('points', drawn)
    this.#area.setAttribute('points', drawn && `${left.toFixed(1)},${HEIGHT} ${drawn} ${WIDTH},${HEIGHT}`)
  }
}

const sumOf = (name) => (figures) => figures.shards.reduce((sum, shard) => sum + shard[name], 0)

/** What each tile shows, over time. */
const TILES = {
  connections: () => history.values((it) => it.connections),
  channels: () => history.values((it) => it.channels),
  messages: () => history.rates((it) => it.messages_total),
  received: () => history.rates((it) => it.received_bytes_total),
  sent: () => history.rates((it) => it.sent_bytes_total),
  outbox: () => history.values(sumOf('outbox_bytes')),
}

const sparks = Object.entries(TILES).map(([name, values]) => {
  const spark = new Spark(main.querySelector(`[data-tile="${name}"]`))
  return () => spark.draw(values())
})

// -- the shards --

const shardsBody = document.querySelector('#shards tbody')
const shardLabels = [...document.querySelectorAll('#shards thead th')].map((it) => it.textContent)

/** A row whose cells are known by name. */
function row(labels, names, header) {
  const cells = {}
  const made = element('tr', { role: 'row' })
  names.forEach(([name, kind], at) => {
    const isHeader = name === header
    const attributes = { role: isHeader ? 'rowheader' : 'cell', 'data-figure': name, 'data-label': labels[at] }
    if (isHeader) attributes.scope = 'row'
    if (kind) attributes.class = kind
    cells[name] = element(isHeader ? 'th' : 'td', attributes)
    made.append(cells[name])
  })
  return { made, cells }
}

const SHARD_CELLS = [
  ['shard'],
  ['busy'],
  ['connections', 'number'],
  ['channels', 'number'],
  ['messages', 'number'],
  ['sends', 'number'],
  ['received', 'number'],
  ['sent', 'number'],
  ['outbox', 'number'],
  ['mean', 'number'],
  ['p99', 'number'],
  ['longest', 'number'],
  ['slow', 'number'],
]

let shardRows = []

function makeShardRows(count) {
  shardRows = Array.from({ length: count }, (_, index) => {
    const { made, cells } = row(shardLabels, SHARD_CELLS, 'shard')
    made.dataset.shard = index
    cells.shard.textContent = `Shard ${index}`
    const bar = drawing('rect', { x: 0, y: 0, width: 0, height: 8 })
    const box = drawing('svg', { viewBox: '0 0 64 8', 'aria-hidden': 'true' })
    box.append(bar)
    const text = element('span')
    cells.busy.append(element('span', { class: 'busy' }, box, text))
    return { made, cells, bar, text }
  })
  shardsBody.replaceChildren(...shardRows.map((it) => it.made))
}

function showShard({ cells, bar, text }, shard, index) {
  const loop = history.loop(index)
  const rate = (name) => history.rate((figures) => figures.shards[index][name])
  bar.setAttribute('width', (64 * (loop.busy ?? 0)).toFixed(1))
  write(text, percent(loop.busy))
  write(cells.connections, number(shard.connections))
  write(cells.channels, number(shard.channels))
  write(cells.messages, number(rate('messages_total')))
  write(cells.sends, number(rate('sends_total')))
  write(cells.received, bytes(rate('received_bytes_total')))
  write(cells.sent, bytes(rate('sent_bytes_total')))
  write(cells.outbox, bytes(shard.outbox_bytes))
  write(cells.mean, seconds(loop.mean))
  write(cells.p99, loop.p99 === null ? '–' : `≤ ${seconds(loop.p99)}`)
  write(cells.longest, seconds(shard.turn_seconds_max))
  write(cells.slow, number(shard.slow_readers_closed_total))
}

function show(figures) {
  figure('node', figures.node)
  figure('region', figures.region ?? 'not set')
  figure('version', figures.version)
  figure('uptime', age(figures.uptime_seconds))
  figure('driver', figures.driver ?? 'unknown')
  figure('shards', number(figures.shards.length))
  figure('tenants', number(figures.tenants))
  figure('connections', number(figures.connections))
  figure('connections_max', `of ${number(figures.connections_max)}`)
  figure('channels', number(figures.channels))
  figure('users', `of ${number(figures.users)} ${figures.users === 1 ? 'socket' : 'sockets'}`)
  figure('messages', number(history.rate((it) => it.messages_total)))
  figure('received', bytes(history.rate((it) => it.received_bytes_total)))
  figure('sent', bytes(history.rate((it) => it.sent_bytes_total)))
  figure('outbox', bytes(sumOf('outbox_bytes')(figures)))
  figure('slow', `${number(figures.slow_readers_closed_total)} slow readers closed`)
  for (const draw of sparks) draw()
  if (shardRows.length !== figures.shards.length) makeShardRows(figures.shards.length)
  figures.shards.forEach((shard, index) => showShard(shardRows[index], shard, index))
}

// -- the tenants, for operators --

const tenantsBody = document.querySelector('#tenants tbody')
const tenantsFilter = document.querySelector('#tenants-filter')
const tenantsNote = document.querySelector('#tenants-note')
const tenantLabels = [...document.querySelectorAll('#tenants thead th')].map((it) => it.textContent)
const TENANT_CELLS = [['tenant'], ['users', 'number'], ['events', 'number'], ['database', 'wide'], ['broadcasts'], ['changes']]
const tenantRows = new Map()
let tenantsSeen = null

const STAGES = {
  not_configured: ['not configured', ''],
  idle: ['idle, nobody needs it', ''],
  connecting: ['connecting', 'warn'],
  connected: ['connected', 'ok'],
  failing: ['failing', 'bad'],
}

function makeTenantRow(externalId) {
  const { made, cells } = row(tenantLabels, TENANT_CELLS, 'tenant')
  made.dataset.tenant = externalId
  const parts = {
    name: element('span', { class: 'name' }),
    id: element('span', { class: 'muted' }),
    suspended: element('span', { class: 'tag bad hidden' }, 'suspended'),
    stage: element('span', { class: 'tag' }),
    code: element('code'),
    why: element('span', { class: 'why muted' }),
  }
  cells.tenant.append(element('span', { class: 'row' }, parts.name, parts.id, parts.suspended))
  cells.database.append(element('span', { class: 'stage' }, element('span', { class: 'row' }, parts.stage, parts.code), parts.why))
  return { made, cells, parts }
}

/** Broadcasts of a tenant per second, since it was seen before. */
function eventsPerSecond(tenant, uptime) {
  const before = tenantEvents.get(tenant.external_id)
  if (!before || uptime < before.uptime || tenant.events_total < before.total) {
    tenantEvents.set(tenant.external_id, { uptime, total: tenant.events_total, rate: null })
    return null
  }
  if (uptime === before.uptime) return before.rate
  const rate = (tenant.events_total - before.total) / (uptime - before.uptime)
  tenantEvents.set(tenant.external_id, { uptime, total: tenant.events_total, rate })
  return rate
}

function showTenant({ cells, parts }, tenant, uptime) {
  const [word, kind] = STAGES[tenant.database.state] ?? [tenant.database.state, '']
  write(parts.name, tenant.name || tenant.external_id)
  write(parts.id, tenant.name && tenant.name !== tenant.external_id ? tenant.external_id : '')
  parts.suspended.classList.toggle('hidden', !tenant.suspended)
  write(cells.users, `${number(tenant.users)} of ${number(tenant.users_max)}`)
  write(cells.events, number(eventsPerSecond(tenant, uptime)))
  parts.stage.className = `tag ${kind}`
  write(parts.stage, word)
  write(parts.code, tenant.database.code ?? '')
  writeProse(parts.why, tenant.database.code ? `${tenant.database.meaning} ${tenant.database.remedy}` : '')
  const { broadcast_stream: stream, row_changes: changes } = tenant
  const rows = (count) => `${number(count)} ${count === 1 ? 'row' : 'rows'}`
  write(cells.broadcasts, stream.running ? `streaming, ${rows(stream.rows_total)}, ${number(stream.lag_ms)} ms behind` : stream.rows_total > 0 ? `off, ${rows(stream.rows_total)} so far` : 'off')
  write(
    cells.changes,
    changes.listeners > 0
      ? `${number(changes.listeners)} ${changes.listeners === 1 ? 'channel listens' : 'channels listen'}, ${rows(changes.delivered_total)}, ${number(changes.lag_ms)} ms behind`
      : changes.delivered_total > 0
        ? `nobody listens, ${rows(changes.delivered_total)} so far`
        : 'nobody listens',
  )
}

function matches(tenant, wanted) {
  const texts = [tenant.external_id, tenant.name, tenant.database.state, STAGES[tenant.database.state]?.[0], tenant.database.code, tenant.suspended ? 'suspended' : '']
  return texts.some((text) => text?.toLowerCase().includes(wanted))
}

function showTenants() {
  const { tenants, tenants_left_out: leftOut, uptime_seconds: uptime } = tenantsSeen
  const wanted = tenantsFilter.value.trim().toLowerCase()
  const shown = tenants.filter((tenant) => matches(tenant, wanted))
  const names = new Set(shown.map((tenant) => tenant.external_id))
  for (const [name, { made }] of tenantRows) {
    if (names.has(name)) continue
    made.remove()
    tenantRows.delete(name)
  }
  shown.forEach((tenant, at) => {
    let known = tenantRows.get(tenant.external_id)
    if (!known) {
      known = makeTenantRow(tenant.external_id)
      tenantRows.set(tenant.external_id, known)
    }
    showTenant(known, tenant, uptime)
    const there = tenantsBody.children[at]
    if (there !== known.made) tenantsBody.insertBefore(known.made, there ?? null)
  })
  const more = leftOut > 0 ? ` ${number(leftOut)} more are not listed.` : ''
  write(tenantsNote, `${number(shown.length)} of ${number(tenants.length)} shown.${more}`)
}

function takeTenants(figures) {
  tenantsSeen = figures
  const listed = new Set(figures.tenants.map((tenant) => tenant.external_id))
  for (const name of tenantEvents.keys()) if (!listed.has(name)) tenantEvents.delete(name)
  figure('memory', bytes(figures.memory_bytes))
  const busy = figures.machine_busy_percent
  figure('machine', typeof busy === 'number' ? percent(busy / 100) : '–')
  showTenants()
}

tenantsFilter.addEventListener('input', () => tenantsSeen && showTenants())

// -- asking --

let answeredAt = null
let timer = null
let isAsking = false

async function ask(path) {
  const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS) })
  if (!response.ok) throw new Error(`the server answers ${response.status}`)
  return response.json()
}

function tell(word, kind) {
  state.className = `tag ${kind}`
  write(state, word)
}

/** Says how old the numbers are, when they are too old to be called live. */
function judge(error) {
  const silence = answeredAt === null ? null : performance.now() - answeredAt
  const isStale = silence === null || silence > STALE_MS
  main.classList.toggle('is-stale', isStale)
  stale.classList.toggle('hidden', !isStale)
  if (!isStale) return
  tell('Stale', 'bad')
  const why = error instanceof TypeError ? 'it cannot be reached' : error.name === 'TimeoutError' ? 'it takes too long' : error.message
  const since = silence === null ? 'The server does not answer' : `The server has not answered for ${age(silence / 1000)}, and the numbers are as old`
  write(stale, `${since}: ${why}. It is asked again each second.`)
}

async function turn() {
  timer = null
  isAsking = true
  try {
    const asked = isDashboard ? [ask('/status/figures'), ask('/admin/figures')] : [ask('/status/figures')]
    const [figures, tenants] = await Promise.all(asked)
    answeredAt = performance.now()
    main.classList.remove('is-stale')
    stale.classList.add('hidden')
    tell('Live', 'ok')
    if (history.add(figures)) show(figures)
    if (tenants) takeTenants(tenants)
  } catch (error) {
    judge(error)
  }
  isAsking = false
  plan(PERIOD_MS)
}

function plan(ms) {
  if (timer === null && !isAsking && document.visibilityState === 'visible') timer = setTimeout(turn, ms)
}

document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') {
    plan(0)
  } else if (timer !== null) {
    clearTimeout(timer)
    timer = null
  }
})

if (isDashboard) {
  for (const part of document.querySelectorAll('.operators')) part.classList.remove('hidden')
  document.querySelector('#sign-in').classList.add('hidden')
}
plan(0)
