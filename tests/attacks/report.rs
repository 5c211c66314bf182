//! What is shown: one row per case, or one JSON object per line, and the count on the last line.

use std::{
    io::{Write, stdout},
    time::Duration,
};

use serde_json::json;

use crate::{arena::Outcome, case::Case};

/// Counts and prints.
pub(crate) struct Report {
    json: bool,
    passed: usize,
    fallen: Vec<String>,
    not_run: Vec<(String, &'static str)>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, passed: 0, fallen: Vec::new(), not_run: Vec::new() }
    }

    /// A line before the table.
    pub(crate) fn title(&self, text: &str) {
        if !self.json {
            print(&format!(
                "{text}\n\n{:4}  {:>6}  {:12} {:9} {:9} attack: what happened",
                "", "ms", "group", "runtime", "wall"
            ));
        }
    }

    /// One case.
    pub(crate) fn row(&mut self, group: &str, case: &Case, outcome: &Outcome, took: Duration) {
        let (mark, what) = match outcome {
            Outcome::Stood(what) => ("ok", what.as_str()),
            Outcome::Fell(what) => ("FELL", what.as_str()),
            Outcome::NotRun(why) => ("-", *why),
        };
        let name = format!("{group}: {}", case.name);
        match outcome {
            Outcome::Stood(_) => self.passed += 1,
            Outcome::Fell(_) => self.fallen.push(name),
            Outcome::NotRun(why) => self.not_run.push((name, why)),
        }
        // An answer may hold anything that the attacker likes, for a terminal too.
        let what: String = what.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
        print(&if self.json {
            json!({"group": group, "attack": case.name, "runtime": case.runtime, "wall": case.wall.name(),
                "outcome": mark, "happened": what, "duration_ms": took.as_millis()})
            .to_string()
        } else {
            format!(
                "{mark:4}  {:6}  {group:12} {:9} {:9} {}: {what}",
                took.as_millis(),
                case.runtime,
                case.wall.name(),
                case.name
            )
        });
    }

    /// The last lines; whether nothing fell.
    pub(crate) fn finish(self) -> bool {
        if self.json {
            print(
                &json!({"passed": self.passed, "failed": self.fallen.len(), "not_run": self.not_run.len()}).to_string(),
            );
            return self.fallen.is_empty();
        }
        print("");
        for (name, why) in &self.not_run {
            print(&format!("not run here: {name}: {why}"));
        }
        for name in &self.fallen {
            print(&format!("FELL: {name}"));
        }
        print(&format!("{} passed, {} failed", self.passed, self.fallen.len()));
        self.fallen.is_empty()
    }
}

/// One line on standard output; when nobody reads it any more there is nothing left to say.
pub(crate) fn print(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}
