//! A case: one attack, the wall that it meets, and the answers with which that wall stands.
//!
//! Knows nothing of how attacks are carried out (`arena`) or shown (`report`).

use std::time::Duration;

use crate::arena::Arena;

/// What stands between an attack and what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wall {
    /// The call is refused (EPERM, EACCES), or gVisor has none such (ENOSYS).
    Refused,
    /// It is not there: a file, a device, a variable, a process.
    Hidden,
    /// It is there, but it is gVisor's own and not the machine's.
    Virtual,
    /// It ends at a limit.
    Bounded,
    /// The sandbox may be lost; the answer is true, and nobody else notices.
    Contained,
    /// The sidecar says no and goes on.
    Answered,
}

impl Wall {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Hidden => "hidden",
            Self::Virtual => "virtual",
            Self::Bounded => "bounded",
            Self::Contained => "contained",
            Self::Answered => "answered",
        }
    }
}

/// Which wall an errno or another word of an answer names.
pub(crate) fn meaning(word: &str) -> &'static str {
    match word {
        "ENOSYS" => " (missing)",
        "EPERM" | "EACCES" | "EROFS" | "ERR_ACCESS_DENIED" => " (refused)",
        "ENOENT" | "ENXIO" | "ENODEV" | "ESRCH" | "ENOTDIR" => " (not there)",
        "EAFNOSUPPORT" | "EPROTONOSUPPORT" | "ESOCKTNOSUPPORT" => " (no such socket)",
        "ENETUNREACH" | "EHOSTUNREACH" | "EADDRNOTAVAIL" => " (no way out)",
        _ => "",
    }
}

/// How an attack is carried out.
pub(crate) enum Attack {
    /// A cell whose value is one word.
    Cell { code: &'static str },
    /// One session leaves something, another looks for it; the second's value is the word.
    Pair { leave: &'static str, look: &'static str },
    /// A cell that may end its sandbox; the word is `status-ended_by-state`. A neighbour is asked afterwards.
    Ending { code: &'static str, timeout: Duration },
    /// A cell that uses up something; the word is its value or how it ended. A neighbour is asked all the while.
    Bomb { code: &'static str, timeout: Duration },
    /// Anything else over the public protocol: what happened, as `Err` when the wall fell.
    Play(fn(&mut Arena) -> Result<String, String>),
}

/// Where a case can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Anywhere,
    /// On the machine where the sandboxes run.
    Host,
    /// Where there can be a second connection.
    Socket,
    /// Behind walls only: it would reach somebody else's machine.
    Walls,
}

/// One attack.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) runtime: &'static str,
    pub(crate) wall: Wall,
    /// The words with which the wall stands, separated by blanks; unused by a play.
    pub(crate) right: &'static str,
    /// One more such word.
    pub(crate) also: Option<&'static str>,
    pub(crate) attack: Attack,
    pub(crate) place: Place,
    /// Leaves the session unfit for others.
    pub(crate) dirty: bool,
    /// Why it stands even without any wall on some machines.
    pub(crate) stands: Option<&'static str>,
}

/// A Python cell.
pub(crate) fn python(name: &'static str, wall: Wall, right: &'static str, code: &'static str) -> Case {
    Case {
        name,
        runtime: "python",
        wall,
        right,
        also: None,
        attack: Attack::Cell { code },
        place: Place::Anywhere,
        dirty: false,
        stands: None,
    }
}

/// A Node.js cell.
pub(crate) fn node(name: &'static str, wall: Wall, right: &'static str, code: &'static str) -> Case {
    Case { runtime: "nodejs", ..python(name, wall, right, code) }
}

/// A Python cell that tries what must be refused.
pub(crate) fn refused(name: &'static str, code: &'static str) -> Case {
    python(name, Wall::Refused, "EPERM EACCES ENOSYS", code)
}

/// A Python cell that tries what gVisor may grant, since it happens inside gVisor's own kernel: then `virtual`.
pub(crate) fn inside(name: &'static str, code: &'static str) -> Case {
    python(name, Wall::Virtual, "virtual nothing EPERM EACCES ENOSYS ENOENT", code)
}

/// A Python cell that looks for what must not be there.
pub(crate) fn hidden(name: &'static str, code: &'static str) -> Case {
    python(name, Wall::Hidden, "nothing", code)
}

/// Two Python sessions: `leave` runs in one, then `look` in the other, which must find `nothing`.
pub(crate) fn pair(name: &'static str, leave: &'static str, look: &'static str) -> Case {
    Case { attack: Attack::Pair { leave, look }, ..python(name, Wall::Hidden, "nothing", "") }
}

/// A cell after which its sandbox may be gone.
pub(crate) fn ending(
    name: &'static str,
    runtime: &'static str,
    milliseconds: u64,
    right: &'static str,
    code: &'static str,
) -> Case {
    let attack = Attack::Ending { code, timeout: Duration::from_millis(milliseconds) };
    Case { runtime, attack, ..python(name, Wall::Contained, right, "") }
}

/// A cell that uses something up.
pub(crate) fn bomb(
    name: &'static str,
    runtime: &'static str,
    seconds: u64,
    right: &'static str,
    code: &'static str,
) -> Case {
    let attack = Attack::Bomb { code, timeout: Duration::from_secs(seconds) };
    Case { runtime, attack, dirty: true, ..python(name, Wall::Bounded, right, "") }
}

/// What only a function can tell.
pub(crate) fn play(name: &'static str, wall: Wall, act: fn(&mut Arena) -> Result<String, String>) -> Case {
    Case { runtime: "-", attack: Attack::Play(act), ..python(name, wall, "", "") }
}

impl Case {
    /// Only where the suite is on the sandboxes' machine.
    pub(crate) fn on_host(self) -> Self {
        Self { place: Place::Host, ..self }
    }

    /// Only where there can be a second connection.
    pub(crate) fn over_socket(self) -> Self {
        Self { place: Place::Socket, ..self }
    }

    /// One more word with which the wall stands.
    pub(crate) fn also(self, word: &'static str) -> Self {
        Self { also: Some(word), ..self }
    }

    /// Whether the wall stands with this answer.
    pub(crate) fn is_right(&self, word: &str) -> bool {
        self.right.split(' ').chain(self.also).any(|right| right == word)
    }

    /// The session is thrown away afterwards.
    pub(crate) fn dirty(self) -> Self {
        Self { dirty: true, ..self }
    }

    /// Never run where no wall stops it: it would reach somebody else's machine.
    pub(crate) fn outward(self) -> Self {
        Self { place: Place::Walls, ..self }
    }

    /// Why this case may stand where every wall has been removed.
    pub(crate) fn stands_because(self, why: &'static str) -> Self {
        Self { stands: Some(why), ..self }
    }
}
