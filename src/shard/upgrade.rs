//! A socket before its upgrade: request head, refusal, upgrade, or hand-over to the control core (spec: websocket-protocol 1 and 2,
//! http-api 1).

use super::Shard;
use crate::channel::Channels;
use crate::connection::{self, Close, ConnectionId, Io, LocalBytes, Socket, Token, unix_second};
use crate::http::{self, Head, HeadLimits, Parsed, Refusal, Route, UpgradeRequest};
use crate::limits;
use crate::mail::{Adopted, HandOver, Mail, Seek};
use crate::metrics::Refused;
use crate::tenant::{self, Counter, TenantId};
use crate::websocket::Decoder;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// What the operator has set and upgrades go by.
#[derive(Clone, Debug)]
pub struct UpgradeSettings {
    /// `CONNECT_ERROR_BACKOFF_MS`: delay of a refusal.
    pub connect_error_backoff: Duration,
    /// `NO_CHANNEL_TIMEOUT_IN_MS`: time between two rounds of the reaper.
    pub no_channel_timeout: Duration,
    /// With a single tenant configured, a host that names nobody means that tenant.
    pub any_host_single_tenant: bool,
    /// Others may store tenants: one that is not known is sought by the control core.
    pub seeks_tenants: bool,
    /// Bounds of a request head.
    pub head: HeadLimits,
}

/// A socket that is not upgraded yet.
#[derive(Debug)]
pub(super) enum Opening {
    /// The head is not complete.
    Head(Vec<u8>),
    /// Its tenant is being sought; these bytes begin with its head.
    Seeking(Vec<u8>),
    /// The refusal is due later; what the client sends meanwhile is dropped.
    Refused(Unread),
    /// It speaks plain HTTP and is on its way to the control core; these bytes go with it.
    Leaving(Vec<u8>),
}

/// What may be left unread of a client that is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    /// Nothing: the head is all it sent, and it waits for an answer.
    Nothing,
    /// The rest of whatever it is sending; closing on that would be a reset, which can overtake the refusal.
    Something,
}

impl Unread {
    /// After a head with `rest` behind it.
    fn of(head: &Head, rest: &[u8]) -> Self {
        let has_body = ["content-length", "transfer-encoding"]
            .iter()
            .any(|name| head.values(name).next().is_some());
        if has_body || !rest.is_empty() {
            Self::Something
        } else {
            Self::Nothing
        }
    }

    const fn close(self) -> Close {
        match self {
            Self::Nothing => Close::Final,
            Self::Something => Close::Flush,
        }
    }
}

impl Default for Opening {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

/// Refusals that are due later, by timer key.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    due: FxHashMap<u64, (ConnectionId, Vec<u8>)>,
    last: u64,
}

/// Timer keys of this room: the others have it clear.
const TIMER_KEY: u64 = 1 << 63;

impl Shard {
    pub(super) fn on_head_bytes(&mut self, io: &mut Io<'_>, id: ConnectionId, bytes: &mut [u8]) {
        let mut buffered = match self.opening.get_mut(&id) {
            Some(Opening::Head(buffered)) => std::mem::take(buffered),
            Some(Opening::Leaving(leaving)) => return leaving.extend_from_slice(bytes),
            Some(Opening::Seeking(_)) => return self.keep_while_seeking(io, id, bytes),
            Some(Opening::Refused(unread)) => {
                *unread = Unread::Something;
                return;
            }
            None => return,
        };
        let is_whole = buffered.is_empty();
        if !is_whole {
            buffered.extend_from_slice(bytes);
        }
        let seen = if is_whole { &*bytes } else { &buffered };
        match http::parse_head(seen, &self.upgrades.head) {
            Parsed::Partial => {
                if is_whole {
                    buffered.extend_from_slice(bytes);
                }
                self.opening.insert(id, Opening::Head(buffered));
            }
            Parsed::Refuse(refusal) => self.refuse(io, id, &refusal, Unread::Something),
            Parsed::Complete(head, used) => match http::route(&head) {
                Route::WebSocket => {
                    let mut rest = seen.get(used..).unwrap_or_default().to_vec();
                    let read = seen.len();
                    if let Err(refusal) = self.upgrade(io, id, &head, &mut rest, read) {
                        self.refuse_or_seek(io, id, (&head, used), seen, &refusal);
                    }
                }
                Route::Refuse(refusal) => self.refuse(io, id, &refusal, Unread::Something),
                Route::HandOver if connection::is_control_busy(io) => {
                    self.refuse(io, id, &Refusal::control_core_busy(), Unread::Something);
                }
                Route::HandOver => {
                    let leaving = if is_whole { bytes.to_vec() } else { buffered };
                    self.opening.insert(id, Opening::Leaving(leaving));
                    io.detach(id);
                }
            },
        }
    }

