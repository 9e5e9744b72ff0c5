// Which token goes with which host, and what of both is remembered: a token is for the server that it was typed for, and a link
// that names another one must not get it.

import { homeOf, isSameHost, originOf } from '../lib/address.js'

/** Whether a host is the server of this page; only there its own token is of use. `defaults` are what it says of itself. */
export function isHome(host, defaults, here = globalThis.location) {
  return isSameHost(host, homeOf(defaults, here)) || isSameHost(host, here.origin)
}

/** The token to begin with at a host: the one of the address, the one that was remembered for it, the page's own. */
export function tokenFor(host, { given, kept, defaults }, here = globalThis.location) {
  if (given) return given
  const known = readKept(kept)
  if (known && isSameHost(known.host, host)) return known.token
  return isHome(host, defaults, here) ? defaults.token || '' : ''
}

/** What to remember of a host and its token; an empty text when that is nothing. The page's own token is a newer one the next time. */
export function toKeep(host, token, defaults, here = globalThis.location) {
  const origin = originOf(host)
  if (!token || origin === null || (token === defaults.token && isHome(host, defaults, here))) return ''
  return JSON.stringify({ host: origin, token })
}

/** What was remembered, or null. A token alone, as it was once kept, says not for whom it is. */
function readKept(text) {
  try {
    const kept = JSON.parse(text)
    return typeof kept?.host === 'string' && typeof kept.token === 'string' ? kept : null
  } catch {
    return null
  }
}
