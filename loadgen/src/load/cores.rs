//! How busy each processor of this machine is, from `/proc/stat`.

/// Ticks of one processor: all, and those in which it did nothing.
type Ticks = (f64, f64);

/// The counters of every processor at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Cores(Vec<Ticks>);

impl Cores {
    /// The counters now; empty where the system has none.
    pub(super) fn now() -> Cores {
        Cores::parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse(text: &str) -> Cores {
        let own = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
        let ticks = |line: &str| -> Ticks {
            // user nice system idle iowait irq softirq steal; what follows is contained in these.
            let fields: Vec<f64> =
                line.split_whitespace().skip(1).take(8).filter_map(|it| it.parse().ok()).collect();
            (fields.iter().sum(), fields.iter().skip(3).take(2).sum())
        };
        Cores(text.lines().filter(own).map(ticks).collect())
    }

    /// How busy each was since then, in per cent.
    pub(super) fn busy_since(&self, before: &Cores) -> Vec<f64> {
        let busy = |(now, then): (&Ticks, &Ticks)| {
            let (all, idle) = (now.0 - then.0, now.1 - then.1);
            if all > 0.0 { 100.0 * (all - idle) / all } else { 0.0 }
        };
        self.0.iter().zip(&before.0).map(busy).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_is_not_busy() {
        let before =
            Cores::parse("cpu  9 9 9 9\ncpu0 10 0 10 80 0 0 0 0 5 5\ncpu1 0 0 0 0 0 0 0 0\n");
        let after = Cores::parse(
            "cpu  9 9 9 9\ncpu0 35 0 35 120 10 0 0 0 9 9\ncpu1 0 0 0 100 0 0 0 0\nintr 1\n",
        );
        assert_eq!(after.busy_since(&before), [50.0, 0.0]);
        assert_eq!(Cores::parse("").busy_since(&after), [0.0; 0]);
    }
}