    /// Upgrades a socket whose head is complete. `rest` is what was read behind the head, `read` the length of both.
    ///
    /// # Errors
    ///
    /// The refusal. The socket is as it was.
    fn upgrade(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        head: &Head,
        rest: &mut [u8],
        read: usize,
    ) -> Result<(), Refusal> {
        if !self.channels.settings.open_sockets.try_add() {
            return Err(Refusal::too_many_connections());
        }
        let unix_now = i64::from(unix_second(io));
        let channels = &mut self.channels;
        let admitted = http::upgrade_request(head).and_then(|request| {
            let tokens = &mut channels.tokens;
            let (tenant, token) = tenant::admit(
                &channels.tenants,
                self.upgrades.any_host_single_tenant,
                &request,
                |tenant, text| tokens.verify(tenant.id, &tenant.verifier, text, unix_now),
            )?;
            let accept = http::check_upgrade_headers(head)?;
            Ok((request, tenant, token, accept))
        });
        let (request, tenant, token, accept_key) =
            admitted.inspect_err(|_| channels.settings.open_sockets.remove())?;
        let mut answer = Vec::with_capacity(256);
        http::write_101(
            &mut answer,
            &accept_key,
            &http::http_date(u64::from(unix_second(io))),
        );
        io.send(id, LocalBytes::from(answer));
        self.open(io, id, request, tenant.id, token, read);
        self.on_frames(io, id, rest);
        Ok(())
    }

    /// The first `used` bytes of `whole` are a head that is not admitted. A tenant that nobody knows here may be known elsewhere: then
    /// the bytes wait for the answer.
    fn refuse_or_seek(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        (head, used): (&Head, usize),
        whole: &[u8],
        refusal: &Refusal,
    ) {
        let external_id = http::external_id(head).filter(|_| {
            self.upgrades.seeks_tenants
                && refusal.is_unknown_tenant()
                && self.seeking < limits::SEEKING_SOCKETS_MAX
                && !connection::is_control_busy(io)
        });
        let Some(external_id) = external_id else {
            return self.refuse_upgrade(io, id, (head, used), whole, refusal);
        };
        self.seeking += 1;
        self.opening.insert(id, Opening::Seeking(whole.to_vec()));
        let seek = Seek {
            external_id,
            connection: id,
        };
        io.mail(connection::CONTROL, Mail::Seek(Box::new(seek)));
    }

    fn refuse_upgrade(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        (head, used): (&Head, usize),
        whole: &[u8],
        refusal: &Refusal,
    ) {
        let unread = Unread::of(head, whole.get(used..).unwrap_or_default());
        self.channels.report_refused_upgrade(io, head, refusal);
        self.count_refused_upgrade(io, head, refusal);
        self.refuse(io, id, refusal, unread);
    }

    /// An upgrade counts as one that was tried when it was understood and there was room for it.
    fn count_refused_upgrade(&self, io: &Io<'_>, head: &Head, refusal: &Refusal) {
        let asked = http::upgrade_request(head).ok();
        if let Some(asked) = asked.filter(|_| refusal.why != Refused::TooManyConnections) {
            let wait = self.wait_of(refusal);
            self.channels
                .figures(io)
                .count_refused_upgrade(asked.vsn, wait);
        }
    }

