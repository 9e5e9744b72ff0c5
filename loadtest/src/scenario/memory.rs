//! The server's memory over the time of a run, and whether it only ever grows.
//!
//! In: samples of seconds and megabytes. Out: a [`Slope`] with what noise may have made of it.
//! What a server has once it has warmed up is no leak, so the first third of the samples is left out.
//! Neighbouring samples are nearly the same one: they are put into blocks, and the blocks' means are what the
//! line is fitted to, by least squares, and what the noise is taken from.

use std::thread;
use std::time::{Duration, Instant};

use crate::probe;
use crate::settings::Bench;

/// Samples of a run at most.
const SAMPLES_MAX: f64 = 1000.0;

/// The shortest time between two.
const LOOK_SECONDS_MIN: f64 = 0.1;

/// Blocks that samples are put into.
const BLOCKS: usize = 20;

/// What 95 of 100 values of Student's t are below in size, for [`BLOCKS`] - 2 degrees of freedom.
const STUDENT_T: f64 = 2.101;

/// Growth over the whole run, in megabytes, that is nobody's leak: a page here and there.
const GROWTH_MB_MIN: f64 = 1.0;

/// Waits for so many seconds and samples the resident memory of the server, if one is watched. `tick` is told
/// the seconds that have passed.
pub fn watch(bench: &Bench, seconds: f64, mut tick: impl FnMut(f64)) -> Vec<(f64, f64)> {
    let pause = (seconds / SAMPLES_MAX).max(LOOK_SECONDS_MIN);
    let started = Instant::now();
    let mut samples = Vec::new();
    loop {
        let passed = started.elapsed().as_secs_f64();
        if let Some(server) = &bench.server
            && let Some(bytes) = probe::resident(server.pid)
        {
            samples.push((passed, bytes as f64 / 1e6));
        }
        tick(passed);
        let left = seconds - passed;
        if left <= 0.0 {
            return samples;
        }
        thread::sleep(Duration::from_secs_f64(left.min(pause)));
    }
}

/// How fast memory grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// Megabytes per hour.
    pub mb_per_hour: f64,
    /// How far from it the truth may be, in 95 of 100 runs.
    pub give_or_take: f64,
    /// Hours that the samples span.
    pub hours: f64,
}

impl Slope {
    /// The slope of samples, if there are enough of them.
    pub fn of(samples: &[(f64, f64)]) -> Option<Self> {
        let warm = &samples[samples.len() / 3..];
        if warm.len() < 2 * BLOCKS {
            return None;
        }
        let mean = |block: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
            block.iter().map(of).sum::<f64>() / block.len() as f64
        };
        let blocks: Vec<(f64, f64)> = (0..BLOCKS)
            .map(|index| {
                let edge = |index: usize| warm.len() * index / BLOCKS;
                let block = &warm[edge(index)..edge(index + 1)];
                (
                    mean(block, |sample| sample.0 / 3600.0),
                    mean(block, |sample| sample.1),
                )
            })
            .collect();
        let (hours, megabytes) = (
            mean(&blocks, |block| block.0),
            mean(&blocks, |block| block.1),
        );
        let spread: f64 = blocks.iter().map(|block| (block.0 - hours).powi(2)).sum();
        let common: f64 = blocks
            .iter()
            .map(|block| (block.0 - hours) * (block.1 - megabytes))
            .sum();
        let slope = common / spread;
        let rest: f64 = blocks
            .iter()
            .map(|block| (block.1 - megabytes - slope * (block.0 - hours)).powi(2))
            .sum();
        let error = (rest / (BLOCKS - 2) as f64 / spread).sqrt();
        let span = warm[warm.len() - 1].0 - warm[0].0;
        Some(Self {
            mb_per_hour: slope,
            give_or_take: STUDENT_T * error,
            hours: span / 3600.0,
        })
    }

    /// Whether memory grows by more than noise explains.
    pub fn is_leak(&self) -> bool {
        let at_least = self.mb_per_hour - self.give_or_take;
        at_least > 0.0 && at_least * self.hours > GROWTH_MB_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 that look like noise and are always the same.
    fn noise(count: usize) -> impl Iterator<Item = f64> {
        let mut state: u32 = 1;
        (0..count).map(move |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        })
    }

    /// An hour of memory that begins with a warm-up and has `mb_per_hour` and noise on it.
    fn samples(mb_per_hour: f64, noisy: f64) -> Vec<(f64, f64)> {
        let at = |(index, noise): (usize, f64)| {
            let seconds = index as f64 * 3.6;
            let warm_up = if seconds < 600.0 {
                seconds / 10.0
            } else {
                60.0
            };
            let megabytes = 100.0 + warm_up + mb_per_hour * seconds / 3600.0 + noisy * noise;
            (seconds, megabytes)
        };
        noise(1000).enumerate().map(at).collect()
    }

    #[test]
    fn a_leak_is_told_from_noise_and_from_a_warm_up() {
        for (mb_per_hour, noisy, leaks) in [
            (0.0, 0.0, false),
            (0.0, 20.0, false),
            (-5.0, 1.0, false),
            (30.0, 1.0, true),
            (30.0, 20.0, true),
            (3.0, 40.0, false),
            // Less than a megabyte is nobody's leak.
            (0.5, 0.0, false),
        ] {
            let slope = Slope::of(&samples(mb_per_hour, noisy)).unwrap();
            assert_eq!(slope.is_leak(), leaks, "{mb_per_hour} {noisy}: {slope:?}");
            let off = (slope.mb_per_hour - mb_per_hour).abs();
            assert!(off <= slope.give_or_take * 1.5 + 1e-6, "{slope:?}");
        }
        assert_eq!(Slope::of(&samples(1.0, 0.0)[..50]), None);
    }

    #[test]
    fn this_process_is_watched() {
        let bench = crate::fake::watching_bench();
        let mut ticks = 0;
        let samples = watch(&bench, 0.25, |_| ticks += 1);
        // One at once and one at the end, however busy the machine is.
        assert!(samples.len() >= 2 && samples.len() == ticks, "{samples:?}");
        assert!(samples.iter().all(|(_, megabytes)| *megabytes > 1.0));
    }
}
