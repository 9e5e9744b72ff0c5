//! Something in front of a database that does not let replication through, as poolers do.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Listens as long as the runtime of the test runs; returns its port.
pub async fn start(database_port: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port is free");
    let port = listener.local_addr().expect("it listens").port();
    let database = SocketAddr::from((Ipv4Addr::LOCALHOST, database_port));
    tokio::task::spawn_local(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(client, database));
        }
    });
    port
}

async fn serve(mut client: TcpStream, database: SocketAddr) {
    let mut startup = vec![0; 4];
    if client.read_exact(&mut startup).await.is_err() {
        return;
    }
    let length = u32::from_be_bytes(startup[..].try_into().expect("four bytes"));
    startup.resize(length as usize, 0);
    if client.read_exact(&mut startup[4..]).await.is_err() {
        return;
    }
    if startup.windows(12).any(|part| part == b"replication\0") {
        let text = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0";
        let length = u32::try_from(text.len() + 4).expect("a short text");
        let answer = [b"E".as_slice(), &length.to_be_bytes(), text].concat();
        let _ = client.write_all(&answer).await;
        return;
    }
    let mut server = TcpStream::connect(database)
        .await
        .expect("the database runs");
    server
        .write_all(&startup)
        .await
        .expect("the database reads");
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
