//! The identity a node has at the moment, which may become another one at any time.
//!
//! Whoever begins a handshake takes the present one; what was shaken hands upon stays as it is.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Identity;

/// An identity, or why there is none; for people.
pub type Standing = Result<Arc<Identity>, String>;

/// Shows the identity a node has. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credentials(watch::Receiver<Standing>);

impl Credentials {
    /// Shows what is sent.
    #[must_use]
    pub fn new(standing: watch::Receiver<Standing>) -> Self {
        Self(standing)
    }

    /// Shows this identity for ever.
    #[must_use]
    pub fn fixed(identity: Identity) -> Self {
        Self(watch::channel(Ok(Arc::new(identity))).1)
    }

    /// What there is now.
    ///
    /// # Errors
    /// Why there is no identity.
    pub fn now(&self) -> Standing {
        self.0.borrow().clone()
    }

    /// Waits until there is an identity, however long that takes. `on_wait` gets every reason why there is none.
    pub async fn get(&self, mut on_wait: impl FnMut(String)) -> Arc<Identity> {
        let mut standing = self.0.clone();
        loop {
            match standing.borrow_and_update().clone() {
                Ok(identity) => return identity,
                Err(why) => on_wait(why),
            }
            if standing.changed().await.is_err() {
                // Whoever would tell has ended, and with it the agent does.
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[tokio::test]
    async fn whoever_waits_hears_why_and_gets_the_identity_when_it_is_there() {
        let (tell, standing) = watch::channel(Err("nobody has signed".to_owned()));
        let credentials = Credentials::new(standing);
        assert_eq!(credentials.now().unwrap_err(), "nobody has signed");
        let waiting = credentials.clone();
        let (say, heard) = std::sync::mpsc::channel();
        let waiter = tokio::spawn(async move { waiting.get(|why| drop(say.send(why))).await });
        while heard.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        drop(tell.send_replace(Ok(Arc::new(Authority::new().identity("node-1")))));
        assert_eq!(waiter.await.unwrap().node(), "node-1");
        assert!(credentials.now().is_ok());
    }
}
