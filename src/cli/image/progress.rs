//! How a pull or an import goes on: bars on a terminal, a line a step elsewhere.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::on_terminal;
use crate::image::{Event, Progress};

/// A reporter for standard error.
pub(super) fn reporter(what: &str) -> Arc<Reporter> {
    let bars = on_terminal().then(MultiProgress::new);
    Arc::new(Reporter { what: what.to_owned(), bars, steps: Mutex::new(HashMap::new()) })
}

/// Draws or prints.
pub(super) struct Reporter {
    what: String,
    /// None when nobody watches.
    bars: Option<MultiProgress>,
    /// Steps that have been seen, by their text.
    steps: Mutex<HashMap<String, Option<ProgressBar>>>,
}

impl Reporter {
    /// Takes the bars away.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }

    fn step(&self, text: String, bytes: u64, total: u64) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = steps.entry(text).or_insert_with_key(|text| {
            if let Some(bars) = &self.bars {
                let style = ProgressStyle::with_template("{msg:<34} {wide_bar} {bytes}/{total_bytes}")
                    .expect("a template of ours is tested");
                return Some(bars.add(ProgressBar::new(total).with_style(style).with_message(text.clone())));
            }
            let _ = writeln!(std::io::stderr(), "{}: {text} ({})", self.what, indicatif::HumanBytes(total));
            None
        });
        if let Some(bar) = bar {
            bar.set_position(bytes);
        }
    }
}

impl Progress for Reporter {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Waiting => self.step("waiting for another pull of it".to_owned(), 0, 0),
            Event::Fetching { layer, bytes, total } => {
                let short: String = layer.trim_start_matches("sha256:").chars().take(12).collect();
                self.step(format!("fetching layer {short}"), bytes, total);
            }
            Event::Unpacking { layer, layers, bytes, total } => {
                self.step(format!("unpacking layer {layer} of {layers}"), bytes, total);
            }
        }
    }
}
