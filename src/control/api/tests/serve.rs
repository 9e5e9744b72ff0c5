//! Connections with their sockets.

use super::*;
use crate::mail::HandOver;
use socket2::SockRef;
use std::io::Write;
use std::net::{TcpListener, TcpStream};

#[test]
fn who_does_not_read_is_cut_as_long_as_it_is_served_here() {
    run(async {
        let mut stack = Stack::new();
        let connections = Connections::new(stack.api.clone(), stack.app.clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, _) = listener.accept().unwrap();
        let seen = served.try_clone().unwrap();
        let patience = || SockRef::from(&seen).tcp_user_timeout().unwrap();
        let handed = HandOver {
            socket: served.into(),
            bytes: Vec::new(),
        };
        connections.serve(handed).unwrap();
        assert_eq!(patience(), Some(limits::STALLED_READER_TIMEOUT));
        let upgrade = format!(
            "GET /socket/websocket?vsn=2.0.0&apikey={} HTTP/1.1\r\nhost: a.x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            good_token()
        );
        client.write_all(upgrade.as_bytes()).unwrap();
        let parcel = stack.parcels.recv().await.unwrap();
        assert!(matches!(parcel, Parcel::Adopt(_)), "it is a shard's now");
        assert_eq!(patience(), None);
    });
}
