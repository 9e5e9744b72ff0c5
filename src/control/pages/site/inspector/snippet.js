// The program with supabase-js that does what a pane is set to do.

import { changesOf } from './settings.js'

/** `message` is `{ event, payload }` of the form for broadcasts, `meta` what is tracked. */
export function snippet({ origin, settings, identity, message, meta }) {
  const token = settings.token.trim()
  const bearer = settings.bearer.trim()
  const lines = [
    "import { createClient } from '@supabase/supabase-js'",
    '',
    `const supabase = createClient(${quote(origin ?? 'http://localhost:4000')}, ${quote(token)}${clientOptions(settings)})`,
  ]
  if (bearer) lines.push(`await supabase.realtime.setAuth(${quote(bearer)})`)
  lines.push('', `const channel = supabase.channel(${quote(settings.channel)}, ${literal({ config: configOf(settings, identity) })})`, '')
  lines.push("channel.on('broadcast', { event: '*' }, (message) => console.log('broadcast', message))")
  if (settings.enable_presence) {
    lines.push("channel.on('presence', { event: 'sync' }, () => console.log('present', channel.presenceState()))")
  }
  if (settings.enable_db_changes) {
    lines.push(`channel.on('postgres_changes', ${literal(changesOf(settings))}, (change) => console.log('change', change))`)
  }
  lines.push("channel.on('system', {}, (message) => console.log('system', message))", '')
  lines.push(
    'channel.subscribe(async (status, error) => {',
    "  console.log(status, error?.message ?? '')",
    "  if (status !== 'SUBSCRIBED') return",
  )
  if (settings.enable_presence) lines.push(`  await channel.track(${literal(meta ?? {})})`)
  lines.push(
    `  await channel.send({ type: 'broadcast', event: ${quote(message.event)}, payload: ${literal(message.payload ?? {})} })`,
    '})',
  )
  return lines.join('\n')
}

/** Only what differs from the library's own defaults. */
function clientOptions({ log_level: level }) {
  return level === 'error' ? '' : `, { realtime: { params: { log_level: ${quote(level)} } } }`
}

function configOf(settings, identity) {
  const config = { broadcast: { self: settings.self, ack: settings.ack } }
  if (settings.private_channel) config.private = true
  if (settings.enable_presence) config.presence = { key: identity, enabled: true }
  return config
}

/** A value as JavaScript that people would write. */
function literal(value) {
  if (typeof value === 'string') return quote(value)
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`
  if (value === null || typeof value !== 'object') return String(value)
  const fields = Object.entries(value).map(([name, field]) => `${/^[A-Za-z_$][\w$]*$/.test(name) ? name : quote(name)}: ${literal(field)}`)
  return fields.length > 0 ? `{ ${fields.join(', ')} }` : '{}'
}

function quote(text) {
  return `'${JSON.stringify(text).slice(1, -1).replace(/\\"/g, '"').replace(/'/g, "\\'")}'`
}
