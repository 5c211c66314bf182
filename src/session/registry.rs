//! All open sessions, and which of the closed ones had expired.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::{
    Opening, Policy, Session,
    actor::{Actor, Closing, Command, Published},
    handle::COMMANDS,
};
use crate::{engine::Engine, error::Error, protocol::CloseReason, units::Span};

/// Expired sessions whose ids are remembered, for the error that their clients get.
const EXPIRED: usize = 1024;

/// All open sessions.
#[derive(Debug)]
pub struct Registry {
    engine: Arc<dyn Engine>,
    policy: Policy,
    sessions: Mutex<Sessions>,
    created: AtomicU64,
    /// The actors, and the removal of sandboxes that they do not wait for.
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Sessions {
    open: BTreeMap<String, Session>,
    expired: VecDeque<(String, Span)>,
}

impl Registry {
    /// A registry that starts sandboxes with `engine`.
    pub fn new(engine: Arc<dyn Engine>, policy: Policy) -> Self {
        Self { engine, policy, sessions: Mutex::default(), created: AtomicU64::new(0), tasks: TaskTracker::new() }
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Open sessions.
    pub fn len(&self) -> usize {
        self.sessions().open.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens a session; its place is taken at once, its sandbox starts behind the returned handle.
    ///
    /// # Errors
    /// When all places are taken.
    pub fn open(self: &Arc<Self>, opening: Opening) -> Result<Session, Error> {
        let mut sessions = self.sessions();
        if self.tasks.is_closed() {
            return Err(Error::ShuttingDown);
        }
        if sessions.open.len() >= self.policy.max_sessions {
            return Err(Error::TooManySessions { limit: self.policy.max_sessions });
        }
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (publish, published) = watch::channel(Published::default());
        let id = crate::random_id();
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        let session = Session::new(id.clone(), number, &opening, commands, published);
        sessions.open.insert(id.clone(), session.clone());
        let ttl = opening.limits.idle_ttl;
        let actor = Actor::new(id, opening, Arc::clone(&self.engine), self.policy, self.tasks.clone(), inbox, publish);
        let (registry, ending) = (Arc::clone(self), session.clone());
        self.tasks.spawn(async move {
            let closing = actor.run().await;
            registry.forget(&ending, closing.reason, ttl);
            ending.end(closing.reason);
            for waiter in closing.waiters {
                let _ = waiter.send(());
            }
        });
        Ok(session)
    }

    /// The open session with this id, whoever holds it.
    ///
    /// # Errors
    /// When there is none; the error tells an expired one from others.
    pub fn find(&self, id: &str) -> Result<Session, Error> {
        let found = self.sessions().open.get(id).cloned();
        found.ok_or_else(|| self.missing(id))
    }

    /// Why there is no session with this id.
    pub fn missing(&self, id: &str) -> Error {
        let sessions = self.sessions();
        let expired = sessions.expired.iter().find(|(expired, _)| expired == id);
        expired.map_or_else(|| Error::NoSession(id.to_owned()), |&(_, ttl)| Error::Expired { id: id.to_owned(), ttl })
    }

    /// Closes every session and waits until their sandboxes are gone; no new one can be opened.
    pub async fn close_all(&self) {
        let sessions: Vec<_> = {
            let sessions = self.sessions();
            self.tasks.close();
            sessions.open.values().cloned().collect()
        };
        for session in sessions {
            let closing = Closing { reason: CloseReason::Shutdown, waiters: Vec::new() };
            let _ = session.commands().send(Command::Close(closing)).await;
        }
        self.tasks.wait().await;
    }

    fn forget(&self, session: &Session, reason: CloseReason, ttl: Span) {
        let mut sessions = self.sessions();
        sessions.open.remove(session.id());
        if reason == CloseReason::Idle {
            if sessions.expired.len() == EXPIRED {
                sessions.expired.pop_front();
            }
            sessions.expired.push_back((session.id().to_owned(), ttl));
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().expect("no holder panics")
    }
}