    /// The socket is not opening any more. False when it was not.
    pub(super) fn forget_opening(&mut self, id: ConnectionId) -> bool {
        let opening = self.opening.remove(&id);
        if let Some(Opening::Seeking(_)) = opening {
            self.seeking -= 1;
        }
        opening.is_some()
    }

    /// What a client sends behind its head belongs to the socket that it may become. Beyond the bound it becomes none, also where its
    /// tenant is known by now: something of what it sent would be missing.
    fn keep_while_seeking(&mut self, io: &mut Io<'_>, id: ConnectionId, bytes: &[u8]) {
        let Some(Opening::Seeking(whole)) = self.opening.get_mut(&id) else {
            return;
        };
        whole.extend_from_slice(bytes);
        if whole.len() <= limits::HEAD_BYTES_MAX {
            return;
        }
        if let Some((whole, head, used)) = self.take_sought(id) {
            let refusal = Refusal::tenant_not_found(&http::external_id(&head).unwrap_or_default());
            self.refuse_upgrade(io, id, (&head, used), &whole, &refusal);
        }
    }

    /// What a socket has sent while its tenant was being sought, the head in it, and the length of that.
    fn take_sought(&mut self, id: ConnectionId) -> Option<(Vec<u8>, Head, usize)> {
        let opening = self.opening.get_mut(&id)?;
        if !matches!(opening, Opening::Seeking(_)) {
            return None;
        }
        let Opening::Seeking(whole) = std::mem::take(opening) else {
            return None;
        };
        self.seeking -= 1;
        // The same bytes began with a whole head before.
        match http::parse_head(&whole, &self.upgrades.head) {
            Parsed::Complete(head, used) => Some((whole, head, used)),
            _ => None,
        }
    }

    /// The tenant of a socket was sought: it is known by now, or there is none.
    pub(super) fn on_sought(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        let Some((whole, head, used)) = self.take_sought(id) else {
            return;
        };
        let mut rest = whole.get(used..).unwrap_or_default().to_vec();
        let read = whole.len();
        if let Err(refusal) = self.upgrade(io, id, &head, &mut rest, read) {
            self.refuse_upgrade(io, id, (&head, used), &whole, &refusal);
        }
    }

    /// The socket is upgraded; it counts as open already. So many bytes were read from it so far.
    fn open(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        request: UpgradeRequest,
        tenant: TenantId,
        token: Rc<Token>,
        read: usize,
    ) {
        self.opening.remove(&id);
        self.channels.count_upgrade(request.vsn);
        let last_seen = unix_second(io);
        let known = self.channels.tenants.get(tenant);
        if let Some(known) = known {
            let traffic = known.usage.traffic(usize::from(io.shard().0));
            traffic.received.add(read as u64);
            io.count_traffic(id, traffic);
            // The check of joins per second was the first use of its counter, if nothing was (spec 9.2, 9.3).
            Channels::count(io, tenant, &known.usage, Counter::Joins, 0);
        }
        // Policies alone ask for the headers, and only a database has policies.
        let has_database = known.is_some_and(|tenant| tenant.has_database);
        let socket = Socket {
            decoder: Decoder::default(),
            token,
            channels: SmallVec::new(),
            waiting: None,
            headers: (has_database && !request.x_headers.is_empty())
                .then(|| request.x_headers.into()),
            tenant,
            last_seen,
            vsn: request.vsn,
            log_level: request.log_level,
            is_user: false,
            has_tried_to_join: false,
        };
        self.channels.sockets.insert(id, socket);
        self.channels.report_connected(io, id);
        let idle_timeout = self.channels.settings.idle_timeout_seconds;
        io.visit_at(id, Channels::next_visit(last_seen, idle_timeout, None));
    }

    /// An upgrade that came over a connection of the control core: it has checked everything and answered 101.
    pub(super) fn adopt(&mut self, io: &mut Io<'_>, adopted: Adopted) {
        let Adopted {
            socket,
            mut bytes,
            request,
            tenant,
        } = adopted;
        let unix_now = i64::from(unix_second(io));
        let Some(known) = self.channels.tenants.get(tenant) else {
            return;
        };
        let text = request.token.as_deref().unwrap_or_default();
        let Ok(token) = self
            .channels
            .tokens
            .verify(tenant, &known.verifier, text, unix_now)
        else {
            return;
        };
        let Some(id) = io.adopt(socket) else {
            return;
        };
        if self.channels.settings.open_sockets.try_add() {
            self.open(io, id, request, tenant, token, bytes.len());
            self.on_frames(io, id, &mut bytes);
        } else {
            self.channels
                .figures(io)
                .count_refused(Refused::TooManyConnections);
            connection::close(io, id, 1013);
        }
    }

