//! Who holds a session: at most one at a time, who is told when it is over.

use std::sync::Mutex;

use tokio::sync::oneshot;

use crate::protocol::CloseReason;

/// The place of the one who holds a session.
#[derive(Debug, Default)]
pub(super) struct Holder(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    /// Goes up with each holder.
    number: u64,
    tell: Option<oneshot::Sender<CloseReason>>,
    ended: Option<CloseReason>,
}

/// The holder's end.
#[derive(Debug)]
pub struct Hold {
    number: u64,
    told: oneshot::Receiver<CloseReason>,
}

impl Holder {
    /// Takes the session over; whoever held it is told so.
    pub(super) fn take(&self) -> Hold {
        let (tell, told) = oneshot::channel();
        let mut slot = self.0.lock().expect("no holder panics");
        slot.number += 1;
        let number = slot.number;
        if let Some(reason) = slot.ended {
            let _ = tell.send(reason);
        } else if let Some(former) = slot.tell.replace(tell) {
            let _ = former.send(CloseReason::AttachedElsewhere);
        }
        Hold { number, told }
    }

    pub(super) fn is_held_by(&self, number: u64) -> bool {
        self.0.lock().expect("no holder panics").number == number
    }

    /// The session is over.
    pub(super) fn end(&self, reason: CloseReason) {
        let mut slot = self.0.lock().expect("no holder panics");
        slot.ended = Some(reason);
        if let Some(tell) = slot.tell.take() {
            let _ = tell.send(reason);
        }
    }
}

impl Hold {
    /// Tells this hold from the session's others.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits until the session is over for this holder; `None` when nobody will ever say.
    pub async fn over(self) -> Option<CloseReason> {
        self.told.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_former_holder_is_told_at_once_and_the_last_one_the_reason_of_the_end() {
        let holder = Holder::default();
        let (one, two) = (holder.take(), holder.take());
        assert!(!holder.is_held_by(one.number()) && holder.is_held_by(two.number()));
        assert_eq!(one.over().await, Some(CloseReason::AttachedElsewhere));
        holder.end(CloseReason::Idle);
        assert_eq!(two.over().await, Some(CloseReason::Idle));
        assert_eq!(holder.take().over().await, Some(CloseReason::Idle), "one who comes too late is told, too");
    }
}
