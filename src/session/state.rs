//! The ladder that ends a cell, as a pure state machine.
//!
//! ```text
//! Running --done--------------------------------------------> Ended
//!    | deadline, interrupt, cancel: SIGINT
//!    v
//! Interrupting --done, and the signal has arrived: ping--> Verifying --pong--> Ended (state preserved)
//!    | grace over                                             | grace over
//!    +--------------------------> kill <----------------------+
//!                                  |
//! any phase --kernel gone--------> Ended (state lost)
//! ```
//! It knows no clock, no tokio and no engine: the actor feeds it events and carries out its steps.
//! A signal is a message without an address, so a cell that was signalled is over only when the signal is known to have
//! arrived and the kernel has answered after it: a late SIGINT must not hit the next cell.

use crate::protocol::{CellStatus, EndedBy, State};

/// Why a cell is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its timeout.
    Timeout,
    /// `cell.interrupt` or `$/cancelRequest`.
    Interrupt,
    /// Its session is being closed or restarted.
    Close,
}

/// What happens to a running cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it stopped.
    Stop(Cause),
    /// The engine says that SIGINT was delivered, or that it could not be.
    Signalled,
    /// The kernel says that the cell is over.
    Done(Finish),
    /// The kernel answered the ping.
    Pong,
    /// The time for the current rung is over.
    GraceOver,
    /// The sandbox ended by itself.
    Gone {
        /// The memory limit did it.
        oom: bool,
        /// Its kernel's process ended with a code or a signal, rather than by breaking the protocol.
        exited: bool,
    },
}

/// The kernel's account of a cell's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// An exception ended it.
    pub error: bool,
    /// An interrupt reached it.
    pub interrupted: bool,
    /// The program asked to end itself.
    pub exit: bool,
}

/// What the actor must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for the next event.
    Wait,
    /// Send SIGINT and start the grace period.
    Signal,
    /// Send a ping and start the grace period anew.
    Ping,
    /// End the sandbox, then answer.
    Kill(Ending),
    /// Answer.
    End(Ending),
}

/// How the cell ended, for its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How it went.
    pub status: CellStatus,
    /// What ended it.
    pub ended_by: EndedBy,
    /// Whether the variables are still there.
    pub state: State,
}

/// One cell's ladder.
#[derive(Debug, Default)]
pub struct Ladder {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Running,
    Interrupting {
        cause: Cause,
        signalled: bool,
        done: Option<Finish>,
    },
    Verifying {
        cause: Cause,
        done: Finish,
    },
    Ended,
}

impl Ladder {
    /// Takes an event and says what to do; after `Kill` or `End` it only waits.
    pub fn on(&mut self, event: Event) -> Step {
        let (phase, step) = match (self.phase, event) {
            (Phase::Ended, _) => (Phase::Ended, Step::Wait),
            (_, Event::Gone { oom, exited }) if oom || !exited => (Phase::Ended, Step::End(gone(oom, exited))),
            // A process that dies of our signal was stopped by us, not by itself.
            (phase @ Phase::Interrupting { cause, done: None, .. }, Event::Gone { .. }) => {
                (Phase::Ended, Step::End(killed(phase, stopped(cause))))
            }
            (_, Event::Gone { oom, exited }) => (Phase::Ended, Step::End(gone(oom, exited))),
            (phase, Event::Stop(Cause::Close)) => (Phase::Ended, Step::Kill(killed(phase, CellStatus::Killed))),
            (Phase::Running, Event::Stop(cause)) => {
                (Phase::Interrupting { cause, signalled: false, done: None }, Step::Signal)
            }
            (Phase::Running, Event::Done(done)) => (Phase::Ended, Step::End(ended(None, done))),
            (Phase::Interrupting { cause, signalled: true, .. }, Event::Done(done))
            | (Phase::Interrupting { cause, done: Some(done), .. }, Event::Signalled) => {
                (Phase::Verifying { cause, done }, Step::Ping)
            }
            (Phase::Interrupting { cause, signalled: false, .. }, Event::Done(done)) => {
                (Phase::Interrupting { cause, signalled: false, done: Some(done) }, Step::Wait)
            }
            (Phase::Interrupting { cause, done: None, .. }, Event::Signalled) => {
                (Phase::Interrupting { cause, signalled: true, done: None }, Step::Wait)
            }
            (Phase::Verifying { cause, done }, Event::Pong) => (Phase::Ended, Step::End(ended(Some(cause), done))),
            (phase @ (Phase::Interrupting { cause, .. } | Phase::Verifying { cause, .. }), Event::GraceOver) => {
                (Phase::Ended, Step::Kill(killed(phase, stopped(cause))))
            }
            (phase, _) => (phase, Step::Wait),
        };
        self.phase = phase;
        step
    }
}

fn stopped(cause: Cause) -> CellStatus {
    match cause {
        Cause::Timeout => CellStatus::Timeout,
        Cause::Interrupt => CellStatus::Interrupted,
        Cause::Close => CellStatus::Killed,
    }
}

