//! The kept list of campaigns: one line for each, added to a file.

use std::fs::OpenOptions;
use std::io::{Error, Write};
use std::path::Path;

use protocol::checksum::sum64;

use super::{Campaign, Totals};

/// First line of a new list; the columns are separated by tabs.
const COLUMNS: &str = "# first\tseeds\tmode\tred\tversion\tdigest\n";

/// Adds what a campaign ran to the list in `path`, which is made when it does not exist.
pub(super) fn append(path: &Path, campaign: &Campaign, totals: &Totals) -> Result<(), Error> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut text = line(campaign, totals);
    if file.metadata()?.len() == 0 {
        text.insert_str(0, COLUMNS);
    }
    // One write, so that campaigns that end at the same time keep their lines apart.
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn line(campaign: &Campaign, totals: &Totals) -> String {
    let red = match &totals.red[..] {
        [] => "-".to_owned(),
        red => red.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    };
    let (first, mode) = (campaign.seed_first, campaign.mode.name());
    let (seeds, digest) = (totals.seeds, totals.digest);
    let version = protocol::version::release();
    format!("{first}\t{seeds}\t{mode}\t{red}\t{version}\t{digest:016x}\n")
}

/// What a green run adds to the digest of its campaign, whatever the order they end in.
pub(super) fn part_of_digest(seed: u64, hash: u64) -> u64 {
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..].copy_from_slice(&hash.to_le_bytes());
    sum64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::profile::Mode;

    #[test]
    fn every_campaign_adds_one_line_and_the_first_one_the_columns() -> Result<(), Error> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("seeds.tsv");
        let campaign = Campaign {
            seed_first: 100,
            seeds: 50,
            time: None,
            mode: Mode::Liveness,
            jobs: 2,
            coverage_required: false,
            hashes: false,
            ledger: Some(path.clone()),
            open: Vec::new(),
        };
        let green = Totals { seeds: 50, digest: 7, ..Totals::default() };
        append(&path, &campaign, &green)?;
        let red = Totals { seeds: 30, red: vec![103, 117], ..Totals::default() };
        append(&path, &Campaign { mode: Mode::Unrestricted, ..campaign }, &red)?;
        let version = protocol::version::release();
        let wanted = format!(
            "{COLUMNS}100\t50\tliveness\t-\t{version}\t0000000000000007\n\
             100\t30\tunrestricted\t103,117\t{version}\t0000000000000000\n"
        );
        assert_eq!(std::fs::read_to_string(&path)?, wanted);
        Ok(())
    }

    #[test]
    fn the_digest_depends_on_which_run_had_which_events() {
        let sum = |one: (u64, u64), other: (u64, u64)| {
            part_of_digest(one.0, one.1).wrapping_add(part_of_digest(other.0, other.1))
        };
        assert_eq!(sum((1, 5), (2, 6)), sum((2, 6), (1, 5)));
        assert_ne!(sum((1, 5), (2, 6)), sum((1, 6), (2, 5)));
    }
}
