// What can be said of a token without its key: its claims, and what a server would find wrong with them.

/**
 * `{ claims, problem }`: the claims of a token, null when it has none that can be read, and a sentence on what is wrong with it,
 * null when nothing is. Signatures are the server's business: a token without a problem here may still be refused.
 */
export function inspect(token, nowSeconds = Date.now() / 1000) {
  const text = token.trim()
  if (text === '') return { claims: null, problem: 'There is no token. A server refuses the connection (MissingAPIKey).' }
  if (text.startsWith('sb_')) {
    return { claims: null, problem: 'This is an API key of the new kind, not a JWT. A gateway may turn it into one; this server does not take it.' }
  }
  const claims = claimsOf(text)
  if (!claims) return { claims: null, problem: 'This is not a JWT: three parts of base64url with dots between them, the second a JSON object.' }
  return { claims, problem: problemOf(claims, nowSeconds) }
}

/** A length of time in words, in its largest unit. */
export function duration(seconds) {
  const units = [
    [86_400, 'day'],
    [3_600, 'hour'],
    [60, 'minute'],
    [1, 'second'],
  ]
  const [size, name] = units.find(([size]) => seconds >= size) ?? [1, 'second']
  const count = Math.floor(seconds / size)
  return `${count} ${name}${count === 1 ? '' : 's'}`
}

function problemOf({ role, exp }, nowSeconds) {
  const missing = [role === undefined && '`role`', exp === undefined && '`exp`'].filter(Boolean)
  if (missing.length > 0) return `The token has no ${missing.join(' and no ')}; both \`role\` and \`exp\` are required.`
  if (typeof exp !== 'number') return '`exp` of the token is not a number.'
  if (exp <= nowSeconds) return `The token has expired ${duration(nowSeconds - exp)} ago.`
  return null
}

function claimsOf(text) {
  const parts = text.split('.')
  if (parts.length !== 3 || parts.some((part) => !/^[A-Za-z0-9_-]+={0,2}$/.test(part))) return null
  try {
    const bytes = Uint8Array.from(atob(parts[1].replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0))
    const claims = JSON.parse(new TextDecoder().decode(bytes))
    return claims !== null && typeof claims === 'object' && !Array.isArray(claims) ? claims : null
  } catch {
    return null
  }
}
