//! A machine inside a namespace that runs many connections at once, and the servers that they go to.
//!
//! Every server here answers with the address that it saw: whoever asks learns by which uplink the question came.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::netns::Namespace;

/// Longest request that a server reads, octets.
const REQUEST_LEN_MAX: usize = 2048;
/// Body of every HTTP answer.
pub const HTTP_BODY: &str = "the internet is here\n";

/// A thread inside a namespace that drives any number of connections.
#[derive(Debug)]
pub struct Host {
    namespace: Arc<Namespace>,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the thread. Raises this process's limit of open files to what it may have: a thousand connections have two
    /// thousand ends.
    ///
    /// # Errors
    /// Where the thread cannot be started or cannot enter the namespace.
    pub fn start(namespace: &Arc<Namespace>) -> Result<Host> {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        // Where it stays low, opening many connections fails and says so.
        let _ = setrlimit(Resource::Nofile, limit);
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = mpsc::channel();
        let inside = Arc::clone(namespace);
        let thread = thread::Builder::new()
            .name("lab-host".to_owned())
            .spawn(move || {
                let runtime = inside.enter().and_then(|()| {
                    Builder::new_current_thread().enable_all().build().context("cannot start a host's runtime")
                });
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                let _ = started.send(Ok(runtime.handle().clone()));
                // Ends when told to, and also when the host was dropped without a word.
                let _ = runtime.block_on(stopped);
            })
            .context("cannot start a host's thread")?;
        let handle = starting.recv().context("a host's thread ended at once")??;
        Ok(Host { namespace: Arc::clone(namespace), handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it is.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Runs `work` inside the namespace and waits for it.
    ///
    /// # Errors
    /// Where `work` panicked.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::channel();
        self.spawn(async move {
            let _ = done.send(work.await);
        });
        result.recv().context("what a host did ended without a result")
    }

    /// Starts `work` inside the namespace; it ends with the host at the latest.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        // On a runtime of one thread everything runs on that thread, and therefore in its namespace.
        self.handle.spawn(work);
    }

    /// Serves TCP on all addresses: each line that comes is answered with the address that it came from.
    ///
    /// # Errors
    /// Where the port is taken.
    pub fn serve_tcp(&self, port: u16) -> Result<()> {
        self.listen(port, |mut stream, from| async move {
            let answer = format!("{}\n", from.ip());
            let mut line = [0; 64];
            while let Ok(1..) = stream.read(&mut line).await {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Serves HTTP/1.0 on all addresses: every request gets 200 and [`HTTP_BODY`].
    ///
    /// # Errors
    /// Where the port is taken.
    pub fn serve_http(&self, port: u16) -> Result<()> {
        self.listen(port, |mut stream, _| async move {
            let mut request = Vec::new();
            let mut part = [0; 512];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_LEN_MAX {
                match stream.read(&mut part).await {
                    Ok(len @ 1..) => request.extend_from_slice(&part[..len]),
                    _ => return,
                }
            }
            let answer = format!(
                "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{HTTP_BODY}",
                HTTP_BODY.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        })
    }

    fn listen<F: Future<Output = ()> + Send + 'static>(
        &self,
        port: u16,
        serve: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static,
    ) -> Result<()> {
        // "::" takes IPv4 as well (net.ipv6.bindv6only is 0 in a new namespace).
        let listener = self
            .run(async move { TcpListener::bind(("::", port)).await })?
            .with_context(|| format!("cannot listen on TCP port {port} in {}", self.namespace.name()))?;
        self.spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                // Answers are small and shall not wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                tokio::spawn(serve(stream, from));
            }
        });
        Ok(())
    }

    /// Serves UDP on one address: each datagram is answered with the address that it came from.
    ///
    /// # Errors
    /// Where the address is taken or not there.
    pub fn serve_udp(&self, address: SocketAddr) -> Result<()> {
        self.receive(address, |_, from| Some(from.ip().to_string().into_bytes()))
    }

    /// Serves DNS on one address: every query for type A gets 192.0.2.53, any other an empty answer (RFC 1035, section 4.1).
    ///
    /// # Errors
    /// Where the address is taken or not there.
    pub fn serve_dns(&self, address: SocketAddr) -> Result<()> {
        self.receive(address, |query, _| dns_answer(query))
    }

    /// Answers datagrams to one address. Bound to the address, so that answers come from where the question went.
    fn receive(
        &self,
        address: SocketAddr,
        answer: impl Fn(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<()> {
        let socket = self
            .run(async move { UdpSocket::bind(address).await })?
            .with_context(|| format!("cannot bind UDP {address} in {}", self.namespace.name()))?;
        self.spawn(async move {
            let mut request = [0; REQUEST_LEN_MAX];
            loop {
                // Errors are those that ICMP reports about earlier answers.
                if let Ok((len, from)) = socket.recv_from(&mut request).await
                    && let Some(answer) = answer(&request[..len], from)
                {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a DNS query with one question; nothing for what is none.
fn dns_answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER_LEN: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let header = query.get(..HEADER_LEN)?;
    // A question is a name, ended by an empty label, and four octets of type and class.
    let name_len = query[HEADER_LEN..].iter().position(|octet| *octet == 0)? + 1;
    let question = query.get(HEADER_LEN..HEADER_LEN + name_len + 4)?;
    let is_a = question[name_len..name_len + 2] == TYPE_A;
    let mut answer = header.to_vec();
    // QR and RA set, the query's opcode and RD kept, no error.
    answer[2] |= 0x80;
    answer[3] = 0x80;
    answer[4..12].copy_from_slice(&[0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    if is_a {
        // The question's name by reference, type A, class IN, 60 s, four octets.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 53]);
    }
    Some(answer)
}

/// The address in a server's answer.
pub(super) fn seen(answer: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(answer).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_query_is_answered_and_rubbish_is_not() {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
        let answer = dns_answer(query).unwrap();
        assert_eq!(&answer[..12], b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00");
        assert!(answer.ends_with(&[192, 0, 2, 53]));
        assert_eq!(dns_answer(&query[..20]), None);
        assert_eq!(dns_answer(b"short"), None);
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(seen(b"192.0.2.2\n"), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(seen(b"HTTP/1.0"), None);
    }
}
