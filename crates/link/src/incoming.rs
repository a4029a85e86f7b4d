//! A call that has come in and waits for the agent's decision.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use crate::exchange::{Answer, Granted, Request};
use crate::records::Records;
use crate::session::Session;
use crate::{LinkError, Timing};

/// A verified caller (an importer, or the source of a migration) and its request. Dropping it hangs up.
///
/// ```text
///  accept() --> waiting --- wait() ---> waiting       hung_up() completes when the importer is gone
///                  |------- deny() ---> closed
///                  |------- grant() --> Session        of a request to import
///                  |------- accept() -> Session        of a request to migrate
///                  |-- greet_back() --> closed         by the caller, of a greeting
/// ```
#[derive(Debug)]
pub struct Incoming {
    stream: TlsStream<Records>,
    peer: SocketAddr,
    peer_node: String,
    request: Request,
    /// The reason to repeat.
    reason: String,
    /// When the importer heard something last.
    spoke: Instant,
    timing: Timing,
}

impl Incoming {
    pub(crate) fn new(
        stream: TlsStream<Records>,
        peer: SocketAddr,
        peer_node: String,
        request: Request,
        timing: Timing,
    ) -> Self {
        Self {
            stream,
            peer,
            peer_node,
            request,
            reason: "the home agent looks at it".into(),
            spoke: Instant::now(),
            timing,
        }
    }

    /// The node that calls, from its verified certificate.
    #[must_use]
    pub fn peer_node(&self) -> &str {
        &self.peer_node
    }

    /// The address it calls from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What it asks for. Nothing in it is verified.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Tells the importer why it has to wait. Cut to 900 characters on one line.
    ///
    /// # Errors
    /// The importer is gone or does not read.
    pub async fn wait(&mut self, reason: &str) -> Result<(), LinkError> {
        reason.clone_into(&mut self.reason);
        self.say(&Answer::wait(reason)).await
    }

    /// Completes when the importer is gone or speaks out of turn; repeats the last reason meanwhile, so that the importer knows
    /// that somebody is there. Poll it whenever nothing else is to be done; it may be dropped and called again.
    pub async fn hung_up(&mut self) -> LinkError {
        loop {
            let again = self.spoke + self.timing.keep_alive;
            tokio::select! {
                () = sleep_until(again) => {
                    if let Err(error) = self.say(&Answer::wait(&self.reason)).await {
                        return error;
                    }
                }
                gone = Self::gone(&self.stream, self.peer) => return gone,
            }
        }
    }

    /// Refuses, with a reason that a person can act on.
    ///
    /// # Errors
    /// The importer is gone or does not read.
    pub async fn deny(mut self, reason: &str) -> Result<(), LinkError> {
        self.say(&Answer::denied(reason)).await
    }

    /// Grants. From here on the importer may send USB/IP at any time, so give the session to the kernel soon.
    ///
    /// # Errors
    /// The importer is gone or does not read. An importer that has hung up already is noticed here too.
    pub async fn grant(self, granted: Granted) -> Result<Session, LinkError> {
        self.say_yes(&Answer::Granted(granted)).await
    }

    /// Agrees to take a virtual machine. From here on the source's QEMU may send at any time, so give the session to the kernel
    /// soon.
    ///
    /// # Errors
    /// As for [`Incoming::grant`].
    pub async fn accept(self) -> Result<Session, LinkError> {
        self.say_yes(&Answer::Accepted).await
    }

    /// Answers a greeting, and waits until the caller hangs up: it tries to give the connection to its kernel, and a kernel takes none
    /// that has ended.
    ///
    /// # Errors
    /// The caller is gone or does not read.
    pub async fn greet_back(mut self) -> Result<(), LinkError> {
        self.say(&Answer::Accepted).await?;
        // It says nothing more. Whatever comes, or nothing in time, is the end.
        drop(timeout(self.timing.request, Self::gone(&self.stream, self.peer)).await);
        Ok(())
    }

    async fn say_yes(mut self, answer: &Answer) -> Result<Session, LinkError> {
        tokio::select! {
            biased;
            gone = Self::gone(&self.stream, self.peer) => return Err(gone),
            () = std::future::ready(()) => {}
        }
        self.say(answer).await?;
        Ok(Session::new(self.stream.into()))
    }

    /// An importer that waits says nothing. So whatever can be read, and be it the end, means that it is gone.
    ///
    /// Nothing is taken out of the socket.
    async fn gone(stream: &TlsStream<Records>, peer: SocketAddr) -> LinkError {
        match stream.get_ref().0.tcp().peek(&mut [0]).await {
            Ok(0) => LinkError::HungUp { peer },
            Ok(_) => LinkError::Protocol { peer, what: "it speaks while it should wait".into() },
            Err(error) => LinkError::of_tls(peer, "", "waiting", error),
        }
    }

    /// Says something within the time that one frame may take.
    async fn say(&mut self, answer: &Answer) -> Result<(), LinkError> {
        let (peer, limit, step) = (self.peer, self.timing.request, "sending an answer");
        let bytes = answer.frame().map_err(|error| LinkError::Protocol { peer, what: error.to_string() })?;
        let send = async {
            // One write takes the whole frame or none of it, so that a caller who stops waiting leaves no half frame behind.
            let taken = self.stream.write(&bytes).await?;
            self.stream.flush().await?;
            Ok(taken)
        };
        match timeout(limit, send).await {
            Ok(Ok(taken)) if taken == bytes.len() => {
                self.spoke = Instant::now();
                Ok(())
            }
            Ok(Ok(_)) | Err(_) => Err(LinkError::Slow { peer, step, limit }),
            Ok(Err(source)) => Err(LinkError::of_tls(peer, &self.peer_node, step, source)),
        }
    }
}