/// A cell whose kernel is alive. A stop that came too late to be noticed does not change what the cell did.
fn ended(cause: Option<Cause>, done: Finish) -> Ending {
    let (status, ended_by) = match cause {
        Some(cause) if done.interrupted => (stopped(cause), EndedBy::Interrupt),
        _ => (
            if done.error { CellStatus::Error } else { CellStatus::Ok },
            if done.exit { EndedBy::Exit } else { EndedBy::Completed },
        ),
    };
    Ending { status, ended_by, state: State::Preserved }
}

/// A cell that had ended by itself keeps its status although its kernel has to go.
fn killed(phase: Phase, status: CellStatus) -> Ending {
    let finished = match phase {
        Phase::Verifying { done, .. } | Phase::Interrupting { done: Some(done), .. } if !done.interrupted => Some(done),
        _ => None,
    };
    let ending =
        finished.map_or(Ending { status, ended_by: EndedBy::Kill, state: State::Lost }, |done| ended(None, done));
    Ending { state: State::Lost, ..ending }
}

fn gone(oom: bool, exited: bool) -> Ending {
    let ended_by = match (oom, exited) {
        (true, _) => EndedBy::Oom,
        (false, true) => EndedBy::Exit,
        (false, false) => EndedBy::Kill,
    };
    Ending { status: CellStatus::Killed, ended_by, state: State::Lost }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OK: Finish = Finish { error: false, interrupted: false, exit: false };
    const STOPPED: Finish = Finish { error: true, interrupted: true, exit: false };

    fn climb(events: &[Event]) -> Vec<Step> {
        let mut ladder = Ladder::default();
        events.iter().map(|&event| ladder.on(event)).collect()
    }

    fn ending(status: CellStatus, ended_by: EndedBy, state: State) -> Ending {
        Ending { status, ended_by, state }
    }

    #[test]
    fn a_cell_that_ends_by_itself() {
        let end = ending(CellStatus::Ok, EndedBy::Completed, State::Preserved);
        assert_eq!(climb(&[Event::Done(OK)]), [Step::End(end)]);
    }

    #[test]
    fn a_timeout_that_the_code_obeys_is_verified_before_it_is_believed() {
        let end = ending(CellStatus::Timeout, EndedBy::Interrupt, State::Preserved);
        let timeout = Event::Stop(Cause::Timeout);
        for order in [[Event::Signalled, Event::Done(STOPPED)], [Event::Done(STOPPED), Event::Signalled]] {
            let steps = climb(&[timeout, order[0], order[1], Event::Pong]);
            assert_eq!(steps, [Step::Signal, Step::Wait, Step::Ping, Step::End(end)]);
        }
    }

    #[test]
    fn a_timeout_that_comes_as_the_cell_ends_leaves_its_status() {
        let end = ending(CellStatus::Ok, EndedBy::Completed, State::Preserved);
        let steps = climb(&[Event::Stop(Cause::Timeout), Event::Done(OK), Event::Signalled, Event::Pong]);
        assert_eq!(steps.last(), Some(&Step::End(end)));
    }

    #[test]
    fn code_that_ignores_the_interrupt_is_killed() {
        let kill = ending(CellStatus::Interrupted, EndedBy::Kill, State::Lost);
        let steps = climb(&[Event::Stop(Cause::Interrupt), Event::Signalled, Event::GraceOver]);
        assert_eq!(steps.last(), Some(&Step::Kill(kill)));
    }

    #[test]
    fn a_kernel_that_does_not_answer_loses_its_state_but_not_the_cells_status() {
        let kill = ending(CellStatus::Ok, EndedBy::Completed, State::Lost);
        let steps = climb(&[Event::Stop(Cause::Timeout), Event::Signalled, Event::Done(OK), Event::GraceOver]);
        assert_eq!(steps.last(), Some(&Step::Kill(kill)));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let finish = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(error, interrupted, exit)| Finish {
            error,
            interrupted,
            exit,
        });
        prop_oneof![
            prop::sample::select(vec![Cause::Timeout, Cause::Interrupt, Cause::Close]).prop_map(Event::Stop),
            Just(Event::Signalled),
            finish.prop_map(Event::Done),
            Just(Event::Pong),
            Just(Event::GraceOver),
            (any::<bool>(), any::<bool>()).prop_map(|(oom, exited)| Event::Gone { oom, exited }),
        ]
    }

    proptest! {
        #[test]
        fn one_answer_and_preserved_only_when_the_kernel_said_so(events in prop::collection::vec(any_event(), 0..30)) {
            let (mut ladder, mut answers, mut signalled, mut done, mut pong_after_signal) = (Ladder::default(), 0, false, false, false);
            for event in events {
                done |= matches!(event, Event::Done(_));
                let step = ladder.on(event);
                signalled |= step == Step::Signal;
                pong_after_signal |= signalled && event == Event::Pong;
                if let Step::End(ending) | Step::Kill(ending) = step {
                    answers += 1;
                    if ending.state == State::Preserved {
                        prop_assert!(done && (!signalled || pong_after_signal));
                    }
                    if let Step::Kill(_) = step {
                        prop_assert_eq!(ending.state, State::Lost);
                    }
                }
            }
            prop_assert!(answers <= 1);
            let last = ladder.on(Event::Stop(Cause::Close));
            prop_assert_eq!(answers + usize::from(matches!(last, Step::Kill(_))), 1, "a close always ends it");
        }
    }
}
