// SPDX-License-Identifier: GPL-2.0

//! From samples to a cost.

/// What something costs, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Half of the samples are below it: what it usually costs.
    pub median: u64,
    /// The cheapest sample.
    pub min: u64,
    /// The dearest, which an interrupt of the host may have hit.
    pub max: u64,
}

impl Cost {
    /// The cost of `samples`, of which each took the median of `empty` for the measuring itself.
    /// Either may come in any order.
    ///
    /// # Panics
    ///
    /// If there are no samples of either kind.
    pub fn of(samples: &[u64], empty: &[u64]) -> Self {
        let overhead = median(&sorted(empty));
        let samples = sorted(samples);
        let net = |ticks: u64| ticks.saturating_sub(overhead);
        Self {
            median: net(median(&samples)),
            min: net(samples[0]),
            max: net(samples[samples.len() - 1]),
        }
    }
}

fn sorted(samples: &[u64]) -> Vec<u64> {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples
}

/// The median of sorted samples: the lower of the two in the middle, so that it is one of them.
fn median(sorted: &[u64]) -> u64 {
    sorted[(sorted.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_measuring_is_taken_off() {
        let cost = Cost::of(&[130, 1000, 110, 120, 140], &[10, 500, 10]);
        assert_eq!(
            cost,
            Cost {
                median: 120,
                min: 100,
                max: 990
            }
        );
    }

    #[test]
    fn an_outlier_moves_the_maximum_alone() {
        let mut samples = vec![100; 99];
        samples.push(1_000_000);
        assert_eq!(
            Cost::of(&samples, &[0]),
            Cost {
                median: 100,
                min: 100,
                max: 1_000_000
            }
        );
    }

    #[test]
    fn nothing_costs_less_than_nothing() {
        assert_eq!(
            Cost::of(&[5], &[7]),
            Cost {
                median: 0,
                min: 0,
                max: 0
            }
        );
    }

    #[test]
    fn an_even_number_has_a_median_that_was_measured() {
        assert_eq!(Cost::of(&[4, 1, 3, 2], &[0]).median, 2);
    }
}
