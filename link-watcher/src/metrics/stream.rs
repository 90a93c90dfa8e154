//! What happens, told to a page as it happens: server-sent events (WHATWG HTML, section 9.2).
//!
//! A connection lasts no longer than any other one here, and the browser comes again by itself. It is told *that* something has
//! happened, and asks for the rest; one that is not told, because there are too many, asks now and then.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError, mpsc};

use crate::control::History;

pub(super) const TYPE: &str = "text/event-stream";
pub(super) const FULL: &str = "too many are told what happens already; /events.json has it too\n";
/// Most that are told at one time: of the connections that there may be the others are left to who scrapes.
const MAX: usize = 8;
/// The browser comes again so soon after a connection has ended, ms.
const BEGIN: &str = "retry: 1000\n\n";
const HAPPENED: &str = "data: changed\n\n";

/// Who may be told.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX)))
    }
}

/// One that is told.
#[derive(Debug)]
pub(super) struct Stream {
    news: mpsc::Receiver<&'static str>,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    /// Tells from now on; nothing: there are too many.
    pub(super) fn open(history: &History, places: &Places) -> Option<Self> {
        let place = Arc::clone(&places.0).try_acquire_owned().ok()?;
        let (_, mut events) = history.follow();
        // Of many things that happen while nobody reads one word is enough.
        let (tell, news) = mpsc::channel(2);
        let _ = tell.try_send(BEGIN);
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = tell.closed() => return,
                };
                if let Err(RecvError::Closed) = event {
                    return;
                }
                let _ = tell.try_send(HAPPENED);
            }
        });
        Some(Self { news, _place: place })
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let word = ready!(self.news.poll_recv(context));
        Poll::Ready(word.map(|word| Ok(Frame::data(Bytes::from_static(word.as_bytes())))))
    }
}
