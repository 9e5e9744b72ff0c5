// The Supabase libraries of today and of a year ago, as one list: a way to make a client, the same for all.

import { createClient } from '@supabase/supabase-js'
import { RealtimeClient } from '@supabase/realtime-js'
import { RealtimeClient as OlderClient } from 'realtime-js-2-15'

import { token, trackedTransport } from './support.js'

const reconnectAfterMs = () => 300

/** Each: `name`, and `make(server, apikey)` with `client.realtime` in all of them and the transport as `transport`. */
export const LIBRARIES = [
  {
    name: 'supabase-js',
    binary: true,
    make(server, apikey = token()) {
      const transport = trackedTransport()
      const client = createClient(server.http, apikey, { realtime: { transport, reconnectAfterMs } })
      return { realtime: client.realtime, transport, channel: (...args) => client.channel(...args) }
    },
  },
  direct('realtime-js, 2.0.0', RealtimeClient, { vsn: '2.0.0' }, true),
  direct('realtime-js, 1.0.0', RealtimeClient, { vsn: '1.0.0' }, false),
  // It joins again after as long as it reconnects, whether or not the join before is answered yet, and then never comes to rest.
  direct('realtime-js 2.15', OlderClient, { reconnectAfterMs: () => 2000 }, false),
]

function direct(name, Client, options, binary) {
  return {
    name,
    binary,
    make(server, apikey = token()) {
      const transport = trackedTransport()
      const realtime = new Client(server.socket, { transport, reconnectAfterMs, params: { apikey }, ...options })
      return { realtime, transport, channel: (...args) => realtime.channel(...args) }
    },
  }
}
