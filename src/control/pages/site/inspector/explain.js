// What an error means and what to do about it.
//
// In comes the text that a server or the client said, out goes `{ code, text, meaning, remedy, field }`. Meanings and remedies are
// those of the server's own list of operational codes (`/inspector/codes.json`). A reason of a refused join begins with its
// code; `system` messages and refused upgrades carry a text only, which is looked up below. What has no operational code (a lost
// connection, an answer that never came) is explained here.

/** Texts without a code in front, by what they begin with. */
const CODE_OF_TEXT = [
  [/^API key is missing/, 'MissingAPIKey'],
  [/^Tenant not found/, 'TenantNotFound'],
  [/^Realtime (was )?disabled for this tenant/, 'RealtimeDisabledForTenant'],
  [/^Token has expired/, 'InvalidJWTToken'],
  [/^Token expiration time is invalid/, 'InvalidJWTToken'],
  [/^Fields `role` and `exp` are required/, 'InvalidJWTToken'],
  [/^\[message: "Invalid token"/, 'InvalidJWTToken'],
  [/^The token provided is not a valid JWT/, 'MalformedJWT'],
  [/^(Failed to validate JWT signature|:signature_error)/, 'JwtSignatureError'],
  [/^(Failed to generate JWT signer|:error_generating_signer)/, 'JwtSignerError'],
  [/^Error connecting to Realtime/, 'ErrorConnectingToWebsocket'],
  [/^Too many connected users/, 'ConnectionRateLimitReached'],
  [/^Too many joins per second/, 'JoinsRateLimitReached'],
  [/^Too many messages per second/, 'MessagePerSecondRateLimitReached'],
  [/^Too many presence messages per second/, 'PresenceRateLimitReached'],
  [/^Client presence rate limit exceeded/, 'ClientPresenceRateLimitReached'],
  [/^You (do not have permissions|no longer have permission) to read/, 'Unauthorized'],
  [/^Realtime was unable to connect to the project database/, 'UnableToConnectToProject'],
  [/^Query was cancelled/, 'QueryCanceled'],
  [/^Realtime was unable to find the expected messages partition/, 'MissingPartition'],
  [/^:tenant_db_too_many_connections/, 'DatabaseLackOfConnections'],
  [/^:initializing/, 'InitializingProjectConnection'],
  [/^:connect_rate_limit_reached/, 'DatabaseConnectionRateLimitReached'],
  [/^:increase_connection_pool/, 'IncreaseConnectionPool'],
  [/Too many database timeouts/, 'IncreaseSubscriptionConnectionPool'],
  [/^(Unable to subscribe to changes|Error parsing `|Column selection is not|No subscription params)/, 'RealtimeDisabledForConfiguration'],
  [/^Presence track payload must be a map/, 'InvalidPresencePayload'],
  [/^Node request timeout/, 'TimeoutOnRpcCall'],
  [/^RPC call error/, 'ErrorOnRpcCall'],
  [/^Unknown Error on Channel/, 'UnknownErrorOnChannel'],
]

/** What is said without any operational code, under names of our own. */
const OURS = [
  [/^payload_size_exceeded/, 'payload_size_exceeded', 'The payload is larger than the tenant allows (max_payload_size_in_kb).', 'Send less at once, or put the data elsewhere and send a link to it.', 'send-payload'],
  [/^Track message size exceeded/, 'track_size_exceeded', 'What was tracked is larger than the tenant allows (max_payload_size_in_kb), so the channel was closed.', 'Track a few fields only, and join again.', 'track-payload'],
  [/^unmatched topic/, 'unmatched_topic', 'The server knows no joined channel of this name on this connection: it was never joined, left, or closed.', 'Join, and send again.', null],
  [/^timeout/, 'timeout', 'No answer came within ten seconds. On a private channel that is how a write without permission looks: the server drops it and says nothing.', 'Look at the policies for insert on realtime.messages, at the heartbeat, and at the log of the server.', null],
  [/^Replication connection was not established/, 'replication_timeout', "The stream of broadcasts from the tenant's database did not start within a minute.", 'See whether the database has wal_level = logical, and what the log of the server says.', null],
  [/^Server requested disconnect/, 'server_disconnect', "The tenant's keys or settings have changed, or it was reloaded, so the server closes all its connections.", 'Nothing: the client connects again. If that is refused, the token does not fit the new keys.', null],
  [/^The server refused the presence/, 'presence_refused', 'On a private channel this client may not write presence; or the database could not be asked.', 'Look at the policies for insert on realtime.messages (extension presence), and at the log of the server.', 'track-payload'],
  [/^No server is meant/, 'no_host', 'The host is empty or cannot be read as an address.', 'Give an address such as http://localhost:4000, or the reference of a project.', 'host'],
  [/^channel_crash/, 'channel_crash', 'The channel ended by an error on the server, for example a broadcast whose payload is no object.', 'It joins again by itself. The log of the server has the reason.', null],
  [/^Connection closed with code 1001/, 'close_1001', 'The server sent this connection away: the tenant is gone, or too many joins came per second.', 'Wait before joining again; the client connects again by itself.', null],
  [/^Connection closed with code 1009/, 'close_1009', 'A frame was larger than 5,000,000 bytes.', 'Send less at once.', 'send-payload'],
  [/^Connection closed with code 1011/, 'close_1011', 'The server met an error in this connection.', 'Its log has the reason; the client connects again by itself.', null],
  [/^Connection closed with code 1012/, 'close_1012', "The server restarts, or the tenant's settings have changed.", 'Nothing: the client connects again by itself.', null],
  [/^Connection closed with code 1000/, 'close_1000', 'The server ended the connection in an ordinary way: nothing came from this side for 60 seconds.', 'Browsers slow timers of hidden pages down, and then heartbeats come late. The client connects again by itself.', null],
  [/^Connection closed with code/, 'close_1006', 'The connection broke without a word: the server ended, or the network did.', 'The client tries again with growing pauses. If it stays so, see whether the server runs.', 'host'],
  [/^Nothing answers at/, 'unreachable', 'No connection comes about.', 'See whether the server runs, whether the host and its port are right, and whether its certificate is trusted.', 'host'],
  [/^This page came by https/, 'mixed_content', 'Browsers do not let a page that came by https open connections without TLS.', 'Open this page by http from the server itself, or give the server a host name with TLS.', 'host'],
  [/answers, but the browser does not show/, 'hidden_refusal', 'The server refused the connection, and only pages of its own origin may read why.', 'Open the inspector from that server itself (/inspector/new), or read its log.', 'token'],
  [/does not pass upgrades|did not get through/, 'upgrade_lost', 'The token is good; the WebSocket is stopped on its way.', 'A proxy needs to pass on the headers Upgrade and Connection, and HTTP/1.1.', 'host'],
  [/^There is no Realtime server/, 'no_server', 'Something else answers at this address.', 'Check host and port. A gateway needs a route /realtime/v1/ to the server.', 'host'],
]

/** The field that a code is about; a function when that depends on what is set. */
const ofToken = (settings) => (settings.bearer?.trim() ? 'bearer' : 'token')
const FIELD_OF_CODE = {
  TenantNotFound: 'host',
  MissingAPIKey: 'token',
  InvalidJWTToken: ofToken,
  MalformedJWT: ofToken,
  JwtSignatureError: ofToken,
  JwtSignerError: ofToken,
  ErrorConnectingToWebsocket: 'token',
  TopicNameRequired: 'channel',
  Unauthorized: ofToken,
  PrivateOnly: 'private_channel',
  // Only private channels need a database to be joined.
  UnableToConnectToProject: (settings) => (settings.private_channel ? 'private_channel' : null),
  InvalidPresencePayload: 'track-payload',
  RealtimeDisabledForConfiguration: (_, text) => {
    if (/`filter`|filter /.test(text)) return 'filter'
    if (/`select`|Column selection/.test(text)) return 'select'
    return 'table'
  },
}

/** An upgrade is refused because of the token that it carried; a user's token comes with the join only. */
const AT_UPGRADE = new Set(['MalformedJWT', 'InvalidJWTToken', 'JwtSignatureError', 'JwtSignerError'])

/** Makes explanations of `codes`, the list of `/inspector/codes.json`. */
export function explainer(codes) {
  const known = new Map(codes.map((one) => [one.code, one]))

  /** `where` is `upgrade` or anything else; it decides between the two tokens. */
  return function explain(text, settings = {}, where = '') {
    const coded = /^([A-Z][A-Za-z]+): ([\s\S]*)$/.exec(text)
    const code = coded && (known.has(coded[1]) || known.size === 0) ? coded[1] : CODE_OF_TEXT.find(([pattern]) => pattern.test(text))?.[1]
    if (!code) return explainOurs(text)
    const { meaning = null, remedy = null } = known.get(code) ?? {}
    const isTokenOfUpgrade = where === 'upgrade' && AT_UPGRADE.has(code)
    const field = isTokenOfUpgrade ? 'token' : (FIELD_OF_CODE[code] ?? null)
    return { code, text: coded?.[1] === code ? coded[2] : text, meaning, remedy, field: typeof field === 'function' ? field(settings, text) : field }
  }
}

function explainOurs(text) {
  const ours = OURS.find(([pattern]) => pattern.test(text))
  if (!ours) return { code: 'unknown', text, meaning: null, remedy: null, field: null }
  const [, code, meaning, remedy, field] = ours
  return { code, text, meaning, remedy, field }
}
