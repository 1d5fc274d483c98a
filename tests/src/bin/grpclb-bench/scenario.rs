//! The five load scenarios and what one run of one of them yields. Says what is sent, not how.

use serde::Serialize;

/// One shape of load: how many connections, streams and bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) connections: u32,
    /// Concurrent streams on each connection.
    pub(crate) streams: u32,
    /// Bytes of the request body, which the backend echoes.
    pub(crate) body: usize,
    /// Calls of one full round; sized so that the fastest proxy burns about a second of CPU.
    pub(crate) calls: u32,
}

pub(crate) const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "100 B, 1 x 100",
        connections: 1,
        streams: 100,
        body: 100,
        calls: 150_000,
    },
    Scenario {
        name: "100 B, 10 x 10",
        connections: 10,
        streams: 10,
        body: 100,
        calls: 120_000,
    },
    Scenario {
        name: "100 B, 100 x 1",
        connections: 100,
        streams: 1,
        body: 100,
        calls: 80_000,
    },
    Scenario {
        name: "4 KB, 10 x 10",
        connections: 10,
        streams: 10,
        body: 4096,
        calls: 80_000,
    },
    Scenario {
        name: "1 MB, 1 x 4",
        connections: 1,
        streams: 4,
        body: 1 << 20,
        calls: 600,
    },
];

/// What one round of one scenario against one proxy cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// User-mode CPU of the proxy, µs a call.
    pub(crate) user_us: f64,
    /// Kernel-mode CPU charged to the proxy, µs a call.
    pub(crate) system_us: f64,
    /// Calls a second that the whole set-up reached.
    pub(crate) calls_per_second: f64,
}

impl Sample {
    pub(crate) fn total_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

/// Median with its range over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` for no values at all.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).expect("four values");
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert!(Spread::of([]).is_none());
    }
}
