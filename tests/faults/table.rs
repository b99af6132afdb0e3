//! What the suite measured, as one table.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// What a test brings home.
pub(crate) enum Proof {
    Measured(Row),
    /// Proven without two trees to measure, in these words.
    Shown(&'static str),
    /// It can't be done here, and why.
    Skipped(&'static str),
}

/// What was measured under one fault; the promises about it have been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// How long both trees ran at once.
    pub(crate) overlap: Duration,
    /// Processes of the old tree that were there when the next command started, or at the end.
    pub(crate) survivors: usize,
    /// From the last sign of life of the old tree to the first one of the next.
    pub(crate) gap: Duration,
    /// From the beginning of the fault to the next command's start.
    pub(crate) next_start: Duration,
    /// The exit code of the holder's wrapper; `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    /// How long the old tree ran after it was thawed, where it was frozen.
    pub(crate) after_thaw: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Mutex<BTreeMap<usize, (&'static str, Proof)>>,
}

impl Table {
    pub(crate) fn add(&self, place: usize, fault: &'static str, proof: Proof) {
        self.rows.lock().expect("no panic in here").insert(place, (fault, proof));
    }

    pub(crate) fn print(&self) {
        let rows = self.rows.lock().expect("no panic in here");
        if rows.is_empty() {
            return;
        }
        println!(
            "| fault | overlap, ms | survivors | fault to next start, ms | old tree's end to next start, ms | exit code |"
        );
        println!("|---|---|---|---|---|---|");
        for (fault, proof) in rows.values() {
            match proof {
                Proof::Measured(row) => println!("{}", row.line(fault)),
                Proof::Shown(what) => println!("| {fault} | {what} | | | | |"),
                Proof::Skipped(why) => println!("| {fault} | skipped: {why} | | | | |"),
            }
        }
    }
}

impl Row {
    fn line(&self, fault: &str) -> String {
        let code = self.code.map_or("(killed)".into(), |code| code.to_string());
        let overlap = match self.after_thaw {
            None => self.overlap.as_millis().to_string(),
            Some(alive) => {
                format!("{} until the thaw, dead {:.1} after it", self.overlap.as_millis(), millis(alive))
            }
        };
        let (next, gap) = (millis(self.next_start), millis(self.gap));
        format!("| {fault} | {overlap} | {} | {next:.0} | {gap:.1} | {code} |", self.survivors)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
