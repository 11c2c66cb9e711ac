//! What the disk shall do wrong, read from a file that a harness rewrites while the node runs.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

/// Operations that go by before the file is looked at again.
const LOOK_EVERY: u32 = 16;

/// What goes wrong; all zero is a sound container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Decides which operations fail and what survives.
    pub(super) seed: u64,
    /// Writes stay in memory until a flush.
    pub(super) unflushed: bool,
    /// Pages, of a thousand, that reach the container before their flush.
    pub(super) early_per_mille: u32,
    /// Unit in which such a page is torn, in bytes; 0 keeps it whole.
    pub(super) tear_bytes: usize,
    /// Reads, of a thousand, that fail.
    pub(super) read_errors_per_mille: u32,
    /// Writes, of a thousand, that fail and write nothing.
    pub(super) write_errors_per_mille: u32,
    /// Writes, of a thousand, that stop in the middle.
    pub(super) short_writes_per_mille: u32,
    /// Flushes of this process that fail, counted from its start.
    pub(super) flush_errors: u64,
    /// How much slower than the device everything is; 0 and 1 are as fast.
    pub(super) slow_factor: u32,
}

impl Orders {
    /// Reads `key = number` lines.
    ///
    /// # Errors
    /// One line that names the line it is about.
    pub(super) fn parse(text: &str) -> Result<Orders, String> {
        let mut orders = Orders::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let wrong = || format!("{line:?}: expected KEY = NUMBER");
            let (key, value) = line.split_once('=').ok_or_else(wrong)?;
            let value: u64 = value.trim().parse().map_err(|_| wrong())?;
            let small = || u32::try_from(value).map_err(|_| wrong());
            match key.trim() {
                "seed" => orders.seed = value,
                "unflushed" => orders.unflushed = value != 0,
                "early_per_mille" => orders.early_per_mille = small()?,
                "tear_bytes" => orders.tear_bytes = small()? as usize,
                "read_errors_per_mille" => orders.read_errors_per_mille = small()?,
                "write_errors_per_mille" => orders.write_errors_per_mille = small()?,
                "short_writes_per_mille" => orders.short_writes_per_mille = small()?,
                "flush_errors" => orders.flush_errors = value,
                "slow_factor" => orders.slow_factor = small()?,
                _ => return Err(wrong()),
            }
        }
        Ok(orders)
    }
}

/// The file, and what it said last.
#[derive(Debug, Default)]
pub(super) struct OrdersFile {
    path: Option<PathBuf>,
    looks: Cell<u32>,
    last: RefCell<(String, Orders)>,
}

impl OrdersFile {
    pub(super) fn new(path: Option<PathBuf>) -> OrdersFile {
        OrdersFile { path, ..OrdersFile::default() }
    }

    /// The orders in force.
    ///
    /// # Cost
    /// Every [`LOOK_EVERY`]th call reads a small file, on the executor's thread.
    pub(super) fn now(&self) -> Orders {
        let look = self.looks.get();
        self.looks.set((look + 1) % LOOK_EVERY);
        if look == 0 {
            self.look();
        }
        self.last.borrow().1.clone()
    }

    /// Takes over what the file says; a file that is missing or wrong changes nothing.
    fn look(&self) {
        let Some(path) = &self.path else { return };
        let Ok(text) = std::fs::read_to_string(path) else { return };
        let mut last = self.last.borrow_mut();
        if last.0 == text {
            return;
        }
        match Orders::parse(&text) {
            Ok(orders) => *last = (text, orders),
            Err(error) => tracing::error!(file = %path.display(), error, "orders not understood"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_nonsense_is_refused() {
        let text = "seed = 7\nunflushed = 1\n\ntear_bytes = 512\nslow_factor = 20\n";
        let expected = Orders {
            seed: 7,
            unflushed: true,
            tear_bytes: 512,
            slow_factor: 20,
            ..Orders::default()
        };
        assert_eq!(Orders::parse(text), Ok(expected));
        for wrong in ["seed", "seed = x", "sed = 1", "slow_factor = 99999999999"] {
            assert!(Orders::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn changed_orders_come_into_force_and_wrong_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders");
        let file = OrdersFile::new(Some(path.clone()));
        let settled = || (0..LOOK_EVERY).map(|_| file.now()).last().unwrap();
        assert_eq!(settled(), Orders::default());
        std::fs::write(&path, "flush_errors = 1").unwrap();
        assert_eq!(settled().flush_errors, 1);
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(settled().flush_errors, 1);
    }
}
