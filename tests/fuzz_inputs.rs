//! The fuzz targets' checks over their seeds, and over inputs that are drawn from a fixed start: the
//! same ones each time. The targets themselves are in `fuzz/`.

use std::path::Path;

use officer::server::fuzzing;

/// A small generator (xorshift64*): what it draws depends on its start alone.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn every_line_is_understood_or_refused() {
    let seeds = seeds("line");
    assert!(seeds.len() > 20);
    seeds.iter().for_each(|seed| fuzzing::line(seed));
    let mut draw = Draw(0x0ff1_ce00);
    for _ in 0..30_000 {
        let mut line = seeds[draw.below(seeds.len())].clone();
        for _ in 0..=draw.below(4) {
            mutate(&mut line, &seeds, &mut draw);
        }
        fuzzing::line(&line);
    }
}

/// Changes, drops or adds a little, or puts in a part of another seed.
fn mutate(line: &mut Vec<u8>, seeds: &[Vec<u8>], draw: &mut Draw) {
    let at = draw.below(line.len() + 1);
    match draw.below(4) {
        0 if at < line.len() => line[at] = draw.below(256) as u8,
        1 if at < line.len() => drop(line.remove(at)),
        2 => line.insert(at, br#"{}[]":,\0159.-eEnul "#[draw.below(20)]),
        _ => {
            let other = &seeds[draw.below(seeds.len())];
            let from = draw.below(other.len() + 1);
            line.splice(at..at, other[from..].iter().copied().take(12));
        }
    }
}

#[test]
fn whatever_clients_do_every_reply_is_well_formed_and_nothing_stays() {
    seeds("connections").iter().for_each(|seed| fuzzing::connections(seed));
    let mut draw = Draw(0x0dd_ba11);
    for _ in 0..1_500 {
        let length = draw.below(1200);
        let script: Vec<u8> = (0..length).map(|_| draw.below(256) as u8).collect();
        fuzzing::connections(&script);
    }
}
