//! What a load is put on: a cluster, or something that shows what the generator itself does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::Config;

use super::echo::Echo;
use super::scenario::Scenario;
use super::stage::Stage;
use crate::cluster::StepError;

/// Where operations go.
#[derive(Clone)]
pub(crate) enum Target {
    /// A cluster, and the folder of it that the files are in.
    Cluster(Box<Config>, String),
    /// A recorder that answers after a time of its own choice.
    Echo(SocketAddr),
    /// Nowhere: what remains is the generator's own work.
    Nothing,
}

/// The part of a load that this process puts on; all parts together are the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// 0 is the first.
    pub(crate) part: u32,
    /// Parts in all.
    pub(crate) of: u32,
}

/// Numbers of operations: unlike in every thread, client and part.
#[derive(Clone)]
pub(super) struct Numbers {
    pub(super) next: Arc<AtomicU64>,
    pub(super) share: Share,
}

/// One client's end of the load.
pub(super) enum Subject {
    Files(Box<Stage>),
    Echo(Echo),
    Nothing,
}

impl Share {
    /// The load as a whole.
    pub(crate) const WHOLE: Share = Share { part: 0, of: 1 };

    /// Threads of this part.
    pub(super) fn threads(self, scenario: &Scenario) -> u32 {
        scenario.threads.div_ceil(self.of)
    }
}

/// `1/4`: the first of four.
impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(part, of)| Some((part.parse::<u32>().ok()?, of.parse::<u32>().ok()?)));
        match parsed {
            Some((part, of)) if (1..=of).contains(&part) && of <= crate::limits::LOAD_PARTS_MAX => {
                Ok(Share { part: part - 1, of })
            }
            _ => Err(format!(
                "expected PART/PARTS such as 1/4, at most {} parts",
                crate::limits::LOAD_PARTS_MAX
            )),
        }
    }
}

impl Numbers {
    pub(super) fn draw(&self) -> u64 {
        let own = self.next.fetch_add(1, Ordering::Relaxed);
        own * u64::from(self.share.of) + u64::from(self.share.part)
    }
}

impl Subject {
    /// Connects one client; `own` tells it from every other.
    pub(super) async fn open(
        target: &Target,
        scenario: &Scenario,
        own: u64,
        numbers: Numbers,
    ) -> Result<Subject, StepError> {
        Ok(match target {
            Target::Cluster(config, dir) => {
                let stage = Stage::open(config, scenario, dir, own, numbers).await?;
                Subject::Files(Box::new(stage))
            }
            Target::Echo(address) => Subject::Echo(Echo::new(*address, numbers)),
            Target::Nothing => Subject::Nothing,
        })
    }

    /// One operation; the payload bytes it moved.
    ///
    /// # Errors
    /// As it was told.
    pub(super) async fn operate(&self) -> Result<u64, String> {
        match self {
            // Boxed: what a client does is large, and every operation is moved once.
            Subject::Files(stage) => {
                Box::pin(stage.operate()).await.map_err(|error| error.to_string())
            }
            Subject::Echo(echo) => echo.operate().await.map_err(|error| error.to_string()),
            Subject::Nothing => Ok(0),
        }
    }

    /// Ends the session.
    pub(super) async fn close(self) -> Result<(), StepError> {
        match self {
            Subject::Files(stage) => stage.close().await,
            Subject::Echo(_) | Subject::Nothing => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_written_as_people_count() {
        assert_eq!("1/4".parse(), Ok(Share { part: 0, of: 4 }));
        assert_eq!("4/4".parse(), Ok(Share { part: 3, of: 4 }));
        let most = crate::limits::LOAD_PARTS_MAX;
        assert!(format!("1/{most}").parse::<Share>().is_ok());
        for wrong in ["0/4", "5/4", "4", "a/b", "1/", &format!("1/{}", most + 1)] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_two_parts_draw_the_same_number() {
        let numbers = |part| Numbers { next: Arc::default(), share: Share { part, of: 3 } };
        let (first, last) = (numbers(0), numbers(2));
        assert_eq!([first.draw(), first.draw(), last.draw(), last.draw()], [0, 3, 2, 5]);
    }
}
