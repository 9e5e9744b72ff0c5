// The Supabase libraries of today and of a year ago, as one list: a way to make a client, the same for all.

import { createClient } from '@supabase/supabase-js'
import { RealtimeClient } from '@supabase/realtime-js'
import { RealtimeClient as OlderClient } from 'realtime-js-2-15'

import { LIBRARY_TIMEOUT_MS, token, trackedTransport } from './support.js'

// A library gives up much later than it does by itself: a busy machine may be slow, and nothing here is about that.
const OPTIONS = { reconnectAfterMs: () => 300, timeout: LIBRARY_TIMEOUT_MS }

// Version 2.15 joins again after this time whether or not the last join was answered, and for that leaves its own channel for
// good: an answer that takes longer ends the channel.
const OLDER_OPTIONS = { reconnectAfterMs: (tries) => (tries === 1 ? 300 : 10_000) }

/** Each: `name`, and `make(server, apikey)` with `client.realtime` in all of them and the transport as `transport`. */
export const LIBRARIES = [
  {
    name: 'supabase-js',
    binary: true,
    make(server, apikey = token()) {
      const transport = trackedTransport()
      const client = createClient(server.http, apikey, { realtime: { transport, ...OPTIONS } })
      return { realtime: client.realtime, transport, channel: (...args) => client.channel(...args) }
    },
  },
  direct('realtime-js, 2.0.0', RealtimeClient, { vsn: '2.0.0' }, true),
  direct('realtime-js, 1.0.0', RealtimeClient, { vsn: '1.0.0' }, false),
  direct('realtime-js 2.15', OlderClient, OLDER_OPTIONS, false),
]

function direct(name, Client, options, binary) {
  return {
    name,
    binary,
    make(server, apikey = token()) {
      const transport = trackedTransport()
      const realtime = new Client(server.socket, { transport, params: { apikey }, ...OPTIONS, ...options })
      return { realtime, transport, channel: (...args) => realtime.channel(...args) }
    },
  }
}
