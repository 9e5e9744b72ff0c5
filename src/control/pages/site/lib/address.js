// Where a server is: what people type as a host, as the origin that is meant, and the addresses below it.

const LOOPBACK = /^(localhost|.+\.localhost|127(\.\d{1,3}){3}|\[::1\])$/i
const BARE_WORD = /^[a-z0-9_-]+$/i
const SCHEME = /^[a-z][a-z0-9+.-]*:\/\//i

/**
 * The origin that `text` means, or null when it means none.
 *
 * A pasted address is cut to its origin. Without a scheme, a bare word is the reference of a Supabase project, loopback names
 * and anything with a port are spoken to without TLS, and every other name with it.
 */
export function originOf(text) {
  const typed = text.trim()
  if (typed === '') return null
  if (SCHEME.test(typed)) return parsed(typed.replace(/^ws(s?):/i, 'http$1:'))
  const [host] = typed.split(/[/?#]/, 1)
  if (isLoopback(host)) return parsed(`http://${host}`)
  if (BARE_WORD.test(host)) return parsed(`https://${host}.supabase.co`)
  return parsed(`${/:\d+$/.test(host) ? 'http' : 'https'}://${host}`)
}

/** Whether two hosts, as people type them, are the same server: what is secret for one is not for another. */
export function isSameHost(one, other) {
  return (originOf(one) ?? one.trim()) === (originOf(other) ?? other.trim())
}

/** The server's own idea of where it is, `host`, as an origin; behind a proxy it may not know that the page at `here` came by TLS. */
export function homeOf({ host }, here = globalThis.location) {
  const told = originOf(host ?? '')
  return told === null || new URL(told).host === here.host ? here.origin : told
}

/** Whether a host, with or without a port, is this machine. */
export function isLoopback(host) {
  return LOOPBACK.test(host.replace(/:\d+$/, ''))
}

/** The address of the socket below an origin, with its parameters. */
export function socketUrl(origin, token, logLevel) {
  const url = new URL('/realtime/v1/websocket', origin.replace(/^http/, 'ws'))
  url.searchParams.set('apikey', token)
  if (logLevel) url.searchParams.set('log_level', logLevel)
  url.searchParams.set('vsn', '2.0.0')
  return url.href
}

function parsed(text) {
  if (!URL.canParse(text)) return null
  const url = new URL(text)
  return /^https?:$/.test(url.protocol) && url.hostname ? url.origin : null
}
