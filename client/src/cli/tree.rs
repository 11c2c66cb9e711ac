//! Runs work over a tree: directories found while others are worked on, jobs as they arrive.
//!
//! Knows nothing of what a directory or a job is. Everything it starts ends when its future is
//! dropped, so an interrupted command leaves nothing running.

use std::future::Future;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

/// Why a tree was not worked through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// More directories wait than there is room for.
    #[error("more than {0} directories wait to be listed; work on parts of the tree")]
    TooWide(usize),
    /// A task ended in a way it should not.
    #[error("internal error: {0}")]
    Broken(#[from] JoinError),
}

/// Visits directories, `width` at once; each visit returns the directories it found.
///
/// The last found is visited first, so that what waits stays small.
///
/// # Errors
/// [`TreeError::TooWide`] when more than `waiting_max` directories wait.
///
/// # Cancel safety
/// Dropping the future aborts the visits.
pub(crate) async fn visit_all<D, F>(
    roots: Vec<D>,
    width: usize,
    waiting_max: usize,
    visit: impl Fn(D) -> F,
) -> Result<(), TreeError>
where
    F: Future<Output = Vec<D>> + Send + 'static,
    D: Send + 'static,
{
    let mut waiting = roots;
    let mut visits = JoinSet::new();
    loop {
        while visits.len() < width
            && let Some(directory) = waiting.pop()
        {
            visits.spawn(visit(directory));
        }
        match visits.join_next().await {
            None => return Ok(()),
            Some(found) => waiting.extend(found?),
        }
        if waiting.len() > waiting_max {
            return Err(TreeError::TooWide(waiting_max));
        }
    }
}

/// Runs jobs as they arrive, `width` at once, until the channel is closed and all are done.
///
/// # Errors
/// [`TreeError::Broken`] when a job ended in a way it should not.
///
/// # Cancel safety
/// Dropping the future aborts the jobs.
pub(crate) async fn run_jobs<T, F>(
    mut jobs: mpsc::Receiver<T>,
    width: usize,
    run: impl Fn(T) -> F,
) -> Result<(), TreeError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut open = true;
    loop {
        tokio::select! {
            job = jobs.recv(), if open && running.len() < width => match job {
                Some(job) => { running.spawn(run(job)); }
                None => open = false,
            },
            Some(ended) = running.join_next() => ended?,
            else => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A tree in which directory `n` holds directories `2n` and `2n + 1` below 64.
    fn below(n: usize) -> Vec<usize> {
        [2 * n, 2 * n + 1].into_iter().filter(|&child| child < 64).collect()
    }

    #[tokio::test]
    async fn every_directory_is_visited_once_and_few_at_a_time() {
        let seen = Arc::new([const { AtomicUsize::new(0) }; 64]);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        visit_all(vec![1], 3, 64, |n| {
            let (seen, now, most) = (seen.clone(), now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                seen[n].fetch_add(1, Ordering::SeqCst);
                now.fetch_sub(1, Ordering::SeqCst);
                below(n)
            }
        })
        .await
        .unwrap();
        assert!(seen[1..].iter().all(|count| count.load(Ordering::SeqCst) == 1));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_tree_that_is_too_wide_is_refused() {
        let wide = visit_all(vec![0], 1, 10, |n| async move {
            if n == 0 { (1..12).collect() } else { vec![] }
        });
        assert!(matches!(wide.await, Err(TreeError::TooWide(10))));
    }

    #[tokio::test]
    async fn jobs_run_up_to_the_width_and_all_end() {
        let (send, receive) = mpsc::channel(1);
        let done = Arc::new(AtomicUsize::new(0));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Each job waits for three others, so fewer at once would never end.
        let four = Arc::new(tokio::sync::Barrier::new(4));
        let feed = async move {
            for n in 0..100 {
                send.send(n).await.unwrap();
            }
        };
        let work = run_jobs(receive, 4, |_| {
            let (done, now, most) = (done.clone(), now.clone(), most.clone());
            let four = four.clone();
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                four.wait().await;
                now.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        let ((), result) = tokio::join!(feed, work);
        result.unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 100);
        assert_eq!(most.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_job_that_panics_is_not_taken_for_done() {
        let (send, receive) = mpsc::channel(1);
        let feed = async move { send.send(0).await.unwrap() };
        let work = run_jobs(receive, 4, |_| async { panic!("on purpose") });
        let ((), result) = tokio::join!(feed, work);
        assert!(matches!(result, Err(TreeError::Broken(_))));
    }
}