    /// Writes a refusal, at once or when its delay is over, and closes.
    fn refuse(&mut self, io: &mut Io<'_>, id: ConnectionId, refusal: &Refusal, unread: Unread) {
        self.channels.figures(io).count_refused(refusal.why);
        let mut answer = Vec::with_capacity(256);
        http::write_refusal(
            &mut answer,
            refusal,
            &http::http_date(u64::from(unix_second(io))),
        );
        let wait = self.wait_of(refusal);
        if wait.is_zero() {
            self.opening.remove(&id);
            io.send(id, LocalBytes::from(answer));
            io.close(id, unread.close());
            return;
        }
        self.opening.insert(id, Opening::Refused(unread));
        self.refusals.last += 1;
        let key = self.refusals.last | TIMER_KEY;
        self.refusals.due.insert(key, (id, answer));
        io.set_timer(io.now().after(wait), key);
    }

    /// How long a refusal is held back.
    fn wait_of(&self, refusal: &Refusal) -> Duration {
        if refusal.delayed {
            self.upgrades.connect_error_backoff
        } else {
            Duration::ZERO
        }
    }

    /// Says whether the timer was one of this room.
    pub(super) fn on_refusal_due(&mut self, io: &mut Io<'_>, key: u64) -> bool {
        let Some((id, answer)) = self.refusals.due.remove(&key) else {
            return false;
        };
        if let Some(Opening::Refused(unread)) = self.opening.remove(&id) {
            io.send(id, LocalBytes::from(answer));
            io.close(id, unread.close());
        }
        true
    }

    /// A head that is not complete by now never will be.
    pub(super) fn on_late_head(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        match self.opening.get(&id) {
            Some(Opening::Head(_)) => {
                self.refuse(io, id, &Refusal::late_head(), Unread::Something);
            }
            // The control core has not answered for so long: it is as if it did not know either.
            Some(Opening::Seeking(_)) => self.on_sought(io, id),
            // Its own timer ends it.
            Some(Opening::Refused(_)) | None => {}
            Some(Opening::Leaving(_)) => {
                self.opening.remove(&id);
                io.close(id, Close::Abort);
            }
        }
    }

    /// The runtime has made an ordinary descriptor of the connection.
    pub(super) fn hand_over(&mut self, io: &mut Io<'_>, id: ConnectionId, socket: OwnedFd) {
        if let Some(Opening::Leaving(bytes)) = self.opening.remove(&id) {
            io.mail(
                connection::CONTROL,
                Mail::HandOver(Box::new(HandOver { socket, bytes })),
            );
        }
    }
}

const _: () = assert!(limits::HEAD_TIMEOUT.as_secs() > 0, "a head gets some time");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_head_that_is_all_a_client_sends_leaves_nothing_unread() {
        let check = |headers: &str, rest: &str, expected| {
            let bytes = format!("GET /socket/websocket HTTP/1.1\r\nHost: a\r\n{headers}\r\n{rest}");
            let Parsed::Complete(head, used) =
                http::parse_head(bytes.as_bytes(), &HeadLimits::default())
            else {
                panic!("a whole head: {bytes}")
            };
            assert_eq!(
                Unread::of(&head, &bytes.as_bytes()[used..]),
                expected,
                "{bytes}"
            );
        };
        check("", "", Unread::Nothing);
        check("Upgrade: websocket\r\n", "", Unread::Nothing);
        check("Upgrade: websocket\r\n", "x", Unread::Something);
        check("Content-Length: 9\r\n", "", Unread::Something);
        check("Transfer-Encoding: chunked\r\n", "", Unread::Something);
    }
}
