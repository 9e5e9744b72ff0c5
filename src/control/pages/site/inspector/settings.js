// What a pane can be set to, and the parameters of the page's address that say so.
//
// The names are those of the original inspector, so its links work here; `self`, `ack` and `second` are ours. A second pane's
// settings stand in the address where they differ from the first one's, with `b_` before the name. `bearer` is never in an
// address, `token` only when it came by one or somebody asked for it.

const text = (name, initial) => ({ name, initial, read: (value) => value, write: (value) => value })
const flag = (name, initial) => ({
  name,
  initial,
  read: (value) => ['true', '1', 'on', ''].includes(value.toLowerCase()),
  write: String,
})
const choice = (name, choices, fold) => ({
  name,
  initial: choices[0],
  choices,
  read: (value) => (choices.includes(fold(value)) ? fold(value) : choices[0]),
  write: (value) => value,
})

/** Every setting, in the order of the form. */
export const FIELDS = [
  text('host', ''),
  text('token', ''),
  text('bearer', ''),
  choice('log_level', ['error', 'warning', 'info', 'debug'], (value) => value.toLowerCase()),
  text('channel', 'room_a'),
  flag('private_channel', false),
  flag('self', true),
  flag('ack', false),
  flag('enable_presence', false),
  flag('enable_db_changes', false),
  text('schema', 'public'),
  text('table', '*'),
  choice('event', ['*', 'INSERT', 'UPDATE', 'DELETE'], (value) => value.toUpperCase()),
  text('filter', ''),
  text('select', ''),
]

/** What never is in an address; `token` may be, see `toParams`. */
const SECRET = new Set(['bearer', 'token'])

export function initialSettings() {
  return Object.fromEntries(FIELDS.map(({ name, initial }) => [name, initial]))
}

/** The settings that these parameters name, and no others. */
export function fromParams(params, prefix = '') {
  const found = {}
  const project = params.get('project')
  if (prefix === '' && project) found.host = project
  for (const { name, read } of FIELDS) {
    const value = name === 'bearer' ? null : params.get(prefix + name)
    if (value !== null) found[name] = read(value)
  }
  return found
}

/** Adds to `params` what differs from `base`; the token only when `withToken`. */
export function toParams(params, settings, base, { prefix = '', withToken = false } = {}) {
  for (const { name, write } of FIELDS) {
    if (SECRET.has(name) && !(name === 'token' && withToken)) continue
    if (settings[name] !== base[name]) params.set(prefix + name, write(settings[name]))
  }
}

/** What these settings ask of a channel, in the words of `Channel`. `identity` is the key under which this pane is present. */
export function channelOptions(settings, identity) {
  return {
    isPrivate: settings.private_channel,
    self: settings.self,
    ack: settings.ack,
    presence: { enabled: settings.enable_presence, key: identity },
    postgresChanges: settings.enable_db_changes ? [changesOf(settings)] : [],
    accessToken: settings.bearer.trim() || settings.token.trim(),
    retryRefused: false,
  }
}

/** The subscription to row changes that these settings describe. */
export function changesOf({ event, schema, table, filter, select }) {
  const wish = { event, schema: schema.trim(), table: table.trim() }
  if (filter.trim() !== '') wish.filter = filter.trim()
  const columns = select.split(',').map((column) => column.trim()).filter(Boolean)
  if (columns.length > 0) wish.select = columns
  return wish
}
