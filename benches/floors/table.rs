//! Rows that take turns, and the table that they make.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

/// Does its action so many times and says how long each took.
pub(crate) type Measure = Box<dyn FnMut(usize) -> Vec<Duration>>;

/// One line of the table.
pub(crate) struct Row {
    name: &'static str,
    measure: Measure,
    floor: bool,
}

impl Row {
    /// What others are compared with; the first row of its section.
    pub(crate) fn floor(name: &'static str, measure: Measure) -> Self {
        Self { name, measure, floor: true }
    }

    pub(crate) fn new(name: &'static str, measure: Measure) -> Self {
        Self { name, measure, floor: false }
    }
}

/// A measure of an action that is timed as a whole.
pub(crate) fn timed(mut action: impl FnMut() + 'static) -> Measure {
    Box::new(move |times| {
        let once = |_| {
            let start = Instant::now();
            action();
            start.elapsed()
        };
        (0..times).map(once).collect()
    })
}

/// Measures the rows by turns, `rounds` times `times` actions each, and prints them with their ratios to the floor.
pub(crate) fn section(title: &str, (rounds, times): (usize, usize), mut rows: Vec<Row>) {
    let mut samples = vec![Vec::new(); rows.len()];
    for row in &mut rows {
        // Warm-up, not counted.
        (row.measure)(times.min(20));
    }
    for _ in 0..rounds {
        for (row, samples) in rows.iter_mut().zip(&mut samples) {
            samples.extend((row.measure)(times));
        }
    }
    let mut out = std::io::stdout();
    let floor = percentile(&mut samples[0], 50);
    writeln!(out, "\n| {title} | p50 ms | p99 ms | p50 to the floor |\n|---|---|---|---|").expect("printed");
    for (row, samples) in rows.iter().zip(&mut samples) {
        let (p50, p99) = (percentile(samples, 50), percentile(samples, 99));
        let (name, mark) = (row.name, if row.floor { " (floor)" } else { "" });
        writeln!(out, "| {name}{mark} | {p50:.3} | {p99:.3} | {:.2} |", p50 / floor).expect("printed");
    }
}

/// In milliseconds.
fn percentile(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort();
    samples[(samples.len() * percent / 100).min(samples.len() - 1)].as_secs_f64() * 1e3
}
